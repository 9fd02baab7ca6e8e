"""Reading contents back: from the database, a segment, or a content file; each checked against its id (wish 82).

`read` gives the contents of some messages, `extents` what is in the segments. Both work on any connection, beside a
running server too. A content that its message left while we read, so that other bytes are in its place already, is not
damaged but gone: when the checksum fails, its row is looked up again, and only bytes whose row is still there are
damaged. What this module does not do: writing, repairing.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mailflow.envelope import Content, ContentFile
from mailflow.errors import QueueDamaged, QueueError
from mailflow.ids import format_id
from mailflow.store import checksums
from mailflow.store.extents import PAGE_BYTES, SEGMENT_BYTES
from mailflow.store.failure import is_damage
from mailflow.store.segments import segment_path

READ_BYTES = 1024 * 1024
"""A content file is checked in pieces of this size."""
LISTED_EXTENTS = 10_000
"""Extents read in one transaction."""
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""The machine lacks something at the moment, which says nothing about the content: QueueError, and it is read later."""


class StoredExtent(NamedTuple):
    """Where a message's content is in the segments, as its row says."""

    id: int
    crc: int
    segment: int
    page: int
    """The first, of `extents.PAGE_BYTES` each."""
    size: int
    """Bytes."""

    @property
    def sound(self) -> bool:
        """Whether all of it is numbers, as it was stored."""
        return all(type(value) is int for value in self)


def read(db: sqlite3.Connection, spool: Path, ids: Sequence[int]) -> dict[int, Content | QueueError]:
    """The contents of messages, or the error instead of each: QueueDamaged, or QueueError: it is not in the queue.

    What is on a broken page is damaged. Raises sqlite3.Error when the database cannot be read for another reason.
    """
    try:
        found = dict(_read(db, spool, json.dumps(list(ids))))
        absent = [key for key in ids if key not in found]
        return found | dict(_absent(db, absent)) if absent else found
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    if len(ids) == 1:
        return {ids[0]: _damaged(ids[0], "is on a broken page")}
    return {key: read(db, spool, [key])[key] for key in ids}


def _read(db: sqlite3.Connection, spool: Path, ids: str) -> Iterator[tuple[int, Content | QueueError]]:
    sql = (
        "SELECT id, crc, file, data FROM content WHERE id IN (SELECT value FROM json_each(?))"
        " AND NOT EXISTS (SELECT 1 FROM leftover WHERE leftover.id = content.id)"
    )
    for key, crc, file, data in db.execute(sql, (ids,)).fetchall():
        try:
            yield key, _check_bytes(key, crc, data) if file is None else _check_file(db, spool, key, crc, file)
        except QueueError as error:
            yield key, error
        except (TypeError, ValueError, OverflowError):
            yield key, _damaged(key, "has a row that makes no sense")
    sql = (
        "SELECT id, crc, segment, page, size FROM extent WHERE id IN (SELECT value FROM json_each(?))"
        " ORDER BY segment, page"
    )
    places = [StoredExtent(*row) for row in db.execute(sql, (ids,)).fetchall()]
    yield from _read_extents(db, spool, [place for place in places if place.sound])
    for place in places:
        if not place.sound:
            yield place.id, _damaged(place.id, "has a row that makes no sense")


def _absent(db: sqlite3.Connection, ids: list[int]) -> Iterator[tuple[int, QueueError]]:
    """What contents are that were not found: no content leaves before its message."""
    sql = "SELECT id FROM message WHERE id IN (SELECT value FROM json_each(?))"
    there = {row[0] for row in db.execute(sql, (json.dumps(ids),))}
    for key in ids:
        error = QueueError(f"message {format_id(key)} is not in the queue")
        yield key, _damaged(key, "is missing") if key in there else error


