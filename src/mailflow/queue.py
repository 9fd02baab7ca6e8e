"""The durable life of a message, as its users see it.

Everything here is called from the event loop. `enqueue` and `settle` return at once and call back from the loop when
their group commit has reached the disk; reading returns futures. The flow is the only one who enqueues and settles.

Invariants: a message whose `done(None)` was called survives any crash; one whose `done(error)` was called is not in the
queue. A settlement's recipients leave in the same transaction in which its new messages enter. Nothing on disk says
what is being delivered: after a crash everything undone is due as it was.

What this does not do: decide when anything is due, keep contents in memory, or know about transports. The disk is below
in `store/`; docs/queue.md describes format, transactions and what a crash can do.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mailflow.envelope import Content, ContentFile, Message
from mailflow.errors import QueueError, QueueFull
from mailflow.ids import IdSource
from mailflow.store import query, slices
from mailflow.store.admin import Command
from mailflow.store.administration import Administration
from mailflow.store.aside import Aside
from mailflow.store.batch import Admin, Done, Task
from mailflow.store.check import Finding
from mailflow.store.content import make_folder
from mailflow.store.failure import failure
from mailflow.store.inspection import Inspection, ReindexTask
from mailflow.store.lock import SpoolLock
from mailflow.store.lookup import Lookups, destinations, pass_on, resolve
from mailflow.store.room import COPIES, ROW_BYTES
from mailflow.store.settings import QueueSettings
from mailflow.store.spill import ContentWriter
from mailflow.store.sqlite import Store
from mailflow.store.strays import pull_in
from mailflow.store.sweeping import Sweeping
from mailflow.store.values import Changed, Position, QueueCounts, Selection, Settlement, Slice
from mailflow.store.writer import Writer

__all__ = [
    "Changed",
    "Command",
    "ContentWriter",
    "Done",
    "Position",
    "Queue",
    "QueueCounts",
    "QueueSettings",
    "Selection",
    "Settlement",
    "Slice",
]

T = TypeVar("T")


class Queue:
    """The queue of one spool; made by `Queue.open`."""

    def __init__(
        self,
        spool: Path,
        settings: QueueSettings,
        lock: SpoolLock,
        store: Store,
        aside: Aside,
        free: int,
        now: Callable[[], float],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.spool = spool
        self.settings = settings
        self._lock = lock
        self._store = store
        self._now = now
        self._loop = loop
        self._ids = IdSource(store.high_water)
        self._writer = Writer(store, aside, loop, self._last_id, free, settings.reserve)
        self._lookups = Lookups(spool, loop)
        self._spills: set[asyncio.Task[None]] = set()
        self.skew = 0.0
        """Seconds by which due times are behind the wall clock, when that was set anew while we ran; the flow sets it."""
        self._closed = False
        self._sweeping = Sweeping(store, self._writer, loop)
        self._sweeping.begin()
        self._administration = Administration(self._step, self._writer, self._sweeping, self._time)

    def __repr__(self) -> str:
        return f"<Queue {self.spool} {self._writer!r}>"

    @classmethod
    async def open(cls, spool: Path, settings: QueueSettings, *, now: Callable[[], float] = time.time) -> Queue:
        """The queue below `spool`, which is made where it is missing; locked until `close`.

        `now` gives seconds since 1970. Raises QueueLocked when another process holds the spool, QueueError when it
        cannot be read or written, or was written by a newer mailflow.
        """
        opened = await asyncio.get_running_loop().run_in_executor(None, _open, spool, settings, now)
        return cls(spool, settings, *opened, now)

    def new_id(self) -> int:
        """An id that no message of this spool has, had, or will have (wishes 60 and 81)."""
        return self._ids.next(self._now())

    @property
    def on_commit(self) -> Callable[[], None] | None:
        """Called once after the callbacks of each group commit."""
        return self._writer.on_commit

    @on_commit.setter
    def on_commit(self, call: Callable[[], None] | None) -> None:
        self._writer.on_commit = call

    @property
    def on_failure(self) -> Callable[[QueueError], None] | None:
        """Called once when the store has failed for good: a write or fsync failed, and opening anew did not help."""
        return self._writer.on_failure

    @on_failure.setter
    def on_failure(self, call: Callable[[QueueError], None] | None) -> None:
        self._writer.on_failure = call

    @property
    def on_aside(self) -> Callable[[Message, str], None] | None:
        """Called for each message whose outcome the database cannot take, for it is damaged there. Those who are done with are
        left alone until the queue has been repaired, those who were put off until it is opened anew, and all of them where
        the settlement's own callback gets an error too."""
        return self._writer.on_aside

    @on_aside.setter
    def on_aside(self, call: Callable[[Message, str], None] | None) -> None:
        self._writer.on_aside = call

    @property
    def trouble(self) -> list[str]:
        """What was found damaged in the redo log when the queue was opened, in words."""
        return self._store.fresh.trouble

    # Writing

    def enqueue(self, message: Message, done: Done) -> None:
        """Puts a message into the queue: `done(None)` once it is durable, `done(error)` when it is not in the queue.

        Its id is from `new_id`, its content bytes, or the ContentFile that `spill(id)` gave. `done` is called later,
        from the loop: QueueFull when the disk has no room, QueueError otherwise.
        """
        if self._closed:
            self._loop.call_soon(done, QueueError("the queue is closed"))
        elif self._writer.waiting > self.settings.write_buffer:
            self.discard(message)
            self._loop.call_soon(done, QueueError(f"more than write_buffer waits for the disk ({self._writer!r})"))
        else:
            self._writer.enqueue(message, done)

    def settle(self, settlement: Settlement, done: Done | None = None) -> None:
        """Puts what an attempt brought about on disk, in one transaction; lowers `message.remaining` at once.

        `done(None)` when it is durable; then `message.remaining` is not above what is in the queue, so 0 means that the
        message is gone; of one that is set aside (`on_aside`) it is what it was. A full disk delays it. `done(error)`: its
        recipients are as they were, and will be due again, after a restart or, unless they are set aside, sooner.
        """
        if self._closed:
            if done:
                self._loop.call_soon(done, QueueError("the queue is closed"))
            return
        message = settlement.message
        leaving = len(settlement.done)
        settlement.whole = message.remaining == leaving and not settlement.deferred
        message.remaining -= leaving
        self._writer.settle(settlement, done)

    def spill(self, id: int) -> ContentWriter:
        """A writer for the content of message `id`, which is larger than content_file_threshold, while it arrives."""
        return ContentWriter(id, self._store.files, self._writer.admit, self._keep_task)

    def discard(self, message: Message) -> None:
        """Frees the content file of a message that was spilled and then was not enqueued after all."""
        if isinstance(message.content, ContentFile):
            self._loop.run_in_executor(None, self._store.free_file, message.id)

    def room(self, size: int) -> bool:
        """Whether a message of `size` bytes may come in: the disk keeps its reserve, and the writer keeps up.

        True is no promise: the writer's thread, or a content file that grows, may find out better and say QueueFull.
        """
        writer = self._writer
        waiting = writer.waiting
        need = COPIES * (size + ROW_BYTES)
        if waiting <= self.settings.write_buffer and need + waiting <= writer.room.left:
            return True  # as nearly always
        if size > self.settings.content_file_threshold:
            need = size
        return waiting <= self.settings.write_buffer and writer.find_room(need)

    # Reading

    def load(
        self, destination: str, after: Position | None, until: float, limit: int, *, retried: bool = False
    ) -> asyncio.Future[Slice]:
        """The next recipients of a destination that are due by `until`, behind `after`, at most `limit` of them.

        `retried`: those that were tried before, else those that were not. In order (due, message id, number); held ones
        are left out, and those that are set aside (`on_aside`).
        """
        question = partial(slices.load, destination=destination, after=after, until=until, limit=limit, retried=retried)
        answer: asyncio.Future[Slice] = self._loop.create_future()
        # Who has left is in the tables still if they could not be written, or has left since they were read.
        self._ask(question).add_done_callback(
            partial(pass_on, answer, lambda found: slices.without(found, self._store.fresh.gone, self._writer.aside))
        )
        return answer

    def content(self, message: Message) -> asyncio.Future[Content]:
        """The content of a message in the queue. Raises QueueDamaged when it is not what was stored under its id."""
        fresh = self._store.fresh
        entry = fresh.entries.get(message.id)
        if entry is None and message.id not in fresh.gone:
            return self._lookups.content(message.id)
        found: asyncio.Future[Content] = self._loop.create_future()
        resolve(found, entry[1] if entry else QueueError(f"message {message.queue_id} is not in the queue any more"))
        return found

    def destinations(self) -> AsyncGenerator[tuple[str, float | None, float | None], None]:
        """All destinations with the earliest due time of what was never tried, and of what was; None where there is no
        such recipient. Held ones are left out. Raises QueueError."""
        return destinations(self._ask)

    def counts(self) -> asyncio.Future[QueueCounts]:
        """How much is in the queue."""
        return self._ask(query.counts)

    async def write_out(self) -> None:
        """Puts all that was acknowledged into the tables, where others find it who read them. Raises QueueError."""
        await self._ask(lambda _db: None)

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Asks the tables, when they have all that was acknowledged."""
        if self._closed or not self._store.fresh.unfolded:
            return self._lookups.ask(question)
        answer: asyncio.Future[T] = self._loop.create_future()

        def folded(error: QueueError | None) -> None:
            if isinstance(error, QueueFull):  # what is there can be read, and make room
                error = None
            if error:
                resolve(answer, error)
            else:
                self._lookups.ask(question).add_done_callback(partial(pass_on, answer, _as_it_is))

        self._writer.fold(folded)
        return answer

    # Administration

    def change(self, command: Command, selection: Selection) -> AsyncGenerator[list[Changed], None]:
        """An administrator's command in steps, each durable when it is given out; the next begins when it is asked for.

        At most `administration.ADMIN_AT_ONCE` commands run, later ones wait. While other work waits for the disk, a command takes no more
        than its share of the writer's time. Raises QueueError. Close it (`contextlib.aclosing`) to stop in between.
        """
        return self._administration.change(command, selection)

    def quarantine(self, id: int, each: Callable[[list[Changed]], None]) -> bool:
        """Puts a message on hold whose content or envelope is damaged; `each` gets what every step changed.

        Returns whether that had to be begun. Where it was and nothing could be held, for the rows cannot be found or not
        be written, the message is found again at each attempt, and need not be told of each time.
        """
        return self._administration.quarantine(id, each)

    async def inspect(self) -> list[Finding]:
        """What is wrong with the database as a whole (store/inspection.py). Raises QueueError."""
        look = Inspection(self.spool, self._loop)
        try:
            return await look.findings
        finally:
            await look.close()

    async def reindex(self) -> None:
        """Makes the database's indexes anew. Raises QueueError: that did not help, and nothing has changed."""
        await self._step(ReindexTask())

    def compact(self) -> AsyncGenerator[int, None]:
        """Gives unused space back to the disk, in steps as `change`; the bytes of each. Raises QueueError."""
        return self._administration.compact()

    async def hold(self, selection: Selection) -> list[Changed]:
        """No attempts until `release`; one that runs now may still deliver, but does not lift the hold."""
        return await self._administration.all_of(Command.HOLD, selection)

    async def release(self, selection: Selection) -> list[Changed]:
        """Held recipients become due now."""
        return await self._administration.all_of(Command.RELEASE, selection)

    async def flush(self, selection: Selection) -> list[Changed]:
        """Deferred recipients become due now; held ones stay held."""
        return await self._administration.all_of(Command.FLUSH, selection)

    async def delete(self, selection: Selection) -> list[Changed]:
        """The recipients leave the queue without a bounce."""
        return await self._administration.all_of(Command.DELETE, selection)

    async def close(self) -> None:
        """Writes what is waiting, closes the database and gives the spool free. Later calls get QueueError.

        Raises QueueError when the last words cannot be written; what was acknowledged is durable nevertheless.
        """
        if self._closed:
            return
        self._closed = True
        self._sweeping.close()
        for task in self._spills:
            task.cancel()
        if self._spills:
            await asyncio.wait(self._spills)
        await self._lookups.close()
        await self._writer.close()
        try:
            await self._loop.run_in_executor(None, self._store.close, self._ids.last)
        except QueueError:
            if not self._writer.failed:  # else everybody has been told already
                raise
        finally:
            self._lock.release()

    def _step(self, task: Task) -> asyncio.Future[list[Any]]:
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self._closed:
            future.set_exception(QueueError("the queue is closed"))
        else:
            self._writer.administer(Admin(task, partial(resolve, future)))
        return future

    def _time(self) -> float:
        return self._now() - self.skew

    def _last_id(self) -> int:
        return self._ids.last

    def _keep_task(self, task: asyncio.Task[None]) -> None:
        self._spills.add(task)
        task.add_done_callback(self._spills.discard)


def _as_it_is(found: T) -> T:
    return found


def _open(spool: Path, settings: QueueSettings, now: Callable[[], float]) -> tuple[SpoolLock, Store, Aside, int]:
    """Lock, store, what is set aside, and free bytes of a spool; nothing stays locked when it raises."""
    try:
        make_folder(spool)
    except OSError as error:
        raise failure(error, str(spool)) from error
    lock = SpoolLock(spool)
    lock.acquire()
    try:
        store = Store.open(spool, settings, now)
        try:
            aside = Aside.open(store)
            store.reserve(store.high_water)
            pull_in(store, now(), settings.longest_wait)
            free = store.free_bytes()
        except QueueFull:
            free = 0  # a full disk is no reason not to start: what leaves makes room
        except BaseException:
            store.close(store.high_water)
            raise
    except BaseException:
        lock.release()
        raise
    return lock, store, aside, free
