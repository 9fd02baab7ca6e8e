"""The queue in SQLite: synchronous, for one thread at a time, knows no asyncio.

`Store.open(spool, settings)` takes a spool whose lock the caller holds. `commit(messages, settlements)` is one
transaction with one fsync: all of it is durable when it returns, and nothing of it when it raises. The administrator's
commands work in steps of bounded size, so that a step never holds up mail for long.

Errors: `QueueFull` and `QueueError` leave a whole store; after `StoreBroken` only `reopen` may be called, which proves
with new writes and fsyncs that everything acknowledged before is on the disk.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mailflow.envelope import ContentFile, Message
from mailflow.errors import QueueError, QueueFull
from mailflow.store import checksums, counter, statements
from mailflow.store.content import ContentFiles, sync_folder
from mailflow.store.extents import PAGE_BYTES, SEGMENT_BYTES
from mailflow.store.failure import MENDING, StoreBroken, StoreDamaged, failure
from mailflow.store.fold import fold, folding, unfold
from mailflow.store.fresh import Fresh, Packed
from mailflow.store.rescue import reserved
from mailflow.store.room import COPIES, SEGMENT_BATCH
from mailflow.store.rows import NOTHING, EnteringRows
from mailflow.store.schema import BUSY_SECONDS, PAGE_SIZE_BYTES, connect, database
from mailflow.store.segments import Segments
from mailflow.store.settings import QueueSettings
from mailflow.store.values import Settlement

T = TypeVar("T")

ID_RESERVE_US = 60_000_000
"""Ids are reserved this far ahead of the clock, so that the mark is written once a minute and not with every batch."""
ID_MARGIN_US = 1_000_000
"""The mark moves when fewer ids than this are left below it; no batch hands out as many."""
ALL = 2**62
"""Reserves all segments, or content files: a row that makes no sense may mean any of them."""
ROOM_SECONDS = 0.2
"""On a full disk, every batch has the log copied, and mail waits as long as readers are waited for: the long ones, as of
`queue check`, are not; the log is begun anew once they have ended."""


def plain(entering: Sequence[Message]) -> bool:
    """Whether all that enters is as most mail: a recipient each, and content in memory."""
    return all(len(message.recipients) == 1 and type(message.content) is bytes for message in entering)


class Store:
    """The tables of one spool, and what may be done to them."""

    def __init__(self, spool: Path, settings: QueueSettings, now: Callable[[], float]) -> None:
        self.spool = spool
        self.files = ContentFiles(spool)
        self.segments = Segments(spool)
        self.fresh = Fresh(spool, settings.redo_log)
        """What is in the redo log and not in the tables."""
        self.high_water = 0
        """No id up to this one may be handed out by a later run."""
        self.segment_threshold = settings.segment_threshold
        self.leftovers = False
        """Whether deleted messages may have left contents that `sweep` has to remove."""
        self._settings = settings
        self._now = now
        self._db: sqlite3.Connection | None = None
        self._reserved = 0
        self._rows = EnteringRows()

    @classmethod
    def open(cls, spool: Path, settings: QueueSettings, now: Callable[[], float] = time.time) -> Store:
        """Opens, migrates, sweeps content files and segments. Raises QueueError (a newer format, no access, damaged)."""
        store = cls(spool, settings, now)
        try:
            store._connect()
            unfold(store)
            store._load_files()
            sync_folder(spool)  # the names of database and folders themselves
        except (sqlite3.Error, OSError) as error:
            store._disconnect()
            raise failure(error, str(database(spool))) from error
        except BaseException:
            store._disconnect()
            raise
        return store

    @property
    def db(self) -> sqlite3.Connection:
        """The open connection. Raises StoreBroken when there is none."""
        if self._db is None:
            raise StoreBroken("the queue's database is closed")
        return self._db

    def _connect(self) -> None:
        settings = self._settings
        self._db = connect(self.spool, cache_bytes=settings.cache, checkpoint_bytes=settings.checkpoint)
        statements.prepare(self._db)
        newest = self._db.execute("SELECT max(id) FROM message").fetchone()[0]
        self._reserved = self.meta("high_water") or 0
        self.high_water = max(self.high_water, self._reserved, newest or 0)
        self.leftovers = self._db.execute("SELECT 1 FROM leftover LIMIT 1").fetchone() is not None

    def _disconnect(self) -> None:
        self.segments.close()
        self.fresh.close()
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except sqlite3.Error:
                return  # what it could not write back is still in the log

    def meta(self, key: str) -> int | None:
        """A number that the database keeps; None where it does not, or damage has made something else of it."""
        found = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found and type(found[0]) is int else None

    def write_meta(self, key: str, value: int) -> None:
        """Inside a transaction of the caller's."""
        self.db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def _load_files(self) -> None:
        segments, files = reserved(self.spool, self.db)
        found = self.db.execute("SELECT id, file FROM content WHERE file IS NOT NULL").fetchall()
        in_use = {key: file for key, file in found if type(file) is int}
        self.files.sweep(in_use, files if len(in_use) == len(found) else ALL)
        self._load_segments(segments)

    def _load_segments(self, reserved: int) -> None:
        # Pages are counted by SQLite, for there may be a million rows; as `extents.pages_for`, which tests compare.
        pages = f"max(size + {PAGE_BYTES - 1}, {PAGE_BYTES}) / {PAGE_BYTES}"
        sound = " AND ".join(f"typeof({column}) = 'integer'" for column in ("segment", "page", "size"))
        if self.db.execute(f"SELECT EXISTS (SELECT 1 FROM extent WHERE NOT ({sound}))").fetchone()[0]:  # noqa: S608
            reserved = ALL
        self.segments.load(self.db.execute(f"SELECT segment, page, {pages} FROM extent WHERE {sound}"), reserved)  # noqa: S608

    # One batch

    def pack(self, messages: Sequence[Message], work: Sequence[Settlement], last_id: int) -> Packed | None:
        """The record of the redo log with which this is durable, or None: then it is for `commit`. For the event loop, while
        nobody writes."""
        if last_id + ID_MARGIN_US > self._reserved:
            return None
        entering = [*messages, *(m for w in work for m in w.entering)] if work else messages
        return self.fresh.pack(entering, work, self.files.in_use, SEGMENT_BATCH * self.segment_threshold)

    def commit(self, messages: Sequence[Message], work: Sequence[Settlement], last_id: int) -> dict[int, int]:
        """One transaction: messages enter, settlements take effect. `last_id`: the newest id handed out.

        Returns message id → recipients left, for the settlements that are not `whole`. Raises QueueFull, QueueError,
        StoreBroken; then nothing of it is in the store.
        """
        entering = [*messages, *(m for w in work for m in w.entering)] if work else messages
        simple = last_id + ID_MARGIN_US <= self._reserved and plain(entering)
        try:
            left = self._commit(entering, work, last_id, simple=simple)
        except QueueError as error:
            if isinstance(error, QueueFull | StoreBroken) or not self.fresh.unfolded:
                raise
            fold(self)  # perhaps it is not this batch that the tables do not take
            left = self._commit(entering, work, last_id, simple=simple)
        if not simple:  # else there are no files among them
            for message in entering:
                if isinstance(message.content, ContentFile):
                    self.files.stored(message.id)
        if self.files.busy:
            self._release_files(work, left)
        return left

    def _commit(
        self, entering: Sequence[Message], work: Sequence[Settlement], last_id: int, *, simple: bool
    ) -> dict[int, int]:
        """Into the tables, with all that the redo log has."""
        if not self.fresh.used and simple and len(entering) < statements.MOST and all(w.whole for w in work):
            _, left = self.transaction(lambda: self._batch(entering, work, last_id), alone=True)
            return left
        if any(w.deferred and w.message.id in self.fresh.stuck for w in work):
            raise StoreDamaged(f"{database(self.spool)}: it does not take the message{MENDING}")
        leaving = {w.message.id for w in work if self.fresh.ends(w)}
        mark, left = folding(self, lambda: self._batch(entering, work, last_id), leaving)
        self._reserved = mark
        self.fresh.left(leaving)
        return left

    def transaction(self, body: Callable[[], T], *, alone: bool = False) -> T:
        """`body` inside BEGIN and COMMIT; errors are mapped, what it did is undone.

        `alone`: `body` writes with one statement, which is a transaction by itself.
        """
        try:
            if not alone:
                self.db.execute("BEGIN IMMEDIATE")
            result = body()
            if not alone:
                self.db.execute("COMMIT")
        except Exception as error:  # values that SQLite refuses raise UnicodeError, OverflowError and others
            self.segments.undone()
            self._rollback()
            raise failure(error, str(database(self.spool))) from error
        self.segments.committed()
        return result

    def _rollback(self) -> None:
        try:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise StoreBroken(f"{database(self.spool)}: cannot undo a transaction: {error}") from error

    def _batch(
        self, entering: Sequence[Message], work: Sequence[Settlement], last_id: int
    ) -> tuple[int, dict[int, int]]:
        gone, left = self._settle(work) if work else ([], {})
        flat = self._entering(entering) if entering else []
        if gone:
            flat += self._leaving(gone)
        statements.BATCH(self.db, flat)
        return self._move_mark(last_id) if entering else self._reserved, left

    def _entering(self, messages: Sequence[Message]) -> list[Any]:
        """The rows of `statements.BATCH`; what has no place there is written at once."""
        extents, row = self._extents(messages), self._rows.row
        entering: list[Any] = []
        others: list[Any] = []
        files: list[Any] = []
        for message in messages:
            content = message.content
            if not isinstance(content, bytes):
                entering += row(message, NOTHING, NOTHING)
                files += self._file(message)
            elif message.id in extents:
                entering += row(message, checksums.content(message.id, content), NOTHING, *extents[message.id])
            else:
                entering += row(message, checksums.content(message.id, content), content)
            if len(message.recipients) > 1:
                self._enter_recipients(others, message)
        statements.RECIPIENT.insert(self.db, others)
        statements.CONTENT.insert(self.db, files)
        return entering

    def _enter_recipients(self, flat: list[Any], message: Message) -> None:
        """Collects rows in `flat`, and writes them whenever there are enough, so that their number is bounded."""
        for row in self._rows.others(message):
            flat += row
            if len(flat) >= statements.MOST * statements.RECIPIENT_WIDTH:
                statements.RECIPIENT.insert(self.db, flat)
                flat.clear()

    def _extents(self, messages: Sequence[Message]) -> dict[int, tuple[int, int, int]]:
        """Large contents go to a segment, if they are enough together, and are durable there before the rows that
        say where: by message id."""
        least = self.segment_threshold
        large = [
            (message.id, content)
            for message in messages
            if isinstance(content := message.content, bytes) and least <= len(content) <= SEGMENT_BYTES
        ]
        if sum(len(content) for _, content in large) < SEGMENT_BATCH * least:
            return {}
        places = self.segments.write([content for _, content in large])
        return dict(zip([key for key, _ in large], places, strict=True))

    def _file(self, message: Message) -> tuple[Any, ...]:
        """The row of CONTENT for a message whose content is in a file."""
        claim = self.files.claim(message.id)
        if claim is None:
            raise QueueError(f"message {message.queue_id} has no content (a content file is made by Queue.spill)")
        return (message.id, claim[1], claim[0], None)

    def remove(self, ids: list[int]) -> None:
        """Messages out of all tables, inside a transaction of the caller's."""
        if ids:
            statements.BATCH(self.db, self._leaving(ids))

    def _leaving(self, ids: list[int]) -> list[Any]:
        """The row of `statements.BATCH` for messages that leave; the segments are told."""
        ids.sort()
        if self.segments.rows:
            self._leave_segments(ids)
        return statements.gone(ids)

    def _leave_segments(self, ids: list[int]) -> None:
        found = self.db.execute(statements.EXTENTS, (str(ids),)).fetchone()[0]
        self.segments.leave(map(tuple, json.loads(found)))

    def leave(self, ids: list[int]) -> None:
        """As `remove`, but contents in the database stay for `sweep`: each is a page to be written, and nobody needs it now."""
        ids.sort()
        statements.MESSAGE.delete(self.db, ids)
        statements.RECIPIENT.delete(self.db, ids)
        if self.files.busy:
            statements.CONTENT.delete(self.db, [key for key in ids if self.files.has(key)])
        if self.segments.rows:
            self._leave_segments(ids)
            statements.EXTENT.delete(self.db, ids)
        # OR IGNORE: what a damaged database may have there already is no reason not to delete
        self.db.execute("INSERT OR IGNORE INTO leftover SELECT value FROM json_each(?)", (json.dumps(ids),))
        self.leftovers = True

    # Settling

    def _settle(self, work: Sequence[Settlement]) -> tuple[list[int], dict[int, int]]:
        """Writes what stays; returns which messages leave, and the recipients left of those that were settled in part."""
        gone: list[int] = []
        left: dict[int, int] = {}
        deferred: list[Any] = []
        for settlement in work:
            message = settlement.message
            if settlement.whole:
                gone.append(message.id)
                continue
            for r in settlement.deferred:
                deferred += (r.due, r.attempts, r.reason, message.id, r.number)
            if settlement.done:
                removed = counter.delete(self.db, message.id, [r.number for r in settlement.done])
                left[message.id] = counter.count_down(self.db, message.id, removed)
        if deferred:
            statements.DEFERRING(self.db, deferred)
        gone += [key for key, count in left.items() if count == 0]
        return gone, left

    def remove_recipients(self, id: int, numbers: list[int]) -> bool:
        """Recipients of one message out of the tables, the message with the last of them, inside a transaction of the
        caller's; whether the message went. Where there are less rows than it says, as damage may have it, it stays, and its
        counter does: that is for a check to find."""
        row = self.db.execute("SELECT remaining FROM message WHERE id = ?", (id,)).fetchone()
        removed = counter.delete(self.db, id, numbers)
        if row and row[0] == removed:
            self.remove([id])
            return True
        self.db.execute("UPDATE message SET remaining = remaining - ? WHERE id = ?", (removed, id))
        return False

    def _release_files(self, work: Sequence[Settlement], left: dict[int, int]) -> None:
        for settlement in work:
            if settlement.whole or left.get(settlement.message.id) == 0:
                try:
                    self.files.settled(settlement.message.id)
                except OSError:
                    continue  # the next start's sweep finds it

    def has_message(self, id: int) -> bool:
        """Whether the message is in the queue."""
        return self.db.execute("SELECT 1 FROM message WHERE id = ?", (id,)).fetchone() is not None

    def delete_file(self, id: int) -> None:
        """The content file of a message that was deleted goes, if it has one."""
        try:
            self.files.deleted(id)
        except OSError:
            return  # the next start's sweep finds it

    def free_file(self, id: int) -> None:
        """The content file of a message that did not get into the queue is free."""
        try:
            self.files.refused(id)
        except OSError:
            return  # the next start's sweep finds it

    # Ids

    def _move_mark(self, last_id: int) -> int:
        """Reserves ids ahead when few are left; returns the mark, which counts once the transaction is committed."""
        if last_id + ID_MARGIN_US <= self._reserved:
            return self._reserved
        mark = max(int(self._now() * 1_000_000) + ID_RESERVE_US, last_id + ID_MARGIN_US)
        self.write_meta("high_water", mark)
        return mark

    def reserve(self, last_id: int) -> None:
        """Makes room for ids behind `last_id`, in a transaction of its own. Raises as `commit`."""
        self._reserved = self.transaction(lambda: self._move_mark(last_id))

    # Trouble

    def free_bytes(self) -> int:
        """Room for content: free on the disk for us, free inside the database, and what the segments could give back;
        less what the database will still grow when the log is copied into it. Raises QueueError."""
        try:
            disk = os.statvfs(self.spool)
            size = database(self.spool).stat().st_size
            pages = self.db.execute("PRAGMA page_count").fetchone()[0]
            unused = self.db.execute("PRAGMA freelist_count").fetchone()[0]
        except (OSError, sqlite3.Error) as error:
            raise failure(error, str(self.spool)) from error
        growth = max(0, pages * PAGE_SIZE_BYTES - size)
        growth += COPIES * self.fresh.bytes
        return int(disk.f_bavail * disk.f_frsize + unused * PAGE_SIZE_BYTES - growth) + self.segments.spare

    def make_room(self) -> None:
        """On a full disk: spare files and free pages of segments go, and the log is copied into the database, as far as that goes, so that its
        blocks are written again from the first. What cannot be copied stays in the log, and is copied later."""
        try:
            self.files.drop_spares()
            self.segments.give_back()
            with _patience(self.db, ROOM_SECONDS):
                self.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except (sqlite3.Error, OSError, StoreBroken):
            return  # the commit that follows says what is the matter

    def reopen(self, refused: Sequence[int], last_id: int) -> None:
        """After StoreBroken: opens anew and proves that the disk holds what was acknowledged.

        A failed fsync may have dropped pages that look written. So the whole log is copied into the database and both
        are synced again, then a commit of our own must succeed. `refused`: messages of the failed batch, which nobody
        was told are safe; what the log may hold of them is taken out. Raises QueueError when the proof fails.
        """
        self._disconnect()
        try:
            self._connect()
            busy, _, _ = self.db.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            if busy:
                raise StoreBroken(f"{database(self.spool)}: a reader keeps the log from being copied")
            self._load_segments(reserved(self.spool, self.db)[0])
            self.fresh.regain(self.meta("redo"))
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise failure(error, str(database(self.spool))) from error
        self._reserved = 0  # so that the transaction below writes something
        self.transaction(lambda: self.remove(list(refused)))
        fold(self)
        self.reserve(last_id)

    def close(self, last_id: int) -> None:
        """Writes the exact id mark and closes; the log is copied into the database. Raises QueueError."""
        if self._db is None:
            return
        try:
            fold(self)
            self.transaction(lambda: self.write_meta("high_water", last_id))
        finally:
            self._disconnect()


@contextmanager
def _patience(db: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Others that hold the database are waited for so long meanwhile."""
    db.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}").fetchone()
    try:
        yield
    finally:
        db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}").fetchone()
