"""Orders of events that seldom happen: nothing is stuck, sent to the wrong host, sent twice, or failed for another's fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from mailflow.delivery.request import Fact, Stage, Trouble
from mailflow.envelope import InboundEnvelope, Message, Options, Peer
from mailflow.errors import QueueError
from mailflow.flow import Flow
from mailflow.intake import Incoming
from mailflow.queue import Queue
from mailflow.report import HostAttempt
from mailflow.smtp.reply import Reply, reply
from mailflow.store.reader import list_messages
from tests.fakes.agent import DOWN, LATER, NEVER, RETURNED, TAKEN, FakeAgent
from tests.flow.bench_of_parts import Bench
from tests.flow.test_flow import play

HOST = HostAttempt("mx.far.example", "192.0.2.1", 25, "", 0.0, 0.1)
LOST = Fact(Stage.RCPT, trouble=Trouble.LOST, host=HOST)


def test_after_a_restart_each_destination_gets_its_own_recipients_only(tmp_path: Path) -> None:
    """A message's recipients come from disk destination by destination, while the first ones are under way."""
    addresses = [f"u{n}@d{n % 5}.example" for n in range(15)]

    async def before(b: Bench) -> None:
        await b.submit(*addresses)
        await b.crash()

    play(tmp_path / "spool", before, FakeAgent(None))
    again = FakeAgent(None)

    async def after(b: Bench) -> None:
        await b.until(lambda: len(again.seen) == 5)
        await asyncio.sleep(0.01)
        for delivery, _ in again.open:
            assert {r.destination for r in delivery.recipients} == {f"smtp:{delivery.next_hop}"}
        again.finish()
        await b.empty()
        assert sorted(a for _, some in again.seen for a in some) == sorted(addresses)

    play(tmp_path / "spool", after, again)


def test_mail_that_waits_for_a_dead_site_does_not_fail_for_another_recipients_fault(tmp_path: Path) -> None:
    """The delivery after which the site counts as dead had an unknown user, too: that is his alone."""
    facts = {"gone@far.example": NEVER, "first@far.example": LOST}
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        await b.submit("gone@far.example", "first@far.example")
        for n in range(10):
            await b.submit(f"u{n}@far.example")
        agent.answer = lambda address: facts.get(address, LATER)
        agent.finish()
        await asyncio.sleep(0.05)
        agent.answer = lambda _address: TAKEN
        for _ in range(10):
            b.step(60.0)
            await asyncio.sleep(0.02)
        seen = [a for _, some in agent.seen for a in some]
        assert {f"u{n}@far.example" for n in range(10)} < set(seen), "each had its own attempt"

    one = {"initial_window": 1, "max_window": 1, "dead_after": 1}
    play(tmp_path / "spool", story, agent, scheduler=one)


def test_what_a_dead_site_gives_back_unattempted_is_not_stuck(tmp_path: Path) -> None:
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        await b.submit("a@far.example")
        await b.submit("b@far.example")
        await b.until(lambda: len(agent.open) == 2)
        first, second = agent.open
        agent.open = []
        first[0].facts = [DOWN]
        first[1](first[0])
        assert b.scheduler.is_dead("smtp:far.example")
        second[0].facts = [RETURNED]
        second[1](second[0])
        agent.answer = lambda _address: TAKEN
        await asyncio.sleep(0.05)
        b.step(200.0)
        await b.empty()

    play(tmp_path / "spool", story, agent, scheduler={"initial_window": 2, "dead_after": 1})


@pytest.mark.wish(46)
def test_a_flush_reaches_a_dead_site_at_once(tmp_path: Path) -> None:
    agent = FakeAgent(lambda _address: DOWN)

    async def story(b: Bench) -> None:
        await b.submit("a@far.example")
        await b.until(lambda: not b.flow.active)
        b.step(20.0)  # due, but no probe yet
        await asyncio.sleep(0.05)
        assert len(agent.seen) == 1
        agent.answer = lambda _address: TAKEN
        b.flow.wake("smtp:far.example", probe=True)
        b.flow.pump()
        await b.empty()

    play(tmp_path / "spool", story, agent, scheduler={"dead_after": 1, "probe": (500.0, 1000.0)})


