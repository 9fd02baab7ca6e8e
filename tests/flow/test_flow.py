"""A message's way, with a real queue below and agents that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from mailflow.delivery.request import Delivery, Done
from mailflow.envelope import ContentFile
from mailflow.queue import Selection
from mailflow.report import Action
from mailflow.store.reader import list_messages, read_content
from tests.fakes.agent import DOWN, LATER, NEVER, RETURNED, TAKEN, FakeAgent
from tests.flow.bench_of_parts import Bench, bench

Story = Callable[[Bench], Coroutine[object, object, None]]


def play(spool: Path, story: Story, agent: FakeAgent | None = None, **parts: object) -> None:
    async def run() -> None:
        async with bench(spool, agent, **parts) as made:
            await story(made)

    asyncio.run(run())


def test_a_message_is_durable_before_its_250_and_gone_when_delivered(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        b.agent.answer = None
        answer = await b.submit("joe@far.example")
        assert answer.code == 250
        await b.queue.write_out()
        (queued,) = list_messages(tmp_path / "spool")
        assert answer.lines[0] == f"Ok: queued as {queued.queue_id}"
        await b.until(lambda: b.agent.open)
        b.agent.finish()
        await b.empty()

    play(tmp_path / "spool", story)


def test_recipients_are_grouped_by_destination_and_bounded(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        await b.submit(*(f"u{n}@one.example" for n in range(5)), "x@two.example", "alice@here.example")
        await b.empty()
        assert sorted(len(recipients) for _, recipients in b.agent.seen) == [1, 1, 2, 3]

    play(tmp_path / "spool", story, recipients_per_delivery=3)


def test_a_deferred_recipient_comes_back_when_it_is_due(tmp_path: Path) -> None:
    agent = FakeAgent(lambda a: LATER if a.startswith("slow") else TAKEN)

    async def story(b: Bench) -> None:
        await b.submit("slow@far.example", "quick@far.example")
        receipt = b.receipt
        await b.until(lambda: len(receipt.reports) == 2)
        assert len(agent.seen) == 1
        b.step(8.0)
        await asyncio.sleep(0.01)
        assert len(agent.seen) == 1, "not before it is due"
        agent.answer = lambda _address: TAKEN
        b.step(4.0)
        await b.empty()
        assert agent.seen[1][1] == ("slow@far.example",)
        report = await receipt.wait(5)
        assert report.ok
        assert [r.attempts for r in report.recipients] == [2, 1]

    play(tmp_path / "spool", story, agent)


def test_a_failure_and_its_bounce_are_one_transaction(tmp_path: Path) -> None:
    agent = FakeAgent(lambda a: NEVER if "far" in a else TAKEN)

    async def story(b: Bench) -> None:
        await b.submit("joe@far.example", content=b"Subject: x\r\nMessage-ID: <1@x>\r\n\r\nbody\r\n")
        await b.empty()
        assert [r for _, r in agent.seen] == [("joe@far.example",), ("alice@here.example",)]

    play(tmp_path / "spool", story, agent)


def test_a_bounce_is_never_bounced(tmp_path: Path) -> None:
    agent = FakeAgent(lambda _address: NEVER)

    async def story(b: Bench) -> None:
        await b.submit("joe@far.example")
        await b.empty()
        assert [r for _, r in agent.seen] == [("joe@far.example",), ("alice@here.example",)]

    play(tmp_path / "spool", story, agent)


def test_no_bounce_to_a_sender_of_ours_that_does_not_exist(tmp_path: Path) -> None:
    agent = FakeAgent(lambda _address: NEVER)

    async def story(b: Bench) -> None:
        await b.submit("joe@far.example", sender="nobody@here.example")
        await b.empty()
        assert len(agent.seen) == 1

    play(tmp_path / "spool", story, agent)


def test_what_an_agent_gives_back_is_tried_again_at_once(tmp_path: Path) -> None:
    facts = iter([RETURNED, TAKEN])
    agent = FakeAgent(lambda _address: next(facts))

    async def story(b: Bench) -> None:
        await b.submit("joe@far.example")
        report = await b.receipt.wait(5)
        assert report.recipients[0].attempts == 1

    play(tmp_path / "spool", story, agent)


@pytest.mark.wish(57)
def test_a_dead_site_leaves_memory_and_loses_nothing(tmp_path: Path) -> None:
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        for _ in range(200):
            await b.submit("joe@down.example")
        agent.answer = lambda _address: DOWN
        agent.finish()
        await b.until(lambda: not b.flow.active)
        assert (await b.queue.counts()).recipients == 200
        assert len(agent.seen) < 20, "what waited was put off without an attempt"
        agent.answer = lambda _address: TAKEN
        b.step(100.0)
        b.step(2.0)
        await b.empty()

    play(tmp_path / "spool", story, agent)


def test_what_memory_has_no_room_for_waits_on_disk_in_order(tmp_path: Path) -> None:
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        for n in range(300):
            await b.submit(f"u{n}@slow.example")
        assert len(b.scheduler) < 60
        while (await b.queue.counts()).recipients:
            agent.finish()
            await asyncio.sleep(0.001)
        order = [int(r[0][1:].partition("@")[0]) for _, r in agent.seen]
        assert order == list(range(300)), "arrival order inside a destination (wish 18), none twice, none lost"

    small = {"jobs": 100, "destination_jobs": 20, "initial_window": 2, "max_window": 2}
    play(tmp_path / "spool", story, agent, scheduler=small)


def test_after_a_crash_everything_undone_is_done_and_nothing_else(tmp_path: Path) -> None:
    spool = tmp_path / "spool"

    async def before(b: Bench) -> None:
        b.agent.answer = lambda a: TAKEN if a == "done@far.example" else LATER
        await b.submit("done@far.example", "late@far.example")
        await b.until(lambda: len(b.receipt.reports) == 2)
        b.agent.answer = None
        await b.submit("open@far.example")
        await b.until(lambda: b.agent.open)
        await b.crash()

    play(spool, before)
    again = FakeAgent()

    async def after(b: Bench) -> None:
        await b.empty()
        assert sorted(r for _, r in again.seen) == [("late@far.example",), ("open@far.example",)]

    play(spool, after, again, skew=100.0)


def test_a_large_message_goes_through_a_file_and_comes_out_whole(tmp_path: Path) -> None:
    kinds = []

    class Looking(FakeAgent):
        def start(self, delivery, done):  # type: ignore[no-untyped-def]
            kinds.append(type(delivery.content))
            content = read_content(tmp_path / "spool", delivery.message.id)
            assert content.endswith(b"\r\n\r\n" + b"x" * 300_000 + b"\r\n")
            assert content.startswith(b"Received: ")
            super().start(delivery, done)

    async def story(b: Bench) -> None:
        content = b"From: a@b.example\r\n\r\n" + b"x" * 300_000 + b"\r\n"
        assert (await b.submit("joe@far.example", content=content)).code == 250
        await b.empty()
        assert kinds == [ContentFile]
        assert b.budget.used == 0

    play(tmp_path / "spool", story, Looking())


def test_content_that_memory_does_not_keep_is_read_back(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        for _ in range(20):
            await b.submit("joe@far.example")
        await b.empty()
        assert len(b.agent.seen) == 20
        assert b.budget.used == 0

    play(tmp_path / "spool", story, content_memory=-1)


def test_a_message_in_a_loop_is_refused(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        answer = await b.submit("joe@far.example", content=b"Received: by x\r\n" * 51 + b"\r\n")
        assert (answer.code, answer.status) == (554, "5.4.6")
        assert b.budget.used == 0

    play(tmp_path / "spool", story)


def test_a_held_message_waits_and_a_deleted_one_is_gone(tmp_path: Path) -> None:
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        for n in range(10):
            await b.submit(f"u{n}@slow.example")
        await b.queue.write_out()
        ids = [m.id for m in list_messages(tmp_path / "spool")]
        b.flow.withdraw(await b.queue.hold(Selection(ids=(ids[8],))))
        b.flow.withdraw(await b.queue.delete(Selection(ids=(ids[9],))))
        while (await b.queue.counts()).recipients > 1:
            agent.finish()
            await asyncio.sleep(0.001)
        assert len(agent.seen) == 8
        (changed,) = await b.queue.release(Selection(ids=(ids[8],)))
        b.flow.wake(changed.destinations[0], probe=False)
        b.flow.pump()
        await b.until(lambda: agent.open)
        agent.finish()
        await b.empty()
        assert agent.seen[-1][1] == ("u8@slow.example",)

    play(tmp_path / "spool", story, agent, scheduler={"initial_window": 2, "max_window": 2})


def test_mail_for_later_waits_on_disk_until_its_time(tmp_path: Path) -> None:
    agent = FakeAgent(lambda _address: TAKEN)

    async def story(b: Bench) -> None:
        await b.submit("later@far.example", "me@else.example", release=b.now() + 100.0)
        receipt = b.receipt
        await b.submit("now@far.example")
        await b.until(lambda: agent.seen)
        await b.until(lambda: len(list(list_messages(tmp_path / "spool"))) == 1)
        (listed,) = list_messages(tmp_path / "spool")
        assert {(r.state, r.reason) for r in listed.recipients} == {
            ("deferred", "the sender asked for a later delivery")
        }
        b.step(98.0)
        await asyncio.sleep(0.01)
        assert len(agent.seen) == 1, "not before its time"
        b.step(3.0)
        await b.empty()
        assert [r.attempts for r in (await receipt.wait(5)).recipients] == [1, 1]
        assert b.flow.active == 0

    play(tmp_path / "spool", story, agent)


def test_mail_for_later_is_kept_over_a_restart(tmp_path: Path) -> None:
    async def before(b: Bench) -> None:
        await b.submit("later@far.example", release=b.now() + 100.0)
        await b.crash()

    async def after(b: Bench) -> None:
        await asyncio.sleep(0.01)
        assert not b.agent.seen
        b.step(101.0)
        await b.empty()
        assert [recipients for _, recipients in b.agent.seen] == [("later@far.example",)]

    play(tmp_path / "spool", before)
    play(tmp_path / "spool", after)


def test_mail_that_policy_holds_waits_until_it_is_released(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        await b.submit("u@far.example", hold="looks odd", header=b"X-Odd: very\r\n")
        (listed,) = list_messages(tmp_path / "spool")
        assert [(r.state, r.reason) for r in listed.recipients] == [("held", "looks odd")]
        b.step(1000.0)
        await asyncio.sleep(0.01)
        assert not agent.seen
        (changed,) = await b.queue.release(Selection(ids=(listed.id,)))
        b.flow.wake(changed.destinations[0], probe=False)
        b.flow.pump()
        await b.until(lambda: agent.open)
        content = agent.open[0][0].content
        assert content.startswith(b"Received:")
        assert b"\r\nX-Odd: very\r\nSubject:" in content
        agent.finish()
        await b.empty()

    agent = FakeAgent(None)
    play(tmp_path / "spool", story, agent)


@pytest.mark.parametrize("command", ["hold", "delete"])
def test_what_is_withdrawn_during_an_attempt_is_not_tried_again(tmp_path: Path, command: str) -> None:
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        await b.submit("joe@far.example")
        await b.until(lambda: agent.open)
        change = b.queue.hold if command == "hold" else b.queue.delete
        (changed,) = await change(Selection(everything=True))
        b.flow.withdraw([changed])
        agent.answer = lambda _address: RETURNED
        agent.finish()
        await b.until(lambda: not b.flow.active)
        assert len(agent.seen) == 1
        assert b.budget.used == 0
        agent.answer = lambda _address: TAKEN
        for changed in await b.queue.release(Selection(everything=True)):
            b.flow.wake(changed.destinations[0], probe=False)
        b.flow.pump()
        await b.empty()
        assert len(agent.seen) == (2 if command == "hold" else 1)

    play(tmp_path / "spool", story, agent)


def test_what_is_released_during_the_same_attempt_is_not_forgotten(tmp_path: Path) -> None:
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        await b.submit("joe@far.example")
        await b.until(lambda: agent.open)
        for change in (b.queue.hold, b.queue.release):
            (changed,) = await change(Selection(everything=True))
            b.flow.withdraw([changed])
        b.flow.wake(changed.destinations[0], probe=False)
        facts = iter([RETURNED, TAKEN])
        agent.answer = lambda _address: next(facts)
        agent.finish()
        await b.empty()
        assert len(agent.seen) == 2

    play(tmp_path / "spool", story, agent)


def test_closing_gives_no_answer_but_421(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        await b.flow.close(0.0)
        assert (await b.submit("joe@far.example")).code == 421
        assert b.flow.room(10).code == 421

    play(tmp_path / "spool", story)


def test_who_is_named_twice_gets_one_copy(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        await b.submit("joe@far.example", "ann@far.example", "joe@far.example")
        await b.empty()
        assert [r for _, r in b.agent.seen] == [("joe@far.example", "ann@far.example")]

    play(tmp_path / "spool", story)


def test_a_sender_without_domain_is_completed(tmp_path: Path) -> None:
    senders = []

    class Looking(FakeAgent):
        def start(self, delivery, done):  # type: ignore[no-untyped-def]
            senders.append(delivery.message.sender)
            super().start(delivery, done)

    async def story(b: Bench) -> None:
        await b.submit("joe@far.example", sender="alice")
        await b.submit("joe@far.example", sender="")
        await b.empty()
        assert sorted(senders) == ["", "alice@here.example"]

    play(tmp_path / "spool", story, Looking())


class Broken(FakeAgent):
    """Raises where it must not: before or after it has said what became of a delivery."""

    def start(self, delivery: Delivery, done: Done) -> None:
        if "late" in delivery.recipients[0].address:
            delivery.fail(TAKEN)
            done(delivery)
        raise RuntimeError("a mistake in the agent")


@pytest.mark.parametrize("memory", [10**6, 0])
def test_an_agent_that_raises_gives_its_slot_and_memory_back(tmp_path: Path, memory: int) -> None:
    """`memory` 0: the content is read back for the attempt."""

    async def story(b: Bench) -> None:
        if not memory:
            b.budget.used = 1  # nothing is kept as it comes in
        for n in range(20):
            await b.submit(f"u{n}@far.example", content=b"Subject: x\r\n\r\n" + b"x" * 70_000)
        await b.until(lambda: len(b.receipt.reports) == 1)
        (report,) = b.receipt.reports.values()
        assert (report.action, report.status) == (Action.DELAYED, "4.3.0")
        assert report.reason == "error in the mail system itself"
        assert b.scheduler.running == 0
        await b.submit("late@far.example")
        assert (await b.receipt.wait(5)).ok
        assert b.scheduler.running == 0
        assert b.budget.used == (0 if memory else 1)
        assert (await b.queue.counts()).deferred == 20

    play(tmp_path / "spool", story, Broken(), content_memory=memory or 1)
    assert "RuntimeError: a mistake in the agent" in (tmp_path / "log").read_text()
