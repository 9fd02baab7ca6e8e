"""What an error of SQLite or the operating system means for the queue.

Four kinds, four classes: `QueueFull` (no room now, the store is whole), `QueueError` (this operation was refused, the
store is whole), `StoreDamaged` (this cannot be read or written, all else can) and `StoreBroken` (what reached the disk is
uncertain: close, reopen, verify). Pure.
"""

from __future__ import annotations

import errno
import sqlite3

from mailflow.errors import QueueError, QueueFull


class StoreDamaged(QueueError):
    """The database's own structure is broken where it was read or written: nothing has changed, and trying again does
    not help before it is repaired. What is elsewhere in it is not touched by that."""


class StoreBroken(QueueError):
    """A write or fsync failed: nothing of this batch may be taken for durable, and the store must be opened anew."""


_FULL_ERRNO = (errno.ENOSPC, errno.EDQUOT)
_NOT_OPENED = (errno.EMFILE, errno.ENFILE)
_HARMLESS = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_RANGE,
)


MENDING = "; mailflow queue check --repair, with the server stopped, mends what can be mended"
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the database's own structure is broken where it was read: reading again will not help."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def malformed(text: str) -> sqlite3.DatabaseError:
    """SQLite's own error for such damage, where it could not raise it."""
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
    return error


def write_failure(error: OSError, what: str) -> QueueError:
    """What a failing write or sync of a segment file means: no room, no descriptor to open it with (nothing was written
    then), or a disk on which nothing is certain."""
    if error.errno in _NOT_OPENED:
        return QueueError(f"{what}: {error.strerror}")
    kind = QueueFull if error.errno in _FULL_ERRNO else StoreBroken
    return kind(f"{what}: {error.strerror or error}")


def failure(error: Exception, what: str) -> QueueError:
    """The QueueError that says what `error` means; `what` names the file or the operation for the log."""
    if isinstance(error, QueueError):
        return error
    if isinstance(error, OSError):
        kind = QueueFull if error.errno in _FULL_ERRNO else QueueError
        return kind(f"{what}: {error.strerror or error}")
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
        name = getattr(error, "sqlite_errorname", "")
        primary = code & 0xFF
        text = f"{what}: {error}{f' ({name})' if name else ''}"
        if is_damage(error):
            return StoreDamaged(text + MENDING)
        if primary == sqlite3.SQLITE_READONLY or "file format" in str(error):  # a damaged header may say so
            text += MENDING
        if primary == sqlite3.SQLITE_FULL:
            return QueueFull(text)
        return QueueError(text) if primary in _HARMLESS or not name else StoreBroken(text)
    return QueueError(f"{what}: {type(error).__name__}: {error}")
