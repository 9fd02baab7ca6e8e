"""Messages with many recipients in memory: who is there, room for more, and what each recipient costs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.crowds import ENDED, SLICE, WINDOWS, Crowds
from mailflow.envelope import Message, Peer, Recipient
from tests.fakes.agent import TAKEN, FakeAgent
from tests.flow.bench_of_parts import Bench
from tests.flow.test_flow import play

FEW = 3
MOST = WINDOWS * FEW
SOURCES = {"flow.py", "crowds.py", "loader.py", "backlog.py", "readback.py", "core.py", "destination.py"}
AT_ONCE = 50


def message(number: int = 1) -> Message:
    return Message(number, "", [], None, arrived=1.0, size=1, peer=Peer())


def some(*numbers: int, destination: str = "smtp:a") -> list[Recipient]:
    return [Recipient(n, f"u{n}@a", destination) for n in numbers]


def test_few_recipients_are_no_crowd_and_the_lists_of_deliveries_are_left_alone() -> None:
    crowds, letter, delivery = Crowds(FEW, 1), message(), some(0, 1)
    crowds.join(letter, delivery)
    assert crowds.missing(letter, some(0, 1, 2)) == some(2)
    crowds.join(letter, some(2))
    assert crowds.leave(letter, some(1))
    assert letter.recipients == some(0, 2)
    assert delivery == some(0, 1)
    assert not crowds
    assert not crowds.leave(letter, some(0, 2))


def test_a_crowd_has_room_when_attempts_are_over_and_its_memory_when_they_are_on_disk() -> None:
    crowds, letter = Crowds(FEW, 1), message()
    crowds.join(letter, some(*range(MOST)))
    assert crowds.slice("smtp:a", 1000) == 0
    assert crowds.slice("smtp:b", 1000) == SLICE
    crowds.ended(letter, some(0))
    assert crowds.slice("smtp:a", 1000) == SLICE
    assert crowds.slice("smtp:a", 7) == 7
    assert crowds.missing(letter, some(0, MOST)) == some(MOST), "it is in memory still: a slice may show it as it was"
    assert crowds.leave(letter, some(0))
    assert not crowds.leave(letter, some(*range(1, MOST)))
    assert not crowds


def test_what_waits_for_the_disk_has_a_bound() -> None:
    crowds, letter = Crowds(FEW, 1), message()
    numbers = some(*range(ENDED * MOST))
    crowds.join(letter, numbers)
    crowds.ended(letter, numbers[1:])
    assert crowds.slice("smtp:a", 1000) == SLICE
    crowds.ended(letter, numbers[:1])
    assert crowds.slice("smtp:a", 1000) == 0, "a disk that does not answer must not fill memory"
    crowds.leave(letter, numbers)
    assert crowds.slice("smtp:a", 1000) == SLICE


@given(st.lists(st.tuples(st.sampled_from("jel"), st.integers(1, 2), st.integers(0, 11)), max_size=80))
def test_whoever_joins_and_leaves_nothing_is_left_over(operations: list[tuple[str, int, int]]) -> None:
    crowds, letters = Crowds(FEW, 1), {1: message(1), 2: message(2)}
    here: dict[int, set[int]] = {1: set(), 2: set()}
    for kind, key, number in operations:
        one = some(number, destination=f"smtp:{number % 3}")
        assert bool(crowds.missing(letters[key], one)) == (number not in here[key])
        if kind == "j" and number not in here[key]:
            crowds.join(letters[key], one)
            here[key].add(number)
        elif kind == "e" and number in here[key]:
            crowds.ended(letters[key], one)
        elif kind == "l" and number in here[key]:
            here[key].discard(number)
            assert crowds.leave(letters[key], one) == bool(here[key])
    for key, numbers in here.items():
        crowds.leave(letters[key], [r for n in numbers for r in some(n, destination=f"smtp:{n % 3}")])
    assert repr(crowds) == repr(Crowds(FEW, 1))


async def lines_run(b: Bench, recipients: int) -> float:
    """Lines of the flow's own files that run for each recipient of a list to as many destinations."""
    lines = done = 0
    agent = b.agent

    def each_line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"  # a turn of a comprehension counts as well
        return each_line

    def each_call(frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        return each_line if "/mailflow/" in file and file.rpartition("/")[2] in SOURCES else None

    before = sys.gettrace()
    sys.settrace(each_call)
    try:
        await b.submit(*(f"u@d{n}.example" for n in range(recipients)))
        while done < recipients:
            await b.until(lambda: agent.open)
            now, agent.open[:AT_ONCE] = agent.open[:AT_ONCE], []
            for delivery, finished in now:
                delivery.fail(TAKEN)
                finished(delivery)
                done += 1
            await asyncio.sleep(0)
    finally:
        sys.settrace(before)
    await b.empty()
    return lines / recipients


@pytest.mark.wish(37)
@pytest.mark.interpreted("lines are counted")
def test_a_recipient_of_a_list_to_many_sites_costs_the_same_however_long_the_list_is(tmp_path: Path) -> None:
    """More sites than memory has room for: most wait on disk and come one by one beside thousands in memory."""
    costs: list[float] = []
    for n, recipients in enumerate((500, 10_000)):

        async def story(b: Bench, recipients: int = recipients) -> None:
            costs.append(await lines_run(b, recipients))

        play(tmp_path / str(n), story, FakeAgent(None), scheduler={"jobs": 4000})
    assert costs[1] < 2.5 * costs[0], costs  # five times, where each slice looks at all that are in memory
