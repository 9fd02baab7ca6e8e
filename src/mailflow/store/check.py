"""Whether the queue on disk is whole: `mailflow queue check` (wish 82). Reads only; mending is `repair.py`'s work.

`check` goes through the database's own structure, then every message: its recipients against its counter, envelope and
content against their checksums (checksums.py); last what belongs to no message. It works beside a running server:
what left meanwhile is no finding. `structure` is that part of it which reads no message, so that a server can do it on
its own queue however much is in it (inspection.py).

What this module does not do: change anything, or judge which finding is worse than another.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from enum import Enum
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from mailflow.envelope import HELD
from mailflow.errors import QueueDamaged
from mailflow.ids import format_id, is_id
from mailflow.store import aside, checksums, contents
from mailflow.store.failure import failure, is_damage
from mailflow.store.rows import MESSAGE_COLUMNS, RECIPIENT_ROW
from mailflow.store.schema import CHECKSUMS_SINCE, check_format, connect_read_only, database

MESSAGES_AT_ONCE = 500
CONTENT_AT_ONCE = 8 * 2**20
"""Bytes of content that are read together; one larger content is read alone."""
DATABASE_FINDINGS = 100
"""What the database says of itself, at most."""
ORPHANS = 10_000
"""Rows without a message that one check reports of each table; a repair goes on until none is left."""


FINDING = ("message", "recipient")
"""The tables by which mail is found."""
_TABLES = (("recipient", "message_id"), ("content", "id"), ("extent", "id"))
"""With the column in which they name their message."""


class Kind(Enum):
    """What can be wrong."""

    DATABASE = "database"
    """The file's structure: pages, indexes."""
    COUNTER = "counter"
    """A message whose number of recipients is not what it says."""
    ENVELOPE = "envelope"
    """A message or a recipient whose columns are not what was stored."""
    CONTENT = "content"
    """A message whose content is missing, or is not what was stored under its id."""
    QUARANTINED = "quarantined"
    """A damaged envelope or content, with all its recipients on hold already: it waits for the operator."""
    ASIDE = "aside"
    """A message of which recipients are done with, whose rows a damaged database did not let go (aside.py)."""
    EMPTY = "empty"
    """A message without a recipient."""
    ORPHAN = "orphan"
    """Recipients or content without a message."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    kind: Kind
    id: int
    """Of the message; 0 for the database."""
    text: str

    def __str__(self) -> str:
        where = f"message {format_id(self.id)}" if self.id else "database"
        return f"{where}: {self.text}"


def check(spool: Path, *, full: bool = False) -> Iterator[Finding]:
    """Everything that is wrong with the queue below `spool`. `full`: the database's indexes against its tables too.

    Raises QueueError when there is no queue, or it cannot be read at all.
    """
    try:
        db = connect_read_only(spool)
    except (sqlite3.Error, OSError) as error:
        raise failure(error, str(database(spool))) from error
    with closing(db):
        try:
            yield from _readable(_integrity(db, "integrity_check" if full else "quick_check"))
            yield from _readable(_counters(db))
            yield from _readable(_orphans(db, _TABLES))
            yield from _readable(_messages(db, spool))
            yield from _readable(_aside(db, spool))
        except (sqlite3.Error, OSError) as error:
            raise failure(error, str(database(spool))) from error


def structure(db: sqlite3.Connection) -> Iterator[Finding]:
    """What is wrong with the tables by which mail is found, and their indexes: all that nobody would notice, for what
    cannot be found is not read. No contents: five seconds of a processor for each million of messages, without the
    interpreter lock. Raises sqlite3.Error."""
    for table in FINDING:
        yield from _readable(_integrity(db, "integrity_check", f"({table})"))
    yield from _readable(_counters(db))
    yield from _readable(_orphans(db, _TABLES[:1]))


def _readable(look: Iterator[Finding]) -> Iterator[Finding]:
    """What a look finds, as far as a damaged database lets it look."""
    try:
        yield from look
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        yield Finding(Kind.DATABASE, 0, f"cannot be read on: {error}")


def _integrity(db: sqlite3.Connection, pragma: str, argument: str = f"({DATABASE_FINDINGS})") -> Iterator[Finding]:
    for (line,) in db.execute(f"PRAGMA {pragma}{argument}").fetchall():
        if line != "ok":
            yield Finding(Kind.DATABASE, 0, str(line).replace("\n", "; "))


def _counters(db: sqlite3.Connection) -> Iterator[Finding]:
    sql = (
        "SELECT id, remaining, counted FROM (SELECT id, remaining,"
        " (SELECT count(*) FROM recipient WHERE message_id = id) AS counted FROM message)"
        " WHERE counted = 0 OR remaining IS NOT counted LIMIT ?"
    )
    for key, remaining, counted in db.execute(sql, (ORPHANS,)).fetchall():
        if counted:
            text = f"says that {remaining} of its recipients are left, and has {counted}"
            yield Finding(Kind.COUNTER, key, text)
        else:
            yield Finding(Kind.EMPTY, key, "has no recipients")


def _messages(db: sqlite3.Connection, spool: Path) -> Iterator[Finding]:
    sql = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608
    sealed = check_format(db, database(spool)) >= CHECKSUMS_SINCE
    last = -1
    while found := db.execute(sql, (last, MESSAGES_AT_ONCE)).fetchall():
        if sealed:
            yield from _envelopes(db, found)
        for part in _parts([(row[0], row[2] if isinstance(row[2], int) else 0) for row in found]):
            yield from _contents(db, spool, part)
        last = found[-1][0]


def _envelopes(db: sqlite3.Connection, found: list[tuple[Any, ...]]) -> Iterator[Finding]:
    """Of each message one finding at most."""
    messages = {row[0]: row for row in found}
    sql = f"SELECT {RECIPIENT_ROW} FROM recipient WHERE message_id BETWEEN ? AND ? ORDER BY message_id"  # noqa: S608
    for key, its in groupby(db.execute(sql, (found[0][0], found[-1][0])), key=itemgetter(0)):
        if key in messages and not checksums.matches(messages[key], its) and is_message(db, key):
            yield _damage(db, key, Kind.ENVELOPE, "its envelope does not match its checksum")


def _damage(db: sqlite3.Connection, id: int, kind: Kind, text: str) -> Finding:
    """Something to be held, unless it is."""
    sql = "SELECT count(*) > 0 AND min(due) >= ? FROM recipient WHERE message_id = ?"
    (held,) = db.execute(sql, (HELD, id)).fetchone()
    return Finding(Kind.QUARANTINED if held else kind, id, text)


def _parts(found: list[tuple[int, int]]) -> Iterator[list[int]]:
    """Messages whose contents are read together, from their ids and sizes."""
    part: list[int] = []
    total = 0
    for key, size in found:
        if part and total + size > CONTENT_AT_ONCE:
            yield part
            part, total = [], 0
        part.append(key)
        total += size
    yield part


def _contents(db: sqlite3.Connection, spool: Path, part: list[int]) -> Iterator[Finding]:
    answers = contents.read(db, spool, part)
    for key in part:
        error = answers[key]
        if isinstance(error, QueueDamaged) and is_message(db, key):  # else it has left meanwhile
            what = str(error).partition(f"{format_id(key)} ")[2]
            yield _damage(db, key, Kind.CONTENT, f"its content {what}")


def _aside(db: sqlite3.Connection, spool: Path) -> Iterator[Finding]:
    for key, its in groupby(sorted(aside.read(spool)), key=itemgetter(0)):
        if is_message(db, key):
            text = f"{len(list(its))} of its recipients are done with, which could not be written; they are not tried again"
            yield Finding(Kind.ASIDE, key, text)


def _orphans(db: sqlite3.Connection, tables: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    found: dict[int, list[str]] = {}
    for table, column in tables:
        sql = (
            f"SELECT DISTINCT {column} FROM {table}"  # noqa: S608 -- names of ours
            f" WHERE NOT EXISTS (SELECT 1 FROM message WHERE message.id = {table}.{column})"
            f" AND NOT EXISTS (SELECT 1 FROM leftover WHERE leftover.id = {table}.{column}) LIMIT ?"
        )
        noun = "recipients" if table == "recipient" else "content"
        for (key,) in db.execute(sql, (ORPHANS,)).fetchall():
            if is_id(key):
                found.setdefault(key, []).append(noun)
            else:
                yield Finding(Kind.DATABASE, 0, f"table {table} has a row of no message: {column} {key!r}")
    for key, nouns in found.items():
        yield Finding(Kind.ORPHAN, key, f"is not there, but its {' and '.join(nouns)}")


def is_message(db: sqlite3.Connection, id: int) -> bool:
    """Whether the message is in the queue."""
    return db.execute("SELECT 1 FROM message WHERE id = ?", (id,)).fetchone() is not None
