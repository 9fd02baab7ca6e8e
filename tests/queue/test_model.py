"""The queue against a dict: any sequence of operations, restarts and crashes gives what the dict says."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from mailflow.envelope import HELD, Message, Peer, Recipient
from mailflow.queue import Queue, QueueSettings, Selection
from tests.queue.helpers import put, settle

DESTINATIONS = ("smtp:a.example", "smtp:b.example", "local:c")
NOW = 1_800_000_000.0
destinations = st.sampled_from(DESTINATIONS)
dues = st.sampled_from([0.0, NOW - 5, NOW, NOW + 5, NOW + 500])
Key = tuple[int, int]


class QueueModel(RuleBasedStateMachine):
    """`rows` is the model: (message id, recipient number) → [destination, due, attempts]."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.generation = 0
        self.runner = asyncio.Runner()
        self.rows: dict[Key, list[Any]] = {}
        self.contents: dict[int, bytes] = {}
        self.open()

    @property
    def spool(self) -> Path:
        return self.folder / str(self.generation)

    def open(self) -> None:
        self.queue: Queue = self.runner.run(
            Queue.open(self.spool, QueueSettings(segment_threshold=10), now=lambda: NOW)
        )

    def teardown(self) -> None:
        self.runner.run(self.queue.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def message(self, number: int) -> Message:
        """A message as it may be known in memory, its recipients complete."""
        its = [Recipient(k[1], "x", r[0], due=r[1], attempts=r[2]) for k, r in self.rows.items() if k[0] == number]
        return Message(number, "s", its, None, arrived=1.0, size=0, peer=Peer())

    def fresh(self, to: list[str], due: float) -> Message:
        number = self.queue.new_id()
        assert number not in self.contents, "an id came twice"
        self.contents[number] = content = str(number).encode() * (number % 5) * (1 + number % 3 * 100)
        recipients = [Recipient(i, f"r{i}", d, due=due) for i, d in enumerate(to)]
        return Message(number, "s", recipients, content, arrived=1.0, size=len(content), peer=Peer())

    def learn(self, message: Message) -> None:
        self.rows |= {(message.id, r.number): [r.destination, r.due, r.attempts] for r in message.recipients}

    @rule(target=ids, to=st.lists(destinations, min_size=1, max_size=4), due=dues)
    def enqueue(self, to: list[str], due: float) -> int:
        message = self.fresh(to, due)
        assert self.runner.run(put_in(self.queue, message)) is None
        self.learn(message)
        return message.id

    @rule(target=ids, number=ids, pick=st.integers(0, 15), later=dues, bounce=st.booleans(), data=st.data())
    def settle(self, number: int, pick: int, later: float, bounce: bool, data: st.DataObject) -> int:
        message = self.message(number)
        done = [r for r in message.recipients if pick >> (r.number % 4) & 1]
        rest = [r for r in message.recipients if r not in done]
        deferred = rest if data.draw(st.booleans()) else rest[1:]
        held = {r.number for r in deferred if r.due == HELD}
        for recipient in deferred:
            recipient.due, recipient.attempts = later, recipient.attempts + 1
        new = [self.fresh(["smtp:a.example"], NOW)] if bounce else []
        assert self.runner.run(settle_in(self.queue, message, done, deferred, new)) is None
        for recipient in done:
            del self.rows[number, recipient.number]
        for recipient in deferred:
            due = HELD if recipient.number in held else later
            self.rows[number, recipient.number] = [recipient.destination, due, recipient.attempts]
        for m in new:
            self.learn(m)
        assert message.remaining == len(rest)
        return new[0].id if new else number

    @rule(
        number=ids,
        where=destinations,
        which=st.sampled_from(["id", "destination", "all"]),
        command=st.sampled_from("hrfd"),
    )
    def administer(self, number: int, where: str, which: str, command: str) -> None:
        selection = {
            "id": Selection(ids=(number,)),
            "destination": Selection(destination=where),
            "all": Selection(everything=True),
        }[which]
        meant = [
            key
            for key, row in self.rows.items()
            if (which == "all" or (key[0] == number if which == "id" else row[0] == where))
            and {"h": row[1] < HELD, "r": row[1] == HELD, "f": row[1] < HELD, "d": True}[command]
        ]
        call = {"h": self.queue.hold, "r": self.queue.release, "f": self.queue.flush, "d": self.queue.delete}[command]
        changed = self.runner.run(awaited(call, selection))
        assert sum(c.recipients for c in changed) == len(meant)
        assert {c.id for c in changed} == {key[0] for key in meant}
        for key in meant:
            if command == "d":
                del self.rows[key]
            else:
                due = self.rows[key][1]
                self.rows[key][1] = {"h": HELD, "r": NOW, "f": min(due, NOW)}[command]

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.queue.close())
        self.open()

    @rule()
    def crash(self) -> None:
        """Goes on with a copy of the files as they are now, without the clean close."""
        old = self.spool
        self.generation += 1
        shutil.copytree(old, self.spool)
        self.runner.run(self.queue.close())
        shutil.rmtree(old)
        self.open()

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def read_content(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted({key[0] for key in self.rows})))
        assert self.runner.run(awaited(self.queue.content, self.message(number))) == self.contents[number]

    @rule(where=destinations, until=dues, limit=st.integers(1, 5), retried=st.booleans())
    def load(self, where: str, until: float, limit: int, retried: bool) -> None:
        expected = sorted(
            (r[1], *k) for k, r in self.rows.items() if r[0] == where and r[1] <= until and (r[2] > 0) == retried
        )
        found: list[tuple[float, int, int]] = []
        after = None
        for _ in range(len(expected) + 2):
            part = self.runner.run(load_from(self.queue, where, after, until, limit, retried))
            found += sorted((r.due, m.id, r.number) for m in part.messages for r in m.recipients)
            for m in part.messages:
                assert m.remaining == sum(key[0] == m.id for key in self.rows)
            if part.complete:
                break
            after = part.last
        assert found == expected

    @invariant()
    def destinations_agree(self) -> None:
        expected = []
        for where in sorted(DESTINATIONS):
            waiting = [row[1:] for row in self.rows.values() if row[0] == where and row[1] < HELD]
            new = min((due for due, attempts in waiting if not attempts), default=None)
            deferred = min((due for due, attempts in waiting if attempts), default=None)
            expected += [(where, new, deferred)] if waiting else []
        assert self.runner.run(every_destination(self.queue)) == expected
        counts = self.runner.run(awaited(self.queue.counts))
        assert (counts.messages, counts.recipients) == (len({k[0] for k in self.rows}), len(self.rows))


async def put_in(queue: Queue, message: Message) -> Any:
    return await put(queue, message)


async def settle_in(queue: Queue, *what: Any) -> Any:
    return await settle(queue, what[0], what[1], what[2], what[3])


async def load_from(queue: Queue, where: str, after: Any, until: float, limit: int, retried: bool) -> Any:
    return await queue.load(where, after, until, limit, retried=retried)


async def every_destination(queue: Queue) -> Any:
    return [found async for found in queue.destinations()]


async def awaited(call: Any, *arguments: Any) -> Any:
    return await call(*arguments)


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
