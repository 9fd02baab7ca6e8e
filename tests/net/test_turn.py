"""Reads and writes of one turn of the loop: first all reads, then all writes, in order, and each for itself."""

from __future__ import annotations

import asyncio

import pytest

from mailflow.net.turn import Turn

pytestmark = pytest.mark.interpreted("connections of other classes")


class Writer:
    def __init__(self, name: str, said: list[str], *, broken: bool = False) -> None:
        self.name, self.said, self.broken = name, said, broken

    def flush(self) -> None:
        if self.broken:
            raise RuntimeError(self.name)
        self.said.append(self.name)


def test_what_is_written_waits_for_the_end_of_the_turn_and_leaves_in_order() -> None:
    async def main() -> None:
        said: list[str] = []
        turn = Turn()
        for name in "abc":
            turn.add(Writer(name, said))
        assert not said
        await asyncio.sleep(0)
        assert said == ["a", "b", "c"]
        turn.add(Writer("d", said))
        await asyncio.sleep(0)
        assert said[3:] == ["d"], "each once, and the next turn anew"

    asyncio.run(main())


class Reader(Writer):
    """Has something to say for what it was told, or hands it on."""

    def __init__(self, name: str, said: list[str], *, on: Turn | None = None, to: Reader | None = None) -> None:
        super().__init__(name, said)
        self.on, self.to = on, to

    def take(self) -> bool:
        self.said.append("read " + self.name)
        if self.on is not None and self.to is not None:
            self.on.read(self.to)
            return False
        return True


class BrokenReader(Reader):
    def take(self) -> bool:
        raise RuntimeError(self.name)


def test_all_is_read_before_anything_is_written() -> None:
    async def main() -> None:
        said: list[str] = []
        turn = Turn()
        turn.read(Reader("a", said))
        turn.add(Writer("b", said))
        turn.read(Reader("c", said))
        assert not said
        await asyncio.sleep(0)
        assert said == ["read a", "read c", "b", "a", "c"]

    asyncio.run(main())


def test_what_one_reader_hands_on_to_another_is_read_in_the_next_turn() -> None:
    async def main() -> None:
        said: list[str] = []
        turn = Turn()
        turn.read(Reader("layer", said, on=turn, to=Reader("upper", said)))
        await asyncio.sleep(0)
        assert said == ["read layer"]
        await asyncio.sleep(0)
        assert said == ["read layer", "read upper", "upper"]

    asyncio.run(main())


@pytest.mark.parametrize("reading", [False, True], ids=["writing", "reading"])
def test_one_that_fails_keeps_no_other_waiting(reading: bool) -> None:
    async def main() -> None:
        said: list[str] = []
        failed: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(str(context["exception"])))
        turn = Turn()
        if reading:
            turn.read(BrokenReader("broken", said))
            turn.read(Reader("next", said))
        else:
            turn.add(Writer("broken", said, broken=True))
            turn.add(Writer("next", said))
        await asyncio.sleep(0)
        assert (said, failed) == ([*["read next"] * reading, "next"], ["broken"])

    asyncio.run(main())
