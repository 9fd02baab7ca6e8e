"""The time by which mail waits: it follows slewing, and keeps still when the clock is set."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailflow.delivery.request import Delivery
from mailflow.envelope import Message, Peer, Recipient
from mailflow.queuetime import QueueTime
from mailflow.settle import RetryPolicy, conclude
from tests.fakes.agent import LATER, TAKEN, FakeAgent
from tests.flow.bench_of_parts import Bench
from tests.flow.test_flow import play

DAY = 86_400.0


def test_it_follows_a_clock_that_is_slewed_and_not_one_that_is_set() -> None:
    wall, clock, steps = [1000.0], [0.0], list[float]()
    time = QueueTime(lambda: wall[0], lambda: clock[0], steps.append)
    for _ in range(100):
        wall[0] += 10.01
        clock[0] += 10.0
        assert time.look() == pytest.approx(wall[0])
    assert (steps, time.skew) == ([], 0.0)
    for by in (DAY, -3 * DAY):
        before = time.now()
        wall[0] += by
        assert time.look() == pytest.approx(before)
    assert steps == pytest.approx([DAY, -3 * DAY])
    assert time.skew == pytest.approx(-2 * DAY)


@pytest.mark.parametrize("leap", [DAY, -DAY])
def test_waiting_mail_keeps_its_wait_when_the_clock_is_set(tmp_path: Path, leap: float) -> None:
    agent = FakeAgent(lambda _address: LATER)
    set_by = [0.0]

    async def story(b: Bench) -> None:
        await b.submit("joe@far.example")
        await b.until(lambda: not b.flow.active)
        set_by[0] = leap
        b.step(5.0)
        await b.submit("ann@far.example")  # deferred after the leap, and found again all the same
        await b.until(lambda: not b.flow.active)
        assert len(agent.seen) == 2, "neither is due yet"
        agent.answer = lambda _address: TAKEN
        b.step(7.0)
        await b.until(lambda: len(agent.seen) == 3)
        b.step(7.0)
        await b.empty()
        assert [r for _, r in agent.seen[2:]] == [("joe@far.example",), ("ann@far.example",)]
        await b.until(lambda: "the clock was set" in (tmp_path / "log").read_text())

    start = 1_800_000_000.0

    def wall() -> float:
        return start + asyncio.get_running_loop().time() % 10**6 + skew[0] + set_by[0]

    skew = [0.0]
    play(tmp_path / "spool", lambda b: _with(b, skew, story), agent, now=wall)


async def _with(b: Bench, skew: list[float], story) -> None:  # type: ignore[no-untyped-def]
    """The wall clock of the story moves with the bench's steps."""
    step = b.step

    def both(seconds: float) -> None:
        skew[0] += seconds
        step(seconds)

    b.step = both  # type: ignore[method-assign]
    await story(b)


@pytest.mark.parametrize(
    ("arrived", "ends"), [(-4 * DAY, False), (-6 * DAY, True), (364 * DAY, False), (355 * DAY, True)]
)
def test_a_clock_that_was_set_ends_no_message_s_life_early(arrived: float, ends: bool) -> None:
    """It is the year after by the wall clock; messages came before the leap, or after it."""
    now, year = 1_800_000_000.0, 365 * DAY
    policy = RetryPolicy(300.0, 7200.0, 5 * DAY, 5 * DAY, skew=year)
    recipient = Recipient(0, "joe@x.example", "smtp:x", attempts=3)
    message = Message(7, "a@b.example", [recipient], b"", arrived=now + arrived, size=1, peer=Peer())
    delivery = Delivery(message, [recipient], "smtp", "x", b"", 0.0)
    delivery.facts = [LATER]
    conclusion = conclude(delivery, policy, now + year, 1.0)
    assert bool(conclusion.done) is ends
    if not ends:
        assert now + 2000 < recipient.due < now + 7200, "in the queue's time"


@pytest.mark.parametrize("deferred", [False, True])
def test_a_clock_that_was_a_day_ahead_before_the_restart_keeps_no_mail_back(tmp_path: Path, deferred: bool) -> None:
    agent = FakeAgent((lambda _address: LATER) if deferred else None)

    async def before(b: Bench) -> None:
        await b.submit("joe@far.example")
        await b.until(lambda: agent.seen and not (deferred and b.flow.active))
        await b.crash()

    async def after(b: Bench) -> None:
        await b.empty()

    play(tmp_path / "spool", before, agent)
    agent.answer = lambda _address: TAKEN
    play(tmp_path / "spool", after, agent, skew=-DAY)