def extents(db: sqlite3.Connection, segment: int | None = None) -> Iterator[StoredExtent]:
    """What is in a segment, or in all, by message id; many short transactions, as a listing. Raises sqlite3.Error."""
    sql = (
        "SELECT id, crc, segment, page, size FROM extent WHERE id > ?1 AND (?2 IS NULL OR segment = ?2)"
        " ORDER BY id LIMIT ?3"
    )
    last = -1
    while found := db.execute(sql, (last, segment, LISTED_EXTENTS)).fetchall():
        yield from map(StoredExtent._make, found)
        last = found[-1][0]


def _read_extents(
    db: sqlite3.Connection, spool: Path, places: list[StoredExtent]
) -> Iterator[tuple[int, Content | QueueError]]:
    """The contents of extents, which come by segment."""
    number = -1
    fd: int | OSError = -1
    try:
        for place in places:
            if place.segment != number:
                _close(fd)
                number, fd = place.segment, _open(segment_path(spool, place.segment))
            yield place.id, _read_extent(db, spool, place, fd)
    finally:
        _close(fd)


def _open(path: Path) -> int | OSError:
    """The file, or why not: what is missing is damaged or gone, which its reader finds out."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        return error


def _close(fd: int | OSError) -> None:
    if isinstance(fd, int) and fd >= 0:
        os.close(fd)


def _read_extent(db: sqlite3.Connection, spool: Path, place: StoredExtent, fd: int | OSError) -> bytes | QueueError:
    trouble = "does not match its checksum"
    try:
        if isinstance(fd, OSError):
            raise fd
        data = os.pread(fd, min(place.size, SEGMENT_BYTES), place.page * PAGE_BYTES)
        if checksums.content(place.id, data) == place.crc:
            return data
    except (OSError, OverflowError, ValueError) as error:  # the last two: a row that makes no sense
        if isinstance(error, OSError) and error.errno in _PASSING:
            return _unread(place.id, error)
        trouble = f"cannot be read: {error}"
    sql = "SELECT id, crc, segment, page, size FROM extent WHERE id = ?"
    if db.execute(sql, (place.id,)).fetchone() != place:  # read anew: its message may have left meanwhile
        return QueueError(f"message {format_id(place.id)} is not in the queue any more")
    where = f"{segment_path(spool, place.segment)}, page {place.page}, {place.size} bytes"
    return _damaged(place.id, f"{trouble}: {where}")


def _damaged(id: int, what: str) -> QueueDamaged:
    return QueueDamaged(f"content of message {format_id(id)} {what}")


def _unread(id: int, error: OSError) -> QueueError:
    return QueueError(f"content of message {format_id(id)} cannot be read now: {error}")


def _check_bytes(id: int, crc: int, data: bytes | None) -> bytes:
    if not isinstance(data, bytes) or checksums.content(id, data) != crc:
        raise _damaged(id, "does not match its checksum")
    return data


def _check_file(db: sqlite3.Connection, spool: Path, id: int, crc: int, file: int) -> ContentFile:
    """A content file, read through once; behind the message's end a file may have bytes of an earlier one."""
    row = db.execute("SELECT size FROM message WHERE id = ?", (id,)).fetchone()
    path, left, value = spool / "content" / f"{file:08}", row[0] if row else 0, checksums.content(id, b"")
    size = left
    try:
        with path.open("rb", buffering=0) as stream:
            while left and (piece := stream.read(min(left, READ_BYTES))):
                value = checksums.content(id, piece, value)
                left -= len(piece)
    except OSError as error:
        if error.errno in _PASSING:
            raise _unread(id, error) from error
        raise _file_damaged(db, id, crc, file, f"cannot be read: {path}: {error.strerror}") from error
    if left or value != crc:
        raise _file_damaged(db, id, crc, file, f"does not match its checksum: {path}")
    return ContentFile(path, size)


def _file_damaged(db: sqlite3.Connection, id: int, crc: int, file: int, what: str) -> QueueError:
    """Looks again, for its message may have left meanwhile; then the file has gone, or is another's."""
    row = db.execute("SELECT crc, file FROM content WHERE id = ?", (id,)).fetchone()
    if row != (crc, file):
        return QueueError(f"message {format_id(id)} is not in the queue any more")
    return _damaged(id, what)
