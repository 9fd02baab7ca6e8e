"""What is read from the store, as functions over a connection: destinations, listings, counts. Slices are in `slices.py`.

Used by the reader thread of a running queue and by the reading commands alike. Every function is a short read
transaction, so that no reader keeps the write-ahead log from being used again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from mailflow.envelope import HELD
from mailflow.store import rows
from mailflow.store.rows import MESSAGE_COLUMNS, RECIPIENT_COLUMNS
from mailflow.store.values import QueueCounts, QueuedMessage


def _messages(db: sqlite3.Connection, ids: Sequence[int]) -> list[tuple[Any, ...]]:
    sql = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608
    return db.execute(sql, (json.dumps(ids),)).fetchall()


def destinations(db: sqlite3.Connection, after: str, limit: int) -> list[tuple[str, float | None, float | None]]:
    """The next destinations behind `after`, at most `limit`: name, earliest due of what was never tried, and of what was.

    None where there is no such recipient, held ones left out. From the index alone, whose entries SQLite leaps over:
    a few looks for each destination, whatever is waiting for it.
    """
    return db.execute(_DESTINATIONS, {"after": after, "limit": limit, "held": HELD}).fetchall()


_DESTINATIONS = """
    WITH RECURSIVE site (name) AS (
        SELECT min(destination) FROM recipient WHERE destination > :after
        UNION ALL
        SELECT (SELECT min(destination) FROM recipient WHERE destination > name) FROM site WHERE name NOTNULL LIMIT :limit)
    SELECT name,
        (SELECT min(due) FROM recipient WHERE destination = name AND (attempts > 0) = 0 AND due < :held),
        (SELECT min(due) FROM recipient WHERE destination = name AND (attempts > 0) = 1 AND due < :held)
    FROM site WHERE name NOTNULL"""


def listing(
    db: sqlite3.Connection, after: int, limit: int, ids: Sequence[int] | None, most_recipients: int
) -> list[QueuedMessage]:
    """Messages behind id `after`, by id; `ids`: only these; of each the first `most_recipients` recipients."""
    db.execute("BEGIN")  # one snapshot for messages and recipients
    try:
        return _listing(db, after, limit, ids, most_recipients)
    finally:
        db.execute("ROLLBACK")


def _listing(
    db: sqlite3.Connection, after: int, limit: int, ids: Sequence[int] | None, most_recipients: int
) -> list[QueuedMessage]:
    if ids is None:
        sql = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608
        found = db.execute(sql, (after, limit)).fetchall()
    else:
        found = sorted(_messages(db, [key for key in ids if key > after][:limit]))
    sql = f"SELECT {RECIPIENT_COLUMNS} FROM recipient WHERE message_id = ? ORDER BY number LIMIT ?"  # noqa: S608
    return [
        rows.listed_message(row, [rows.listed_recipient(r) for r in db.execute(sql, (row[0], most_recipients))])
        for row in found
    ]


def counts(db: sqlite3.Connection) -> QueueCounts:
    """The queue in numbers."""
    messages = db.execute("SELECT count(*) FROM message").fetchone()[0]
    total, held, deferred = db.execute(
        "SELECT count(*), coalesce(sum(due >= ?1), 0), coalesce(sum(due < ?1 AND attempts > 0), 0) FROM recipient",
        (HELD,),
    ).fetchone()
    return QueueCounts(messages, total, total - held - deferred, deferred, held)
