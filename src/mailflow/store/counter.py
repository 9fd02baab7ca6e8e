"""Recipients of one message leave, and its counter with them: `remaining`, by which the last of them is known.

With the last one the message leaves with all that it has, so a counter that damage has changed must not say so. Everything
here is part of a transaction of the caller's, and raises sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from mailflow.store import statements
from mailflow.store.slices import COUNTED

_COUNT = """
    UPDATE message SET remaining = (SELECT count(*) FROM recipient WHERE message_id = id) WHERE id = ? RETURNING remaining"""
_LEFT = f"""
    SELECT remaining, (SELECT count(*) FROM (SELECT 1 FROM recipient WHERE message_id = id LIMIT {COUNTED}))
    FROM message WHERE id = ?"""  # noqa: S608


def delete(db: sqlite3.Connection, id: int, numbers: Sequence[int]) -> int:
    """Takes recipients out by their numbers; how many of them were there."""
    removed = 0
    for first in range(0, len(numbers), statements.MOST):
        some = numbers[first : first + statements.MOST]
        marks = ",".join("?" * len(some))
        sql = f"DELETE FROM recipient WHERE message_id = ? AND number IN ({marks})"  # noqa: S608
        removed += db.execute(sql, (id, *some)).rowcount
    return removed


def count_down(db: sqlite3.Connection, id: int, removed: int) -> int:
    """Subtracts from the counter; returns what is left, 0 also for a message that is not there."""
    db.execute("UPDATE message SET remaining = remaining - ? WHERE id = ?", (removed, id))
    row = db.execute(_LEFT, (id,)).fetchone()
    if row and min(row[0], COUNTED) != row[1]:  # the counter is damaged: nobody may leave for that
        return count_anew(db, id)
    return row[0] if row else 0


def count_anew(db: sqlite3.Connection, id: int) -> int:
    """Sets the counter to what is there, and returns it; 0 also for a message that is not there."""
    found = db.execute(_COUNT, (id,)).fetchall()
    return found[0][0] if found else 0
