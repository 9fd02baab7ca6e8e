"""The one thread that writes: group commit between the event loop and the store.

The loop side collects what arrives while a commit runs; the thread makes one transaction of it (`commit.py`), and one
`call_soon_threadsafe` brings all its answers back. Everything here runs on the loop except `_work`; a `Batch` belongs
to one side at a time, so there is no lock. While the thread takes a step of an administrator's command, which leaves the redo
log alone, the loop goes on to write mail there.

The reserve of free space is kept by counting what is handed to the thread (`room.py`); when the count touches it, or
the last look is a second old, the thread looks before it writes, and refuses what does not fit.

When the store has failed for good, everything is answered with QueueError and `on_failure` tells the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from errno import EAGAIN
from functools import partial
from itertools import chain
from queue import SimpleQueue
from threading import Thread
from typing import Any

from mailflow.envelope import Message
from mailflow.errors import QueueError, QueueFull
from mailflow.store import room
from mailflow.store.aio import Syncs
from mailflow.store.aside import Aside
from mailflow.store.batch import Admin, Batch, Done
from mailflow.store.commit import Committer
from mailflow.store.failure import StoreBroken
from mailflow.store.fresh import FOLD_SECONDS, Packed
from mailflow.store.room import Room, weight
from mailflow.store.sqlite import Store
from mailflow.store.values import Settlement

__all__ = ["Admin", "Done", "Writer"]

BATCH_WEIGHT = 8 * 2**20
"""A batch ends with the message or settlement that reaches this (bytes); the rest is the next batch."""
SETTLEMENT_WEIGHT = 4 * 1024
"""What a settlement counts for there, so that a batch has some 2,000 of them; new messages beside it count too."""
PATIENCE_SECONDS = 0.005
"""How long settlements wait for new mail to share its commit: nobody waits for them, and a commit that they have to
themselves keeps the mail behind it waiting."""
RETRY_SECONDS = 1.0
"""How soon settlements are written again that a full disk kept out, when nothing else is being written."""
LOOK_SECONDS = 1.0
"""How old the knowledge of free space may become while somebody asks for it."""


class Writer:
    """Loop side of the group commit, and the thread. Made and used on the event loop."""

    def __init__(
        self,
        store: Store,
        aside: Aside,
        loop: asyncio.AbstractEventLoop,
        last_id: Callable[[], int],
        free: int,
        reserve: int,
    ) -> None:
        """`free`: bytes of free space now; `reserve`: those that new mail may not use."""
        self.on_commit: Callable[[], None] | None = None
        self.on_failure: Callable[[QueueError], None] | None = None
        self.on_aside: Callable[[Message, str], None] | None = None
        self.aside = set(aside.keys)
        """Recipients that are left alone, as message id and number: more than the thread notes, where noting failed."""
        self.room = Room(free, reserve)
        self.mail_commits = 0
        """Commits that had mail in them, so far."""
        self.waiting = 0
        """Bytes in memory that are not on disk yet: what `room.weight` says of their messages."""
        self._store = store
        self._committer = Committer(store, aside, reserve)
        self._loop = loop
        self._last_id = last_id
        self._next: list[Batch] = []
        self._open: Batch | None = None
        """The last of `_next`, while it takes more."""
        self._busy = False
        self._steps = 0
        """Of administrators' commands, with the thread."""
        self._scheduled = False
        self._patience: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._fold_timer: asyncio.TimerHandle | None = None
        self._looked = loop.time()
        self._inbox: SimpleQueue[Batch | Admin | None] = SimpleQueue()
        self._failed: QueueError | None = None
        self._kept: list[tuple[Settlement, Done]] = []
        self._idle: asyncio.Future[None] | None = None
        self._syncs = Syncs.open(loop)
        self._worker = Thread(target=self._work, name="mailflow-store", daemon=True)
        self._worker.start()

    def __repr__(self) -> str:
        return f"<Writer busy={self._busy} waiting={sum(len(b.messages) + len(b.work) for b in self._next)}>"

    @property
    def failed(self) -> bool:
        """Whether the store has failed for good."""
        return self._failed is not None

    @property
    def beside(self) -> bool:
        """Whether mail goes on while the thread takes a step of an administrator's command."""
        return self._syncs is not None and self._store.fresh.used

    # What comes

    def enqueue(self, message: Message, done: Done) -> None:
        """`done(None)` when the message is durable, `done(error)` when it is not in the queue."""
        batch = self._urgent()
        batch.messages.append(message)
        batch.message_done.append(done)
        size = weight(message)
        self.waiting += size
        batch.weight += size
        if batch.weight >= BATCH_WEIGHT:
            self._open = None

    def settle(self, settlement: Settlement, done: Done | None) -> None:
        """`done(None)` when it is durable; `done(error)` when the store has failed for good, or is damaged where it stands."""
        batch = self._urgent() if settlement.new else self._open or self._begin(patient=True)
        batch.work.append(settlement)
        batch.work_done.append(done or _nobody)
        size = SETTLEMENT_WEIGHT
        if settlement.new:
            size += sum(map(weight, settlement.new))
        self.waiting += size
        batch.weight += size
        if batch.weight >= BATCH_WEIGHT:
            self._open = None

    def administer(self, admin: Admin) -> None:
        """Takes the next step of an administrator's command, when all that was acknowledged is in the tables."""
        self.fold(partial(self._step, admin))

    def _step(self, admin: Admin, _error: QueueError | None) -> None:
        self._steps += 1
        self._inbox.put(admin)

    def fold(self, done: Done) -> None:
        """`done(None)` when all that was acknowledged is in the tables, `done(error)` when it cannot be put there.

        It has a batch without mail, for mail beside it would go to the tables too, and soon leave them again.
        """
        if self._next and self._next[-1].fold:
            self._next[-1].fold.append(done)
            return
        self._open = None
        self._next.append(Batch(fold=[done]))
        self._schedule()

    # Room

    def find_room(self, size: int) -> bool:
        """Whether `size` bytes more on the disk may leave the reserve alone, though by the count they do not.

        Has it looked up at once, if the last look said so; the thread decides about what is let in meanwhile.
        """
        if size <= self.room.most:
            self._urgent().look = True
            return True
        if self._loop.time() - self._looked >= LOOK_SECONDS:
            self._urgent().look = True
        return False

    async def admit(self, size: int) -> bool:
        """Counts `size` bytes that go to a content file; False when they would touch the reserve."""
        fresh = self._loop.time() - self._looked < LOOK_SECONDS
        if self.room.promise(size) and fresh:
            return True
        batch = self._urgent()
        batch.look = True
        looked: asyncio.Future[None] = self._loop.create_future()
        batch.lookers.append(looked)
        await looked
        return self.room.promise(size)  # again: what was promised before the look is taken for written

    # To the thread and back

    def _urgent(self) -> Batch:
        """The batch for what somebody waits for."""
        batch = self._open
        if batch is None:
            return self._begin(patient=False)
        if batch.patient:
            batch.patient = False
            self._schedule()
        return batch

    def _begin(self, *, patient: bool) -> Batch:
        """A new batch; it is handed over when the thread is done with the last one and the loop has come round."""
        batch = self._open = Batch(patient=patient)
        self._next.append(batch)
        self._schedule()
        return batch

    def _schedule(self) -> None:
        """Has the next batch handed over after what is ready to run now: what that brings goes with it."""
        if self._busy or self._scheduled or not self._next:
            return
        if self._next[0].patient and len(self._next) == 1 and self._idle is None:
            if self._patience is None:
                self._patience = self._loop.call_later(PATIENCE_SECONDS, self._lose_patience)
            return
        self._scheduled = True
        self._loop.call_soon(self._hand_over)

    def _lose_patience(self) -> None:
        """No mail came. A batch that was begun since the timer was set waits less than it might."""
        self._patience = None
        if self._next:
            self._next[0].patient = False
            self._schedule()

    def _hand_over(self) -> None:
        self._scheduled = False
        if self._busy or not self._next:
            return
        batch = self._next.pop(0)
        if batch is self._open:
            self._open = None
        batch.last_id = self._last_id()
        now = self._loop.time()
        certain = self.room.promise(room.BATCH_BYTES + room.COPIES * batch.weight)
        batch.promised = self.room.promised
        doubted = batch.look or not certain
        if doubted or now - self._looked >= LOOK_SECONDS:
            batch.look = True
            self._looked = now
        self._busy = True
        if not (doubted or batch.fold):
            batch.packed = self._pack(batch)
            if batch.packed and not batch.look and not self._failed and self._sync(batch, batch.packed):
                return
        self._inbox.put(batch)

    def _sync(self, batch: Batch, packed: Packed) -> bool:
        """Whether the kernel syncs it now: then the thread is not needed for it."""
        fd = self._store.fresh.place(packed) if self._syncs else None
        if fd is None or self._syncs is None:
            return False
        try:
            self._syncs.start(fd, partial(self._synced, batch, packed))
        except OSError as error:  # the thread writes it once more
            if error.errno != EAGAIN:
                self._end_syncs()
            return False
        return True

    def _end_syncs(self) -> None:
        if self._syncs:
            self._syncs.close()
            self._syncs = None

    def _synced(self, batch: Batch, packed: Packed, error: int) -> None:
        if error:
            self._store.fresh.failed()
            self._inbox.put(batch)
        else:
            self._store.fresh.placed(packed)
            self._written(batch)

    def _pack(self, batch: Batch) -> Packed | None:
        try:
            return self._store.pack(batch.messages, batch.work, batch.last_id)
        except Exception:  # noqa: BLE001 -- nobody foresaw it; the thread finds out which message it is
            return None

    def _work(self) -> None:
        """The thread."""
        answer: Callable[[], None]
        while (item := self._inbox.get()) is not None:
            if isinstance(item, Admin):
                answer = partial(self._stepped, item, self._committer.step(item), self._committer.dead)
            else:
                self._committer.write(item)
                answer = partial(self._written, item)
            try:
                self._loop.call_soon_threadsafe(answer)
            except RuntimeError:  # the loop was closed under us: nobody is left to be answered
                return

    def _stepped(self, admin: Admin, result: list[Any] | QueueError, dead: QueueError | None) -> None:
        """A step has come back."""
        self._steps -= 1
        self._call(admin.done, result)
        self._fail(dead)
        if isinstance(result, StoreBroken):
            self.fold(_nobody)  # the next batch opens the store anew
        self._rest()

    def _written(self, batch: Batch) -> None:
        """A batch has come back: the answers go out, and what they bring about goes with the next batch.

        The thread gets that one only when the loop comes round. It would be handed over sooner here, but smaller: a
        commit costs the same pages and sync for few messages as for many, and the loop is busy with the answers anyway.
        """
        self._busy = False
        self.waiting -= batch.weight
        if batch.free is not None:
            self.room.looked(batch.free, before=batch.promised)
        self._answer(batch)
        if self._fold_timer is None and self._store.fresh.unfolded and not self._idle:
            self._fold_timer = self._loop.call_later(FOLD_SECONDS, self._tend)
        self._fail(batch.broken)
        if batch.messages or batch.work:
            self.mail_commits += 1
            if self.on_commit:
                self._call(self.on_commit)
        self._schedule()
        self._rest()

    def _fail(self, dead: QueueError | None) -> None:
        if dead and not self._failed:
            self._failed = dead
            if self.on_failure:
                self._call(self.on_failure, dead)

    def _rest(self) -> None:
        """Tells `close` when there is nothing more to do."""
        if self._idle and not (self._busy or self._next or self._steps or self._idle.done()):
            self._idle.set_result(None)

    def _tend(self) -> None:
        """What has been in the redo log for long is put into the tables, with the next batch."""
        self._fold_timer = None
        if self._store.fresh.aged():
            self.fold(_nobody)
        elif self._store.fresh.unfolded:
            self._fold_timer = self._loop.call_later(FOLD_SECONDS, self._tend)

    def _answer(self, batch: Batch) -> None:
        if batch.refused or batch.unsettled or batch.aside or batch.left:
            self._answer_each(batch)
        else:  # as nearly always
            for answers in (batch.message_done, batch.work_done):
                for done in answers:
                    try:
                        done(None)
                    except Exception as error:  # noqa: BLE001 -- as in `_call`, which costs a call for each
                        self._mishap(error)
        for key, number, message, why in batch.kept:
            self.aside.add((key, number))
            self._store.fresh.forget([key])
            if self.on_aside and message:
                self._call(self.on_aside, message, str(why))
        for done in batch.fold:
            self._call(done, batch.folded)
        for looker in batch.lookers:
            if not looker.done():
                looker.set_result(None)

    def _answer_each(self, batch: Batch) -> None:
        """The answers when they differ."""
        for i, done in enumerate(batch.message_done):
            self._call(done, batch.refused.get(i))
        for i, (settlement, done) in enumerate(zip(batch.work, batch.work_done, strict=True)):
            error = batch.unsettled.get(i)
            message = settlement.message
            if error is not None:
                self._not_whole(message)
            if isinstance(error, QueueFull) and not batch.broken and not self._idle:
                self._try_again(settlement, done)
                continue
            message.remaining = min(message.remaining, batch.left.get(message.id, message.remaining))
            if i in batch.aside:
                self._set_aside(settlement, batch.aside[i])
                if error is None:
                    message.remaining += len(settlement.done)  # they are there still
            self._call(done, error)

    def _not_whole(self, message: Message) -> None:
        """Recipients of it are still on disk: no other settlement of the message may take all that there is."""
        for settlement in chain((kept for kept, _ in self._kept), *(batch.work for batch in self._next)):
            if settlement.message is message:
                settlement.whole = False

    def _set_aside(self, settlement: Settlement, why: QueueError) -> None:
        message = settlement.message
        self.aside.update((message.id, recipient.number) for recipient in (*settlement.done, *settlement.deferred))
        if self.on_aside:
            self._call(self.on_aside, message, str(why))

    def _call(self, call: Callable[..., None], *results: object) -> None:
        """Calls back. One that fails must not keep the others' answers from them, nor the next batch from the thread:
        their mail is on the disk."""
        try:
            call(*results)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the caller's; the loop's handler logs it
            self._mishap(error)

    def _mishap(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": "a callback of the queue failed; the commit stands", "exception": error}
        )

    # A full disk

    def _try_again(self, settlement: Settlement, done: Done) -> None:
        """A full disk kept a settlement out: it waits a little, and mail goes on meanwhile."""
        self._kept.append((settlement, done))
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._settle_kept)

    def _settle_kept(self) -> None:
        self._retry = None
        kept, self._kept = self._kept, []
        for settlement, done in kept:
            self.settle(settlement, done)

    async def close(self) -> None:
        """Writes what is waiting and ends the thread; the store stays open.

        Settlements that a full disk keeps out even now are answered with QueueFull: their recipients stay in the queue.
        """
        if self._fold_timer:
            self._fold_timer.cancel()
        if self._retry:
            self._retry.cancel()
            self._settle_kept()
        if self._busy or self._next or self._steps:
            self._idle = self._loop.create_future()
            self._schedule()
            await self._idle
        self._end_syncs()
        self._inbox.put(None)
        await self._loop.run_in_executor(None, self._worker.join)


def _nobody(_error: QueueError | None) -> None:
    """For a settlement whose end interests nobody."""
