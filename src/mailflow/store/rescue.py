"""A database with broken pages: everything that can still be read goes to a new one.

The ids of messages are gathered from every table and index, from both ends, as far as each can be walked; then each row is looked up by its
key, which fails for those on a broken page only. The new database takes the old one's place by renaming; the old one
stays as `damaged/queue.db.<number>`. Rows whose message is lost are then orphans, which `repair.py` keeps. Contents
whose row is lost are in a segment or a content file still: what was there is not used again while the old database is kept.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mailflow.store import damaged
from mailflow.store.content import sync_folder
from mailflow.store.failure import failure
from mailflow.store.rows import MESSAGE_COLUMNS, RECIPIENT_ROW
from mailflow.store.schema import CHECKSUMS_SINCE, check_format, connect, connect_read_only, database, seal
from mailflow.store.settings import QueueSettings

_TABLES = {
    "message": ("id", MESSAGE_COLUMNS),
    "recipient": ("message_id", RECIPIENT_ROW),
    "content": ("id", "id, crc, file, data"),
    "extent": ("id", "id, crc, segment, page, size"),
    "leftover": ("id", "id"),
}
_WALKS = (
    *(f"SELECT {key} FROM {table} ORDER BY {key}" for table, (key, _) in _TABLES.items()),  # noqa: S608
    "SELECT message_id, destination FROM recipient ORDER BY destination",  # along the index
)
RESERVED = ("segments", "content")
"""Folders whose files of the time of a rescue are not used again."""
IDS_AT_ONCE = 1000
"""Messages copied in one transaction."""
LOGS = ("-wal", "-shm")


def rescue(spool: Path, settings: QueueSettings) -> str:
    """Puts a new database with all that can be read into the place of a broken one. What was done, in words.

    The caller holds the spool's lock. Raises QueueError; then the old database is still in its place.
    """
    work = spool / "rescue"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        with closing(connect_read_only(spool)) as old, closing(_open(work, settings)) as new:
            copied, lost = _copy(old, new)
            if check_format(old, database(spool)) < CHECKSUMS_SINCE:
                seal(new)
            _reserve(spool, new)
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        fold_log(spool)
        kept = _exchange(spool, work)
    except (sqlite3.Error, OSError) as error:
        raise failure(error, str(database(spool))) from error
    return (
        f"rescued {copied} rows, {lost} could not be read; the broken database is kept as {kept};"
        " while it is there, no content that a lost row may have named is overwritten"
    )


def _open(folder: Path, settings: QueueSettings) -> sqlite3.Connection:
    return connect(folder, cache_bytes=settings.cache, checkpoint_bytes=settings.checkpoint)


def _copy(old: sqlite3.Connection, new: sqlite3.Connection) -> tuple[int, int]:
    """Rows copied, and look-ups that failed."""
    ids = sorted(_ids(old))
    copied = lost = 0
    _copy_meta(old, new)
    for first in range(0, len(ids), IDS_AT_ONCE):
        new.execute("BEGIN")
        for table, (key, columns) in _TABLES.items():
            marks = ",".join("?" * (columns.count(",") + 1))
            read = f"SELECT {columns} FROM {table} WHERE {key} = ?"  # noqa: S608 -- names of ours, as below
            write = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608
            for number in ids[first : first + IDS_AT_ONCE]:
                try:
                    rows = old.execute(read, (number,)).fetchall()
                except sqlite3.DatabaseError:
                    lost += 1
                    continue
                kept = new.executemany(write, rows).rowcount if rows else 0
                copied, lost = copied + kept, lost + len(rows) - kept  # a row with nothing where something has to be
        new.execute("COMMIT")
    return copied, lost


def _copy_meta(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    # Where the old one does not say which records of the redo log count, the log does, and a new database must not.
    new.execute("DELETE FROM meta WHERE key IN ('redo', 'redo_token')")
    try:
        rows = old.execute("SELECT key, value FROM meta WHERE typeof(value) = 'integer'").fetchall()
    except sqlite3.DatabaseError:
        return  # ids go on behind the newest message then
    new.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", rows)


def _reserve(spool: Path, new: sqlite3.Connection) -> None:
    """Contents whose rows are lost are in the files that are there now: a later repair may want them (`reserved`)."""
    for name in RESERVED:
        numbers = [int(entry.name) for entry in (spool / name).glob("[0-9]" * 8)]
        new.execute(
            "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)",
            (f"reserved_{name}", max(numbers, default=-1) + 1),
        )


def reserved(spool: Path, db: sqlite3.Connection) -> tuple[int, int]:
    """Segments below the first number, and content files below the second, keep what no row names: they were there when
    rows were lost. Until the operator removes the broken database, which says that nobody wants them any more."""
    if not any(path.suffix[1:].isdigit() for path in damaged.folder(spool).glob("queue.db.*")):
        return 0, 0
    found = dict(db.execute("SELECT key, value FROM meta"))
    return found.get("reserved_segments", 0), found.get("reserved_content", 0)


def _ids(db: sqlite3.Connection) -> set[int]:
    """Ids of messages of which anything can be found."""
    found: set[int] = set()
    for walk in _WALKS:
        for order in ("ASC", "DESC"):
            found.update(_walk(db, f"{walk} {order}"))
    return found


def _walk(db: sqlite3.Connection, sql: str) -> Iterator[int]:
    """The first column, as far as it can be read."""
    try:
        for row in db.execute(sql):
            if isinstance(row[0], int):
                yield row[0]
    except sqlite3.DatabaseError:
        return  # the other walks see what is behind the break


def fold_log(spool: Path) -> None:
    """Copies the old log into the old database, as far as that goes: a crash while they change places, when the log
    has gone already, must leave all mail in the database that the next start finds."""
    try:
        with closing(sqlite3.connect(database(spool), isolation_level=None)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except (sqlite3.Error, UnicodeDecodeError):  # the latter for SQLite's words about a damaged schema
        return  # so broken that no server starts on it


def _exchange(spool: Path, work: Path) -> Path:
    """The new database takes the old one's place; the old one is kept."""
    place = damaged.folder(spool)
    place.mkdir(mode=0o700, exist_ok=True)
    number = next(n for n in range(1, 10_000) if not (place / f"queue.db.{n}").exists())
    kept = place / f"queue.db.{number}"
    path = database(spool)
    os.link(path, kept)
    for log in LOGS:  # the old log must not be taken for the new database's
        if (source := path.with_name(path.name + log)).exists():
            source.rename(kept.with_name(kept.name + log))
    sync_folder(place)
    database(work).replace(path)
    sync_folder(spool)
    shutil.rmtree(work, ignore_errors=True)
    return kept
