"""The loader: what left memory while a slice was on its way is struck from that slice, and from no other."""

from __future__ import annotations

import asyncio

from mailflow.backlog import Backlog
from mailflow.envelope import Message, Peer, Recipient
from mailflow.errors import QueueError
from mailflow.loader import BLOCKED_SECONDS, RETRY_SECONDS, TELL_SECONDS, Loader
from mailflow.queue import Position, Slice
from mailflow.queuetime import QueueTime
from mailflow.scheduler import Job, Lane, Scheduler, SchedulerSettings


class SlowQueue:
    """Loads that end when the test says so."""

    def __init__(self) -> None:
        self.loads: dict[str, asyncio.Future[Slice]] = {}

    def load(
        self, destination: str, after: object, until: float, limit: int, *, retried: bool
    ) -> asyncio.Future[Slice]:
        self.loads[destination] = asyncio.get_running_loop().create_future()
        return self.loads[destination]


def found(destination: str, id: int) -> Slice:
    recipient = Recipient(0, "joe@x.example", destination, due=1.0)
    message = Message(id, "", [recipient], None, arrived=1.0, size=1, peer=Peer())
    return Slice([message], Position(1.0, id, 0), complete=True)


def test_what_left_memory_before_a_load_began_is_not_struck_from_it() -> None:
    async def story() -> list[int]:
        queue, backlog, taken = SlowQueue(), Backlog(), list[int]()

        def take(_lane: Lane, messages: list[Message]) -> None:
            taken.append(sum(len(m.recipients) for m in messages))

        loader = Loader(
            queue,  # type: ignore[arg-type]
            backlog,
            Scheduler(SchedulerSettings()),
            lambda _destination, _lane: 100,
            take,
            QueueTime(lambda: 5.0, lambda: 5.0),
            lambda _id: None,
            lambda _destination, _reason: None,
        )
        backlog.note("smtp:a", Lane.NEW, 1.0)
        loader.pump()
        loader.forget(7, 0)  # deferred: not to be taken from the slice under way, which may show it as due
        backlog.note("smtp:b", Lane.NEW, 1.0)
        loader.pump()  # begins after that, so what it shows of message 7 is true
        queue.loads["smtp:a"].set_result(found("smtp:a", 7))
        queue.loads["smtp:b"].set_result(found("smtp:b", 7))
        await asyncio.sleep(0)
        return taken

    assert asyncio.run(story()) == [0, 1]


def test_a_load_that_failed_hands_over_nothing_so_that_its_caller_sets_a_timer() -> None:
    async def story() -> None:
        queue, backlog, taken = SlowQueue(), Backlog(), list[list[Message]]()
        loader = Loader(
            queue,  # type: ignore[arg-type]
            backlog,
            Scheduler(SchedulerSettings()),
            lambda _destination, _lane: 100,
            lambda _lane, messages: taken.append(messages),
            QueueTime(lambda: 5.0, lambda: 5.0),
            lambda _id: None,
            lambda _destination, _reason: None,
        )
        backlog.note("smtp:a", Lane.DEFERRED, 1.0)
        loader.pump()
        assert backlog.deadline() is None, "it is on its way"
        queue.loads["smtp:a"].set_exception(QueueError("the disk does not answer"))
        await asyncio.sleep(0)
        assert taken == [[]]
        assert backlog.deadline() == 5.0 + RETRY_SECONDS

    asyncio.run(story())


def test_when_memory_is_full_the_others_are_not_asked_one_by_one() -> None:
    async def story() -> int:
        queue, backlog = SlowQueue(), Backlog()
        asked: list[str] = []
        scheduler = Scheduler(SchedulerSettings(jobs=1))
        scheduler.add(Job("smtp:busy", Lane.NEW, 1, 1, None), 5.0)

        def room(destination: str, lane: Lane) -> int:
            asked.append(destination)
            return scheduler.room(destination, lane)

        loader = Loader(
            queue,  # type: ignore[arg-type]
            backlog,
            scheduler,
            room,
            lambda _lane, _messages: None,
            QueueTime(lambda: 5.0, lambda: 5.0),
            lambda _id: None,
            lambda _destination, _reason: None,
        )
        for n in range(1000):
            backlog.note(f"smtp:{n}", Lane.NEW, 1.0)
        for _ in range(10):
            loader.pump()
        assert backlog.deadline() == 5.0 + BLOCKED_SECONDS
        return len(asked)

    assert asyncio.run(story()) == 1


def test_slices_that_cannot_be_read_are_told_of_once_in_a_while() -> None:
    async def story() -> list[tuple[str, str]]:
        queue, backlog, told = SlowQueue(), Backlog(), list[tuple[str, str]]()
        clock = 5.0
        loader = Loader(
            queue,  # type: ignore[arg-type]
            backlog,
            Scheduler(SchedulerSettings()),
            lambda _destination, _lane: 100,
            lambda _lane, _messages: None,
            QueueTime(lambda: clock, lambda: clock),
            lambda _id: None,
            lambda *what: told.append(what),
        )
        for clock in (5.0, 5.0 + RETRY_SECONDS, 5.0 + TELL_SECONDS):
            for name in ("smtp:a", "smtp:b"):
                backlog.note(name, Lane.DEFERRED, 1.0)
            loader.pump()
            for name in ("smtp:a", "smtp:b"):
                queue.loads[name].set_exception(QueueError(f"malformed at {clock}"))
            await asyncio.sleep(0)
        return told

    assert asyncio.run(story()) == [("smtp:a", "malformed at 5.0"), ("smtp:a", f"malformed at {5.0 + TELL_SECONDS}")]
