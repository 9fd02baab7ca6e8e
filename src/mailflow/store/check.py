"""Whether the queue on disk is whole: `mailflow queue check` (wish 82). Reads only; mending is `repair.py`'s work.

`check` goes through the database's own structure, then every message: its recipients against its counter, its content
against the checksum that is bound to its id; last what belongs to no message. It works beside a running server: each
look is short, and what left meanwhile is no finding.

What this module does not do: change anything, or judge which finding is worse than another.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from mailflow.envelope import HELD
from mailflow.errors import QueueDamaged, QueueError
from mailflow.ids import format_id
from mailflow.store import contents
from mailflow.store.failure import failure
from mailflow.store.schema import connect_read_only, database

MESSAGES_AT_ONCE = 500
CONTENT_AT_ONCE = 8 * 2**20
"""Bytes of content that are read together; one larger content is read alone."""
DATABASE_FINDINGS = 100
"""What the database says of itself, at most."""
ORPHANS = 10_000
"""Rows without a message that one check reports of each table; a repair goes on until none is left."""


class Kind(Enum):
    """What can be wrong."""

    DATABASE = "database"
    """The file's structure: pages, indexes."""
    COUNTER = "counter"
    """A message whose number of recipients is not what it says."""
    CONTENT = "content"
    """A message whose content is missing, or is not what was stored under its id."""
    QUARANTINED = "quarantined"
    """The same, with all its recipients on hold already: it waits for the operator."""
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


class _Row(NamedTuple):
    id: int
    size: int
    remaining: int
    recipients: int
    free: int
    """Recipients that are not on hold."""


def check(spool: Path, *, full: bool = False) -> Iterator[Finding]:
    """Everything that is wrong with the queue below `spool`. `full`: the database's indexes against its tables too.

    Raises QueueError when there is no queue, or it cannot be read at all.
    """
    try:
        db = connect_read_only(spool)
    except (sqlite3.Error, OSError) as error:
        raise failure(error, str(database(spool))) from error
    with closing(db):
        for look in (_structure(db, full=full), _messages(db, spool), _orphans(db)):
            try:
                yield from look
            except sqlite3.DatabaseError as error:
                yield Finding(Kind.DATABASE, 0, f"cannot be read on: {error}")


def _structure(db: sqlite3.Connection, *, full: bool) -> Iterator[Finding]:
    pragma = "integrity_check" if full else "quick_check"
    for (line,) in db.execute(f"PRAGMA {pragma}({DATABASE_FINDINGS})").fetchall():
        if line != "ok":
            yield Finding(Kind.DATABASE, 0, str(line).replace("\n", "; "))


def _messages(db: sqlite3.Connection, spool: Path) -> Iterator[Finding]:
    sql = (
        "SELECT id, size, remaining, (SELECT count(*) FROM recipient WHERE message_id = id),"
        " (SELECT count(*) FROM recipient WHERE message_id = id AND due < ?)"
        " FROM message WHERE id > ? ORDER BY id LIMIT ?"
    )
    last = -1
    while found := [_Row(*row) for row in db.execute(sql, (HELD, last, MESSAGES_AT_ONCE)).fetchall()]:
        for row in found:
            if not row.recipients:
                yield Finding(Kind.EMPTY, row.id, "has no recipients")
            elif row.remaining != row.recipients:
                yield Finding(
                    Kind.COUNTER,
                    row.id,
                    f"says that {row.remaining} of its recipients are left, and has {row.recipients}",
                )
        for part in _parts(found):
            yield from _contents(db, spool, part)
        last = found[-1].id


def _parts(found: list[_Row]) -> Iterator[list[_Row]]:
    """Messages whose contents are read together."""
    part: list[_Row] = []
    size = 0
    for row in found:
        if part and size + row.size > CONTENT_AT_ONCE:
            yield part
            part, size = [], 0
        part.append(row)
        size += row.size
    yield part


def _contents(db: sqlite3.Connection, spool: Path, part: list[_Row]) -> Iterator[Finding]:
    answers = contents.read(db, spool, [row.id for row in part])
    for row in part:
        error = answers[row.id]
        if isinstance(error, QueueError) and is_message(db, row.id):  # else it has left meanwhile
            what = str(error).partition(f"{format_id(row.id)} ")[2] if isinstance(error, QueueDamaged) else "is missing"
            held = row.recipients and not row.free
            yield Finding(Kind.QUARANTINED if held else Kind.CONTENT, row.id, f"its content {what}")


def _orphans(db: sqlite3.Connection) -> Iterator[Finding]:
    found: dict[int, list[str]] = {}
    for table, column in (("recipient", "message_id"), ("content", "id"), ("extent", "id")):
        sql = (
            f"SELECT DISTINCT {column} FROM {table}"  # noqa: S608 -- names of ours
            f" WHERE NOT EXISTS (SELECT 1 FROM message WHERE message.id = {table}.{column})"
            f" AND NOT EXISTS (SELECT 1 FROM leftover WHERE leftover.id = {table}.{column}) LIMIT ?"
        )
        noun = "recipients" if table == "recipient" else "content"
        for (key,) in db.execute(sql, (ORPHANS,)).fetchall():
            found.setdefault(key, []).append(noun)
    for key, nouns in found.items():
        yield Finding(Kind.ORPHAN, key, f"is not there, but its {' and '.join(nouns)}")


def is_message(db: sqlite3.Connection, id: int) -> bool:
    """Whether the message is in the queue."""
    return db.execute("SELECT 1 FROM message WHERE id = ?", (id,)).fetchone() is not None
