"""The one thread that writes: group commit between the event loop and the store.

The loop side collects what arrives while a commit runs; the thread makes one transaction of it, and one
`call_soon_threadsafe` brings all its answers back. Everything here runs on the loop except `_work` and below, which run
in the thread; a `Batch` belongs to one side at a time, so there is no lock.

When a commit fails: no space refuses the batch's messages with QueueFull and keeps its settlements for later; a value
that SQLite will not take refuses only the message or settlement that has it; a failing write or fsync refuses the
messages, reopens and re-proves the store, and writes the settlements again. When the store cannot be reopened,
everything from then on is answered with QueueError and `on_failure` tells the server; what was not settled is still in
the queue on disk. What this module does not do: decide what is in a transaction (`sqlite.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import TypeAlias

from mailflow.envelope import Message
from mailflow.errors import QueueError, QueueFull
from mailflow.store.admin import AdminTask
from mailflow.store.failure import StoreBroken
from mailflow.store.sqlite import Store, Work
from mailflow.store.values import Changed, Settlement

Done: TypeAlias = Callable[[QueueError | None], None]

BATCH_MESSAGES = 1000
BATCH_BYTES = 8 * 2**20
"""A batch ends with the message or settlement that reaches one of these; the rest is the next batch."""
REOPEN_TRIES = 3
REOPEN_PAUSE_SECONDS = 0.5
RETRY_SECONDS = 1.0
"""How soon settlements are written again that a full disk kept out, when nothing else is being written."""
LOOK_SECONDS = 1.0
"""How old the knowledge of free space may become while somebody asks for it."""


@dataclass(slots=True)
class Admin:
    """An administrator's command on its way."""

    task: AdminTask
    done: Callable[[list[Changed] | QueueError], None]


@dataclass(slots=True)
class Batch:
    """What goes through the writer together, and what became of it."""

    last_id: int
    messages: list[Message] = field(default_factory=list)
    message_done: list[Done] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    work_done: list[Done | None] = field(default_factory=list)
    admin: list[Admin] = field(default_factory=list)
    bytes: int = 0
    held_bytes: int = 0
    """Content of `messages` that is in memory."""
    look: bool = False
    # Filled in by the thread:
    refused: list[QueueError | None] = field(default_factory=list)
    """For each message: why it is not in the queue."""
    unsettled: list[QueueError | None] = field(default_factory=list)
    """For each settlement: why it is not on disk. QueueFull: it is to be tried again."""
    left: dict[int, int] = field(default_factory=dict)
    finished: list[tuple[Admin, list[Changed] | QueueError]] = field(default_factory=list)
    free: int | None = None
    unwritten: bool = True
    broken: QueueError | None = None
    """The store has failed for good."""

    @property
    def full(self) -> bool:
        return self.bytes >= BATCH_BYTES or len(self.messages) + len(self.work) >= BATCH_MESSAGES


