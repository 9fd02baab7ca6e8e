"""Mail that is in the redo log (`redo.py`) and not in the tables: what it is, whether more may go there, and its return at a start.

A message with one recipient that is due, and its content in memory, goes to the redo log alone; so does the end of any message whose last
recipient leaves. Everything else (several recipients, deferrals, large contents, administration) is the tables' affair, and
takes what is here along: `fold.py`.

It belongs to the event loop while the thread that writes has nothing to do, or takes a step of an administrator's command, and to that thread
else; but the loop may look into
`entries` and `gone` at any time: what was acknowledged is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Container, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from mailflow.envelope import Message
from mailflow.errors import QueueError
from mailflow.store import damaged
from mailflow.store.content import sync_folder
from mailflow.store.redo import FILES, Entry, Record, blocks, contents, path, read
from mailflow.store.redo_file import Redo
from mailflow.store.rows import EnteringRows
from mailflow.store.values import Settlement

FOLD_SECONDS = 0.2
"""What has been in the redo log for so long, or up to twice as long, is put into the tables, where everybody finds it."""
MOST = 2000
"""Messages in the redo log alone: the commit that puts them into the tables holds up the next one."""
LARGEST = 64 * 1024
"""Bytes of a content that goes to the redo log: to write a larger one twice, should it stay, costs more than is gained."""
AT_ONCE_SECONDS = 1.0
"""Mail that is due later than this after its arrival will not leave at once."""
ROW_BYTES = 1024
"""What a message's rows take there, at least."""
SLOW_SECONDS = 0.02
"""A write that takes longer than this, into the system's memory, has waited for the disk: then it is for the thread."""
MOST_KEPT = 10_000
"""Copies of damaged logs."""
PAUSE_SECONDS = 5.0
"""How long the log is left alone after a failing write."""


class Packed(NamedTuple):
    """A record, ready to be written."""

    record: Record
    leaving: Sequence[Message | None]
    data: bytes