def test_a_consequence_that_the_store_refuses_is_tried_again(tmp_path: Path) -> None:
    """And the message's other recipients are not taken for its last ones."""
    unwritable = Fact(Stage.RCPT, reply(450, "4.2.0", "\ud800"))
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        await b.submit("a@one.example", "b@one.example", "c@two.example")
        await b.until(lambda: len(agent.open) == 2)
        answers = {"a@one.example": unwritable, "b@one.example": TAKEN, "c@two.example": LATER}
        agent.answer = answers.__getitem__
        agent.finish()
        await b.until(lambda: not b.flow.active)
        (message,) = list_messages(tmp_path / "spool")
        assert message.remaining == 3
        agent.answer = lambda _address: TAKEN
        b.step(200.0)
        await b.empty()

    play(tmp_path / "spool", story, agent)


def test_a_refused_message_keeps_no_memory_while_the_rest_of_it_arrives(tmp_path: Path) -> None:
    async def story(b: Bench) -> None:
        envelope = InboundEnvelope(Peer(), "", [], Options(), trusted=True)
        incoming = b.flow.begin(envelope)
        assert isinstance(incoming, Incoming)
        for chunk in [b"Received: by x\r\n" * 51 + b"\r\n", *[b"x" * 60_000] * 20]:
            assert incoming.write(chunk)
        assert b.budget.used < 150_000
        answers: list[Reply] = []
        incoming.finish(answers.append)
        assert answers[0].code == 554
        assert b.budget.used == 0

    play(tmp_path / "spool", story)


def test_a_file_of_a_message_that_the_queue_refuses_is_free_again(tmp_path: Path) -> None:
    """The write buffer is full when a large message is complete: its client hears 451 and its file is used again."""
    content = b"Subject: x\r\n\r\n" + b"x" * 300_000 + b"\r\n"

    async def story(b: Bench) -> None:
        b.queue.settings = b.queue.settings.model_copy(update={"write_buffer": -1})
        for _ in range(3):
            answer = await b.submit("joe@far.example", content=content)
            assert answer.code == 451
            await asyncio.sleep(0.02)  # the file is given back in a thread
        files = [path.name for path in (tmp_path / "spool" / "content").iterdir()]
        assert len(files) == 1

    play(tmp_path / "spool", story)


def test_mail_left_on_disk_comes_back_whatever_loads_are_under_way(tmp_path: Path) -> None:
    """Loads of many destinations overlap without a pause: what left memory before a load is not struck from it."""
    agent = FakeAgent(None)
    small = {"jobs": 40, "destination_jobs": 4, "initial_window": 2, "max_window": 2}

    async def story(b: Bench) -> None:
        for n in range(400):
            await b.submit(f"u{n}@d{n % 20}.example")
            if n % 7 == 0:
                agent.finish()
        async with asyncio.timeout(20):
            while (await b.queue.counts()).recipients:
                agent.finish()
                await asyncio.sleep(0.001)
        seen = [a for _, some in agent.seen for a in some]
        assert sorted(seen) == sorted({f"u{n}@d{n % 20}.example" for n in range(400)})

    play(tmp_path / "spool", story, agent, scheduler=small)


class LateQueue:
    """A queue whose answers to `enqueue` come late, as when the reader's thread is ahead of the writer's."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.answers: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.queue, name)

    def enqueue(self, message: Message, done: Callable[[QueueError | None], None]) -> None:
        self.queue.enqueue(message, lambda error: self.answers.append(lambda: done(error)))


@pytest.mark.interpreted("a queue of another class")
def test_a_message_that_a_load_shows_before_its_commit_is_told_goes_out_once(tmp_path: Path) -> None:
    """Deferred mail for the same destination is fetched while a new message is being committed."""
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        late = LateQueue(b.queue)
        b.flow = Flow(replace(b.flow.parts, queue=cast("Queue", late)))
        answer = asyncio.ensure_future(b.submit("joe@far.example", "ann@far.example", "eve@other.example"))
        await b.until(lambda: late.answers)
        b.flow.wake("smtp:far.example", probe=False)
        b.flow.pump()
        await b.until(lambda: agent.seen)
        late.answers.pop()()
        assert (await answer).code == 250
        while (await b.queue.counts()).recipients:
            agent.finish()
            b.flow.pump()
            await asyncio.sleep(0.001)
        assert sorted(a for _, some in agent.seen for a in some) == [
            "ann@far.example",
            "eve@other.example",
            "joe@far.example",
        ]
        await b.until(lambda: not b.flow.active)  # the disk may be seen before the answer
        assert b.budget.used == 0

    play(tmp_path / "spool", story, agent)
