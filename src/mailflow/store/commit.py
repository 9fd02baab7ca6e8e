"""The writer thread's work on one batch: what is refused, committed, tried again. Synchronous, knows no loop.

`Committer.write(batch)` returns when all of the batch has been decided; `step` takes a step of an administrator's command,
beside which the loop may write the redo log. Both raise nothing. Mail that would use up the
reserve is refused before it is written. When a commit fails:
- no space: the log is copied into the database, so that it is written again from its beginning, and the batch is tried
  once more, settlements first and in ever smaller parts, for they make room. Then messages are refused with QueueFull
  and settlements left for later;
- a value that SQLite will not take refuses only the message or settlement that has it, and so does a page of the
  database that is damaged; such a settlement is set aside (`aside.py`), for its delivery must not be repeated;
- a failing write or fsync refuses the messages, reopens and re-proves the store, and writes the settlements again. When
  the store cannot be reopened it is `dead`: everything from then on is answered with that error. What was not
  settled is still in the queue on disk.

What this module does not do: decide what is in a transaction (`sqlite.py`), threads and callbacks (`writer.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

from mailflow.errors import QueueError, QueueFull
from mailflow.store.aside import Aside
from mailflow.store.batch import Admin, Batch
from mailflow.store.failure import StoreBroken, StoreDamaged, failure
from mailflow.store.fold import fold
from mailflow.store.room import BATCH_BYTES, COPIES, GROW_BYTES, need
from mailflow.store.sqlite import Store
from mailflow.store.values import Settlement

T = TypeVar("T")
Places: TypeAlias = Sequence[int]
"""Which messages or settlements of a batch, ascending."""

REOPEN_TRIES = 3
REOPEN_PAUSE_SECONDS = 0.5
MOST_ASIDE = 10_000
"""Recipients that are set aside; a database that does not let more go than these has failed for good."""


class Committer:
    """Writes batches to one store; keeps `reserve` bytes of its disk free of new mail."""

    def __init__(self, store: Store, aside: Aside, reserve: int) -> None:
        self.dead: QueueError | None = None
        """Why nothing can be written any more."""
        self._store = store
        self._aside = aside
        self._set = len(aside.keys)
        """Recipients that are set aside, noted or not."""
        self._reserve = reserve
        self._broken: StoreBroken | None = None
        """Why the store is to be opened anew: the loop must not be at the redo log then, so the next batch does it."""

    def write(self, batch: Batch) -> None:
        """All of the batch, as far as it goes."""
        try:
            self._write(batch)
        except Exception as error:  # noqa: BLE001 -- nobody foresaw it; a thread that ended would answer nobody ever
            self._lost(batch, error)

    def step(self, admin: Admin) -> list[Any] | QueueError:
        """The next step of an administrator's command: what it changed, or why it could not. Knows nothing of the redo log."""
        if error := self.dead or self._broken:
            return error
        try:
            return admin.task.step(self._store)
        except StoreBroken as broken:
            self._broken = broken
            return broken
        except QueueError as failed:
            return failed
        except Exception as unforeseen:  # noqa: BLE001 -- as in `write`
            self.dead = failure(unforeseen, "an administrator's command")
            return self.dead

    def _write(self, batch: Batch) -> None:
        if self._broken:
            broken, self._broken = self._broken, None
            self._recover(batch, [], [], broken)
        fresh = self._store.fresh
        if batch.packed and self.dead is None and not fresh.spoilt and fresh.write(batch.packed):
            batch.free = self._free_bytes() if batch.look else None
            return
        if batch.look:
            self._guard(batch)
        messages: Places = range(len(batch.messages))
        work: Places = range(len(batch.work))
        if batch.refused:
            messages = [i for i in messages if i not in batch.refused]
        if messages or work:
            full = self._commit(batch, messages, work)
            if full:
                self._squeeze(batch, messages, work, full)
        if batch.fold:
            batch.folded = self._fold(batch)
        if batch.look:
            batch.free = self._free_bytes()
        if fresh.stuck:
            self._leave_behind(batch)
        batch.broken = self.dead

    def _fold(self, batch: Batch) -> QueueError | None:
        """All that was acknowledged into the tables; why not, if something is missing there."""
        if self.dead is not None:
            return self.dead
        try:
            fold(self._store)
        except StoreBroken as error:
            self._recover(batch, [], [], error)
            return self.dead
        except QueueError as error:
            return error
        return None

    def _leave_behind(self, batch: Batch) -> None:
        """Who has left, and whose rows the tables keep, is noted beside the database, so that nobody tries them again."""
        kept, why = self._store.fresh.kept(), self._store.fresh.why
        if not kept or why is None:
            return
        try:
            self._aside.add([(key, number) for key, (number, _) in kept.items()])
        except QueueError:
            return  # they stay in the redo log
        batch.kept += [(key, number, message, why) for key, (number, message) in kept.items()]
        self._set += len(kept)
        if self._set > MOST_ASIDE:
            self.dead = self.dead or why

    def _lost(self, batch: Batch, error: Exception) -> None:
        """What reached the disk is not known. No content file is freed: its message may be in the queue."""
        self.dead = self.dead or failure(error, "writing the queue")
        self._leave(batch, list(range(len(batch.work))), self.dead)
        batch.refused.update(dict.fromkeys(range(len(batch.messages)), self.dead))
        batch.broken = batch.folded = self.dead

    def _guard(self, batch: Batch) -> None:
        """Looks how much room there is, and refuses the messages that would touch the reserve."""
        free = self._free_bytes()
        if free is None:
            return
        room, spare = free - self._reserve - BATCH_BYTES, self._store.segments.spare
        self._store.segments.tight = room < COPIES * batch.weight + spare + GROW_BYTES
        if not self._store.segments.tight:
            return
        self._store.segments.give_back()  # what the files keep for later is for whatever needs it first
        if room < 0:  # the log is copied while it can be; then it can be written again, whoever takes the rest
            self._store.make_room()
        free = self._free_bytes()  # anew: of pages found at the start it is only now known whether they had blocks
        if free is None:
            return
        room = free - self._reserve - BATCH_BYTES
        for i, message in enumerate(batch.messages):
            size = need(message, self._store.segment_threshold)
            if size <= room:
                room -= size
            else:
                self._refuse(batch, [i], QueueFull(f"{free} bytes are free, {self._reserve} are kept in reserve"))

    def _free_bytes(self) -> int | None:
        """None when it cannot be told: not a want of room, and the commit that follows says what is the matter."""
        try:
            return self._store.free_bytes()
        except QueueError:
            return None

    def _commit(self, batch: Batch, messages: Places, work: Places) -> QueueFull | None:
        """Commits these messages and settlements, in one transaction if it goes.

        Returns the error when there is no space, and then nothing has become of them; else all are decided.
        """
        if self.dead is not None:
            self._give_up(batch, messages, work, self.dead)
            return None
        try:
            some, part = _those(batch.messages, messages), _those(batch.work, work)
            batch.left.update(self._store.commit(some, part, batch.last_id))
        except QueueError as error:
            for i in work:
                # In parts, one may be left out whose recipients another one of the same message must not take along.
                batch.work[i].whole = False
            if isinstance(error, QueueFull):
                return error
            if isinstance(error, StoreBroken):
                self._refuse(batch, messages, error)
                self._recover(batch, messages, work, error)
            else:
                self._halve(batch, messages, work, error)
        return None

    def _squeeze(self, batch: Batch, messages: Places, work: Places, full: QueueFull) -> None:
        """No space: what leaves goes first, from the log's beginning and in ever smaller parts; then what comes."""
        size = len(work)
        while work and size:
            self._store.make_room()
            if self._commit(batch, [], work[:size]):
                size //= 2
            else:
                work = work[size:]
        self._leave(batch, work, full)
        if messages:
            self._store.make_room()
            still = self._commit(batch, messages, [])
            if still:
                self._refuse(batch, messages, still)

    def _halve(self, batch: Batch, messages: Places, work: Places, error: QueueError) -> None:
        """Something in the batch cannot be stored: finds it by halving, so that all else is stored."""
        if len(messages) + len(work) == 1:
            self._give_up(batch, messages, work, error)
            return
        m, w = (len(messages) + 1) // 2, len(work) // 2
        for some, part in ((messages[:m], work[:w]), (messages[m:], work[w:])):
            full = self._commit(batch, some, part)
            if full:
                self._give_up(batch, some, part, full)

    def _recover(self, batch: Batch, messages: Places, work: Places, error: QueueError) -> None:
        """After a failed write or fsync: opens anew, proves the disk, takes out what was refused, settles again."""
        entered = [batch.messages[i].id for i in messages]
        entered += [m.id for i in work for m in batch.work[i].entering]
        for _ in range(REOPEN_TRIES):
            proved = False
            try:
                self._store.reopen(entered, batch.last_id)
                proved = True
                if work:
                    batch.left.update(self._store.commit([], [batch.work[i] for i in work], batch.last_id))
            except QueueFull as full:
                self._leave(batch, work, full)
                return
            except QueueError as again:
                error = again
                if proved and isinstance(error, StoreDamaged):
                    self._halve(batch, [], work, error)
                    return
                time.sleep(REOPEN_PAUSE_SECONDS)
            else:
                return
        self.dead = error
        self._give_up(batch, [], work, error)

    def _give_up(self, batch: Batch, messages: Places, work: Places, error: QueueError) -> None:
        self._refuse(batch, messages, error)
        if work and isinstance(error, StoreDamaged):
            self._set_aside(batch, work, error)
        else:
            self._leave(batch, work, error)

    def _set_aside(self, batch: Batch, work: Places, error: QueueError) -> None:
        """The rows cannot be written. What was done is noted beside the database, new mail (bounces) in it before: a
        crash in between may make it twice. What cannot be noted is left alone by this server only, or, if only room is
        wanting, tried again."""
        settlements = [batch.work[i] for i in work]
        try:
            self._enter(settlements, batch.last_id)
            self._aside.add([(s.message.id, recipient.number) for s in settlements for recipient in s.done])
        except QueueError as failed:
            if isinstance(failed, StoreBroken):
                self.dead = self.dead or failed
            self._leave(batch, work, failed if isinstance(failed, QueueFull) else error)
            if isinstance(failed, QueueFull):
                return
        batch.aside.update(dict.fromkeys(work, error))
        self._set += sum(len(s.done) + len(s.deferred) for s in settlements)
        if self._set > MOST_ASIDE:
            self.dead = self.dead or error

    def _enter(self, settlements: list[Settlement], last_id: int) -> None:
        """Only the new mail of these. Raises as `Store.commit`."""
        new = [message for settlement in settlements for message in settlement.entering]
        if new:
            self._store.commit(new, [], last_id)
            for settlement in settlements:
                settlement.entered = True

    def _refuse(self, batch: Batch, messages: Places, error: QueueError) -> None:
        for i in messages:
            batch.refused[i] = error
            if not isinstance(batch.messages[i].content, bytes):
                self._store.free_file(batch.messages[i].id)

    def _leave(self, batch: Batch, work: Places, error: QueueError) -> None:
        for i in work:
            batch.unsettled[i] = error


def _those(all_of_them: list[T], places: Places) -> list[T]:
    """What stands there; nearly always all, and then nothing is copied."""
    return all_of_them if len(places) == len(all_of_them) else [all_of_them[i] for i in places]
