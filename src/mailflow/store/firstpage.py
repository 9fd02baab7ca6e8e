"""The database's first page: its header says how the rest is to be read, and its list of tables where each begins.

A byte of it that changes makes all mail unreadable, though all of it is there. But what it says is the same in every queue
of ours, or can be told from the file's length. So a repair puts the header of a new database in its place, or all of a
new first page, if mail can be read then; the old page is kept as `damaged/queue.db.page<number>`. What this module
does not do: find out what else is wrong. Pages that the header's lost list says are free are for `rescue.py` to drop.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from mailflow.errors import QueueError
from mailflow.store import checksums, damaged
from mailflow.store.content import sync_folder
from mailflow.store.failure import failure
from mailflow.store.rescue import fold_log
from mailflow.store.rows import MESSAGE_COLUMNS, RECIPIENT_ROW
from mailflow.store.schema import FORMAT, PAGE_SIZE_BYTES, connect, connect_read_only, database
from mailflow.store.settings import QueueSettings

HEADER_BYTES = 100
_COUNTER, _PAGES, _FREE, _LARGEST_ROOT, _FORMAT, _INCREMENTAL, _VALID_FOR = (
    slice(24, 28),
    slice(28, 32),
    slice(32, 40),
    slice(52, 56),
    slice(60, 64),
    slice(64, 68),
    slice(92, 96),
)
"""Fields of the header (SQLite's file format, 1.3)."""
_FIXED = (slice(0, 24), slice(44, 48), slice(56, 60), slice(68, 92))
"""Those that are the same in every queue: page size, ways to read and write, encoding, application id."""
NEWER_FORMATS = 100
"""So far above ours a format may be a newer mailflow's; what is higher is damage."""
PROBED = 100
"""Messages of which one has to be readable, envelope and all."""
_SCHEMA = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema ORDER BY name"


def mend(spool: Path, settings: QueueSettings) -> str:
    """Mends a damaged first page; what was done, in words, or "" if that is not what the queue lacks.

    The caller holds the spool's lock. Raises QueueError; the page is then as it was, or kept.
    """
    try:
        return _mend(spool, settings)
    except (OSError, sqlite3.Error) as error:
        raise failure(error, str(database(spool))) from error


def _mend(spool: Path, settings: QueueSettings) -> str:
    path = database(spool)
    if not _is_newer(path):
        fold_log(spool)  # a newer first page may be there
    if _is_newer(path) or path.stat().st_size < PAGE_SIZE_BYTES:
        return ""
    old = _first(path)
    number = int.from_bytes(old[_FORMAT])
    new, schema = _made_new(spool, settings)
    pages = path.stat().st_size // PAGE_SIZE_BYTES
    sound = number <= FORMAT and int.from_bytes(old[_PAGES]) <= pages
    sound = sound and all(old[field] == new[field] for field in _FIXED)
    if sound and _readable(spool, schema):
        return ""
    was_readable = sound and _readable(spool, None)
    kept = _keep(spool, old)
    try:
        if _tried(spool, list(_candidates(spool, old, new, pages)), schema, was_readable=was_readable):
            return f"the database's first page was written anew; the old one is kept as {kept}"
    except BaseException:
        _write(path, old)
        raise
    _write(path, old)
    kept.unlink()
    return ""


def _tried(spool: Path, pages: list[bytes], schema: list[Any], *, was_readable: bool) -> bool:
    """Whether one of them is right; then it is in its place."""
    # A queue that was migrated has another schema, or its tables begin elsewhere: that is no damage.
    for wanted, whole in ((schema, True),) if was_readable else ((schema, True), (schema, False), (None, False)):
        for page in pages:
            _write(database(spool), page)
            if _readable(spool, wanted) and (not whole or _is_whole(spool)):
                return True
    return False


def _first(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(PAGE_SIZE_BYTES)


def _is_newer(path: Path) -> bool:
    return FORMAT < int.from_bytes(_first(path)[_FORMAT]) <= FORMAT + NEWER_FORMATS


def _candidates(spool: Path, old: bytes, new: bytes, pages: int) -> Iterator[bytes]:
    """First pages to be tried, from that which changes least; last those that were kept before, for a crash may have
    ended us before one of them was put back."""
    for start, own in ((HEADER_BYTES, (_LARGEST_ROOT, _INCREMENTAL)), (HEADER_BYTES, ()), (PAGE_SIZE_BYTES, ())):
        page = bytearray(new[:start] + old[start:])
        for field in own:
            page[field] = old[field]
        yield _for_file(page, pages)
    for kept in sorted(damaged.folder(spool).glob("queue.db.page*")):
        yield _for_file(bytearray(kept.read_bytes()), pages)


def _for_file(page: bytearray, pages: int) -> bytes:
    """With the file's length, and no free pages: those may be others by now."""
    page[_PAGES] = pages.to_bytes(4)
    page[_FREE] = bytes(8)
    page[_VALID_FOR] = page[_COUNTER]
    return bytes(page)


def _made_new(spool: Path, settings: QueueSettings) -> tuple[bytes, list[Any]]:
    """First page and schema of a new queue."""
    work = spool / "rescue"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    try:
        with closing(connect(work, cache_bytes=settings.cache, checkpoint_bytes=settings.checkpoint)) as db:
            schema = db.execute(_SCHEMA).fetchall()
        return database(work).read_bytes()[:PAGE_SIZE_BYTES], schema
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _keep(spool: Path, old: bytes) -> Path:
    place = damaged.folder(spool)
    place.mkdir(mode=0o700, exist_ok=True)
    path = next(p for n in range(1, 10_000) if not (p := place / f"queue.db.page{n}").exists())
    path.touch(mode=0o600)
    _write(path, old)
    sync_folder(place)
    return path


def _write(path: Path, page: bytes) -> None:
    with path.open("r+b") as file:
        file.write(page)
        file.flush()
        os.fsync(file.fileno())


def _readable(spool: Path, schema: list[Any] | None) -> bool:
    """Whether a message is found with an envelope as it was stored, or there is none, and no recipient either; by this
    schema, if one is given."""
    try:
        with closing(connect_read_only(spool)) as db:
            if schema is not None and db.execute(_SCHEMA).fetchall() != schema:
                return False
            messages = db.execute(f"SELECT {MESSAGE_COLUMNS} FROM message ORDER BY id LIMIT ?", (PROBED,)).fetchall()  # noqa: S608
            sql = f"SELECT {RECIPIENT_ROW} FROM recipient WHERE message_id = ?"  # noqa: S608
            for row in messages:
                its = db.execute(sql, row[:1]).fetchall()
                if its and checksums.matches(row, its):
                    return True
            return not messages and db.execute("SELECT 1 FROM recipient LIMIT 1").fetchone() is None
    except (sqlite3.Error, QueueError, TypeError, ValueError):
        return False


def _is_whole(spool: Path) -> bool:
    """Whether all tables and indexes agree with each other; pages that nobody uses are for a rescue to drop."""
    try:
        with closing(connect_read_only(spool)) as db:
            lines = [line for (line,) in db.execute("PRAGMA integrity_check").fetchall()]
    except sqlite3.DatabaseError:
        return False
    return all(
        line == "ok" or line.endswith("never used") for text in lines for line in text.splitlines() if line[:3] != "***"
    )
