"""The server's look at its own queue: what it tells, what it mends, and that it gets out of the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailflow.queue import Queue
from mailflow.selfcheck import TOLD, SelfCheck
from tests.queue.helpers import everything, hide, make, put, with_queue


class Told:
    """A journal that is read by the test."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, bool]] = []
        self.line = asyncio.Event()

    def inspected(self, finding: str, *, mended: bool = False) -> None:
        self.lines.append((finding, mended))
        self.line.set()


async def nobody() -> None:
    raise AssertionError("there is nothing to be taken up")


async def _fill(queue: Queue) -> None:
    for _ in range(10):
        await put(queue, make(queue))


@pytest.mark.wish(82)
def test_mail_that_its_index_does_not_show_is_found_and_taken_up(tmp_path: Path) -> None:
    with_queue(tmp_path, _fill)
    hide(tmp_path)

    async def body(queue: Queue) -> None:
        told, taken_up = Told(), asyncio.Event()
        assert await everything(queue) == []

        async def take_up() -> None:
            assert len(await everything(queue)) == 10
            taken_up.set()

        check = SelfCheck(queue, told, 1000.0, take_up)
        check.start()
        await taken_up.wait()
        await check.close()
        assert told.lines == [("its indexes were damaged and have been made anew", True)]

    with_queue(tmp_path, body)


def test_what_it_cannot_mend_is_told_in_a_few_lines(tmp_path: Path) -> None:
    with_queue(tmp_path, _fill)

    async def body(queue: Queue) -> None:
        told = Told()
        queue._store.db.execute("UPDATE message SET remaining = 2")
        check = SelfCheck(queue, told, 1000.0, nobody)
        check.start()
        while len(told.lines) <= TOLD:
            told.line.clear()
            await told.line.wait()
        await check.close()
        assert all("says that 2 of its recipients are left, and has 1" in line for line, _ in told.lines[:TOLD])
        assert told.lines[TOLD:] == [("10 findings in all", False)]

    with_queue(tmp_path, body)


@pytest.mark.interpreted("a method is replaced")
def test_a_whole_queue_is_looked_at_again_and_again_and_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(queue: Queue) -> None:
        await _fill(queue)
        told, looks, third = Told(), list[object](), asyncio.Event()
        inspect = queue.inspect

        async def look() -> list[object]:
            looks.append(found := await inspect())
            if len(looks) == 3:
                third.set()
            return found  # type: ignore[return-value]

        monkeypatch.setattr(queue, "inspect", look)
        check = SelfCheck(queue, told, 0.001, nobody)
        check.start()
        await third.wait()
        await check.close()
        assert (looks[:3], told.lines) == ([[], [], []], [])

    with_queue(tmp_path, body)


def test_never_means_never_and_closing_breaks_a_look_off(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        never = SelfCheck(queue, Told(), 0.0, nobody)
        never.start()
        await never.close()
        check = SelfCheck(queue, told := Told(), 1000.0, nobody)
        check.start()
        await asyncio.sleep(0)  # it has begun
        await check.close()
        assert told.lines == []

    with_queue(tmp_path, body)