class Fresh:
    """What one spool has in its redo log."""

    def __init__(self, spool: Path, limit: int) -> None:
        """`limit`: bytes of the log; 0 to have none."""
        self.entries: dict[int, Entry] = {}
        """Messages, in the order in which they came."""
        self.gone: dict[int, tuple[int, Message | None]] = {}
        """Messages of the tables that have left: number of the last recipient, and the message unless a crash came between."""
        self.stuck: set[int] = set()
        """Those of both that a damaged database does not take: they are kept here."""
        self.why: QueueError | None = None
        """Why it does not."""
        self.generation = 0
        self.trouble: list[str] = []
        """What was damaged in the log when it was read, in words."""
        self.bytes = 0
        """About what the tables will grow by."""
        self._redo = Redo(spool, limit)
        self._values = EnteringRows().values
        self._limit = limit
        self._spool = spool
        self._oldest = 0
        """The oldest message when `aged` was last asked."""
        self.spoilt = False
        """A record may be on the disk that failed: the next transaction has to make it void."""
        self._resting_until = 0.0
        self._slow_until = 0.0
        self._carried = 0
        """The last generation to which something was carried, or may have been."""

    def __repr__(self) -> str:
        return f"<Fresh messages={len(self.entries)} gone={len(self.gone)} generation={self.generation}>"

    @property
    def unfolded(self) -> bool:
        """Whether the tables lack anything that they can take."""
        return len(self.entries) + len(self.gone) > len(self.stuck)

    @property
    def used(self) -> bool:
        """Whether there is a log, or was one."""
        return self._limit > 0 or self.dirty or bool(self.stuck)

    @property
    def dirty(self) -> bool:
        """Whether the next transaction has to begin a new generation."""
        return self.spoilt or self.unfolded

    def aged(self) -> bool:
        """Whether the oldest was here already when this was last asked: asked every FOLD_SECONDS, it is time then to put all
        into the tables."""
        before, self._oldest = self._oldest, next(chain(self.gone, self.entries), 0)
        return self._oldest == before > 0 and self.unfolded

    @property
    def _crowded(self) -> bool:
        return len(self.entries) + len(self.gone) - len(self.stuck) > MOST

    # Into the log

    def pack(
        self, entering: Sequence[Message], work: Sequence[Settlement], content_files: Container[int], heavy: int
    ) -> Packed | None:
        """The record of this, or None if it is for the tables. `content_files`: messages that have one; `heavy`: bytes of
        content together from which they go to a segment."""
        if self.spoilt or not self._limit or self._crowded:
            return None
        size = 0
        for message in entering:
            recipients = message.recipients
            if len(recipients) != 1 or type(message.content) is not bytes or len(message.content) > LARGEST:
                return None
            if recipients[0].due > message.arrived + AT_ONCE_SECONDS:
                return None
            size += len(message.content)
        for settlement in work:
            if not self.ends(settlement) or settlement.message.id in content_files:
                return None
        room = self._limit - self._redo.used
        if size >= heavy or blocks(size + ROW_BYTES * (len(entering) + len(work))) > room or self._rests():
            return None
        values = self._values
        record = Record([(values(m), m.content) for m in entering], [(s.message.id, s.done[0].number) for s in work])  # type: ignore[misc]
        try:
            return Packed(record, [s.message for s in work], self._redo.pack(record))
        except ValueError:  # SQLite says which one
            return None

    def _rests(self) -> bool:
        return self._resting_until > 0 and time.monotonic() < self._resting_until

    def ends(self, settlement: Settlement) -> bool:
        """Whether its message leaves, and with one recipient."""
        if settlement.deferred or len(settlement.done) != 1:
            return False
        return settlement.whole or settlement.message.id in self.entries  # which has no other recipient

    def write(self, packed: Packed) -> bool:
        """Writes it to the log; durable when it says True. False: nothing may be taken for written. For the thread."""
        try:
            self._redo.write(packed.data)
        except OSError:
            self.failed()
            return False
        self._enter(packed)
        return True

    def place(self, packed: Packed) -> int | None:
        """Puts it into the log on the loop, if that takes no time: the descriptor whose sync makes it durable. Then call
        `placed` or `failed`. None: the thread is to write it."""
        begun = time.monotonic()
        if begun < self._slow_until or not self._redo.fits(packed.data):
            return None
        try:
            fd = self._redo.place(packed.data)
        except OSError:
            self.failed()
            return None
        took = time.monotonic()
        if took - begun > SLOW_SECONDS:
            self._slow_until = took + PAUSE_SECONDS
        return fd

    def placed(self, packed: Packed) -> None:
        """It is durable."""
        self._redo.placed(packed.data)
        self._enter(packed)

    def failed(self) -> None:
        """A record is there or not: nothing may come behind it."""
        self._redo.void()
        self.spoilt = True
        self._resting_until = time.monotonic() + PAUSE_SECONDS

    def _enter(self, packed: Packed) -> None:
        entries, gone, _ = packed.record
        for entry in entries:
            self.entries[entry[0][0]] = entry
            self.bytes += len(entry[1]) + ROW_BYTES
        for (key, number), message in zip(gone, packed.leaving, strict=True):
            if not self._left(key):
                self.gone[key] = number, message

    def left(self, keys: Iterable[int]) -> None:
        """Messages of which the tables have taken note."""
        for key in keys:
            self._left(key)

    def _left(self, key: int) -> bool:
        entry = self.entries.pop(key, None)
        if entry is None:
            return False
        self.stuck.discard(key)
        self.bytes -= len(entry[1]) + ROW_BYTES
        return True

    # Into the tables

    def carry(self, leaving: Collection[int]) -> None:
        """Writes what is stuck, and does not leave now, to the next generation's file, before the transaction that begins it.

        Raises OSError.
        """
        self._redo.begin(self.generation + 1)
        stuck = [key for key in self.stuck if key not in leaving]
        if stuck or self._carried > self.generation:  # then something may stand there from an attempt that failed
            self._carried = self.generation + 1
            entries = [self.entries[key] for key in stuck if key in self.entries]
            gone = [(key, self.gone[key][0]) for key in stuck if key in self.gone]
            self._redo.write(self._redo.pack(Record(entries, gone, carried=True)))

    def folded(self) -> None:
        """That transaction is durable: the tables have all but what is stuck."""
        self.generation += 1
        self.entries = {key: entry for key, entry in self.entries.items() if key in self.stuck}
        self.gone = {key: its for key, its in self.gone.items() if key in self.stuck}
        self.bytes = sum(len(content) + ROW_BYTES for _, content in self.entries.values())
        self.spoilt = False

    def not_folded(self) -> None:
        """It failed: the old generation's records count still, and nothing may come behind what was begun meanwhile."""
        self.spoilt = True

    def kept(self) -> dict[int, tuple[int, Message | None]]:
        """Of `gone`, those that the tables keep."""
        return {key: self.gone[key] for key in tuple(self.stuck) if key in self.gone}

    def forget(self, keys: Iterable[int]) -> None:
        """Messages that have left and that the tables keep, noted elsewhere now."""
        for key in keys:
            self.gone.pop(key, None)
            self.stuck.discard(key)

    # From the log

    def regain(self, generation: int | None) -> None:
        """The database was opened anew: if the failed transaction is in it nevertheless, the tables have all."""
        if generation == self.generation + 1:
            self.folded()
        self.spoilt = True

    def load(self, token: int, generation: int | None) -> None:
        """At a start: what the log of this generation has; None where the database does not say which one counts."""
        self._redo.token = token
        try:
            log = read(self._spool, token, generation)
            self.trouble = log.trouble
            if log.damaged:
                self.trouble.append(_keep(self._spool))
        except (OSError, ValueError) as error:
            raise QueueError(f"the redo log cannot be read: {error}") from error
        for record in log.records:
            for entry in record.entries:
                self.entries[entry[0][0]] = entry
                self.bytes += len(entry[1]) + ROW_BYTES
            for key, number in record.gone:
                if not self._left(key):
                    self.gone[key] = number, None
        self.spoilt = log.used  # also by a record that was torn: none of that number may be beside it
        self.generation = log.next - 1 if log.used else log.next
        self._carried = log.next  # something may stand there
        self._redo.resume(log.next, log.file, log.at)

    def close(self) -> None:
        """Closes the files."""
        self._redo.close()


def _keep(spool: Path) -> str:
    """Copies the files below `damaged/`, and tells of it."""
    try:
        return f"the redo log is kept as {', '.join(map(str, _copies(spool)))}"
    except OSError as error:  # no room, perhaps: mail goes before evidence
        return f"the redo log cannot be kept: {error}"


def _copies(spool: Path) -> list[Path]:
    folder = damaged.folder(spool)
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = []
    for file in range(FILES):
        data, _ = contents(spool, file)
        if not data:
            continue
        name = path(spool, file).name
        number = next((n for n in range(1, MOST_KEPT) if not (folder / f"{name}.{n}").exists()), MOST_KEPT)
        kept.append(folder / f"{name}.{number}")
        with kept[-1].open("wb") as copy:
            copy.write(data)
            copy.flush()
            os.fsync(copy.fileno())
    sync_folder(folder)
    return kept