class Writer:
    """Loop side and thread of the group commit. Made and used on the event loop."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop, last_id: Callable[[], int]) -> None:
        self.on_commit: Callable[[], None] | None = None
        self.on_failure: Callable[[QueueError], None] | None = None
        self.free_bytes = 0
        """Room on the disk when last looked at."""
        self.waiting_bytes = 0
        """Content that is in memory because it is not on disk yet."""
        self._store = store
        self._loop = loop
        self._last_id = last_id
        self._next: list[Batch] = []
        self._busy = False
        self._scheduled = False
        self._retry: asyncio.TimerHandle | None = None
        self._looked = 0.0
        self._inbox: SimpleQueue[Batch | None] = SimpleQueue()
        self._failed: QueueError | None = None
        self._dead: QueueError | None = None  # the thread's own knowledge of the same
        self._kept: list[tuple[Work, Done | None]] = []
        self._idle: asyncio.Future[None] | None = None
        self._thread = Thread(target=self._work, name="mailflow-store", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Writer busy={self._busy} waiting={sum(len(b.messages) + len(b.work) for b in self._next)}>"

    @property
    def failed(self) -> bool:
        """Whether the store has failed for good."""
        return self._failed is not None

    # The loop's side

    def enqueue(self, message: Message, done: Done) -> None:
        """`done(None)` when the message is durable, `done(error)` when it is not in the queue."""
        batch = self._open_batch()
        batch.messages.append(message)
        batch.message_done.append(done)
        size = message.size if isinstance(message.content, bytes) else 0
        batch.bytes += size
        batch.held_bytes += size
        self.waiting_bytes += size

    def settle(self, settlement: Settlement, done: Done | None, *, whole: bool) -> None:
        """`done(None)` when it is durable; `done(error)` only when the store has failed for good."""
        batch = self._open_batch()
        batch.work.append(Work(settlement, whole))
        batch.work_done.append(done)
        for message in settlement.new:
            batch.bytes += message.size

    def administer(self, admin: Admin) -> None:
        """Runs an administrator's command, a step with each batch."""
        self._open_batch().admin.append(admin)

    def look(self, now: float) -> None:
        """Has the free space looked up, at most once a second; `now` is loop time."""
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._open_batch().look = True

    async def close(self) -> None:
        """Writes what is waiting and ends the thread; the store stays open.

        Settlements that a full disk keeps out even now are answered with QueueFull: their recipients stay in the queue.
        """
        if self._retry:
            self._retry.cancel()
            self._settle_kept()
        if self._busy or self._next:
            self._idle = self._loop.create_future()
            self._hand_over()
            await self._idle
        self._inbox.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _open_batch(self) -> Batch:
        """The batch that is being collected; the first thing in it has it handed over, once the loop comes round."""
        if not self._next or self._next[-1].full:
            self._next.append(Batch(0))
        if not self._busy and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._hand_over)
        return self._next[-1]

    def _hand_over(self) -> None:
        self._scheduled = False
        if self._busy or not self._next:
            return
        batch = self._next.pop(0)
        batch.last_id = self._last_id()
        self._busy = True
        self._inbox.put(batch)

    def _written(self, batch: Batch) -> None:
        """A batch has come back: the thread gets the next one first, then the answers go out."""
        self._busy = False
        self.waiting_bytes -= batch.held_bytes
        if batch.free is not None:
            self.free_bytes = batch.free
        if batch.admin:
            self._open_batch().admin[:0] = batch.admin
        self._hand_over()
        self._answer(batch)
        if batch.broken and not self._failed:
            self._failed = batch.broken
            if self.on_failure:
                self.on_failure(batch.broken)
        if self.on_commit and (batch.messages or batch.work):
            self.on_commit()
        self._hand_over()
        if self._idle and not self._busy and not self._idle.done():
            self._idle.set_result(None)

    def _answer(self, batch: Batch) -> None:
        for done, error in zip(batch.message_done, batch.refused, strict=True):
            done(error)
        for work, work_done, error in zip(batch.work, batch.work_done, batch.unsettled, strict=True):
            if isinstance(error, QueueFull) and not batch.broken and not self._idle:
                self._try_again(work, work_done)
                continue
            message = work.settlement.message
            message.remaining = min(message.remaining, batch.left.get(message.id, message.remaining))
            if work_done:
                work_done(error)
        for admin, result in batch.finished:
            admin.done(result)

    def _try_again(self, work: Work, done: Done | None) -> None:
        """A full disk kept a settlement out: it waits a little, and mail goes on meanwhile."""
        self._kept.append((work, done))
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._settle_kept)

    def _settle_kept(self) -> None:
        self._retry = None
        kept, self._kept = self._kept, []
        for work, done in kept:
            batch = self._open_batch()
            batch.work.append(work)
            batch.work_done.append(done)

    # The thread's side

    def _work(self) -> None:
        while (batch := self._inbox.get()) is not None:
            batch.refused = [None] * len(batch.messages)
            batch.unsettled = [None] * len(batch.work)
            if self._dead is None:
                self._write(batch)
            if self._dead is not None:
                self._answer_dead(batch, self._dead)
            try:
                self._loop.call_soon_threadsafe(self._written, batch)
            except RuntimeError:  # the loop was closed under us: nobody is left to be answered
                return

    def _answer_dead(self, batch: Batch, error: QueueError) -> None:
        batch.broken = error
        batch.finished += [(admin, error) for admin in batch.admin]
        batch.admin = []
        if batch.unwritten:
            batch.refused = [error] * len(batch.messages)
            batch.unsettled = [error] * len(batch.work)

    def _write(self, batch: Batch) -> None:
        if batch.messages or batch.work:
            self._commit(batch, list(range(len(batch.messages))), list(range(len(batch.work))))
        batch.unwritten = False
        if batch.look and self._dead is None:
            try:
                batch.free = self._store.free_bytes()
            except QueueError:
                batch.free = 0  # asked again in a second; until then nothing new is let in
        waiting, batch.admin = batch.admin, []
        for admin in waiting:
            try:
                if admin.task.step(self._store):
                    batch.finished.append((admin, admin.task.result()))
                else:
                    batch.admin.append(admin)
            except StoreBroken as error:
                batch.finished.append((admin, error))
                self._recover(batch, [], [], error)
            except QueueError as error:
                batch.finished.append((admin, error))

    def _commit(self, batch: Batch, messages: list[int], work: list[int]) -> None:
        """Commits these messages and settlements of the batch, in one transaction if it goes."""
        try:
            left = self._store.commit(
                [batch.messages[i] for i in messages], [batch.work[i] for i in work], batch.last_id
            )
            batch.left.update(left)
        except QueueFull as error:
            self._refuse(batch, messages, error)
            if messages and work:
                self._commit(batch, [], work)
            else:
                self._leave(batch, work, error)
        except StoreBroken as error:
            self._refuse(batch, messages, error)
            self._recover(batch, messages, work, error)
        except QueueError as error:
            self._halve(batch, messages, work, error)

    def _halve(self, batch: Batch, messages: list[int], work: list[int], error: QueueError) -> None:
        """Something in the batch cannot be stored: finds it by halving, so that all else is stored."""
        if len(messages) + len(work) == 1:
            self._refuse(batch, messages, error)
            self._leave(batch, work, error)
            return
        m, w = (len(messages) + 1) // 2, len(work) // 2
        for part in ((messages[:m], work[:w]), (messages[m:], work[w:])):
            if self._dead is not None:
                self._refuse(batch, part[0], self._dead)
                self._leave(batch, part[1], self._dead)
            else:
                self._commit(batch, *part)

    def _refuse(self, batch: Batch, messages: list[int], error: QueueError) -> None:
        for i in messages:
            batch.refused[i] = error
            if not isinstance(batch.messages[i].content, bytes):
                self._store.free_file(batch.messages[i].id)

    def _leave(self, batch: Batch, work: list[int], error: QueueError) -> None:
        for i in work:
            batch.unsettled[i] = error

    def _recover(self, batch: Batch, messages: list[int], work: list[int], error: QueueError) -> None:
        """After a failed write or fsync: opens anew, proves the disk, takes out what was refused, settles again."""
        entered = [batch.messages[i].id for i in messages]
        entered += [m.id for i in work for m in batch.work[i].settlement.new]
        for _ in range(REOPEN_TRIES):
            try:
                self._store.reopen(entered, batch.last_id)
                if work:
                    batch.left.update(self._store.commit([], [batch.work[i] for i in work], batch.last_id))
            except QueueFull as full:
                self._leave(batch, work, full)
                return
            except QueueError as again:
                error = again
                time.sleep(REOPEN_PAUSE_SECONDS)
            else:
                return
        self._dead = error
        self._leave(batch, work, error)
