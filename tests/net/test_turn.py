"""Writes of one turn of the loop: together, in order, and each for itself."""

from __future__ import annotations

import asyncio

from mailflow.net.turn import Turn


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


def test_one_that_fails_keeps_no_other_waiting() -> None:
    async def main() -> None:
        said: list[str] = []
        failed: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(str(context["exception"])))
        turn = Turn()
        turn.add(Writer("broken", said, broken=True))
        turn.add(Writer("next", said))
        await asyncio.sleep(0)
        assert (said, failed) == (["next"], ["broken"])

    asyncio.run(main())
