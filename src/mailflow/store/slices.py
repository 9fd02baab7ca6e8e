"""A slice: the next recipients of one destination, for the scheduler; nothing leaves here that is not whole (wish 82).

The index says who is due. Each of its entries must have a row that agrees with it, the row and its message must match
their checksum (checksums.py), and the message must have as many recipients as it says: else the message is `lost`, and
all others go their way. Where SQLite itself cannot read on, for a page of a table is broken, the slice is read again row
by row, and what is on that page is lost. Only when the index is broken is there no slice.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Container, Sequence
from typing import Any

from mailflow.envelope import HELD, Message
from mailflow.ids import is_id
from mailflow.store import checksums, rows
from mailflow.store.failure import is_damage
from mailflow.store.rows import MESSAGE_COLUMNS, RECIPIENT_ROW
from mailflow.store.values import Position, Slice

START = Position(float("-inf"), -1, -1)
"""In front of every recipient."""
UNKNOWN = 0
"""In the place of an id that is none."""
COUNTED = 100
"""Recipients of a message that are counted, at most, to prove its counter: of more it is only known that they are many."""

_DUE = """
    SELECT message_id, number, due FROM recipient INDEXED BY recipient_due
    WHERE destination = :destination AND (attempts > 0) = :retried
        AND (due, message_id, number) > (:after_due, :after_message, :after_number) AND due <= :until
    ORDER BY due, message_id, number LIMIT :limit"""
_KEY = 3
"""Columns of _DUE: each row begins with them."""
_COLUMNS = ", ".join(f"r.{name}" for name in RECIPIENT_ROW.split(", "))
_FOUND = f"""
    SELECT d.*, {_COLUMNS} FROM ({_DUE}) AS d
    LEFT JOIN recipient AS r ON r.message_id = d.message_id AND r.number = d.number
    ORDER BY d.due, d.message_id, d.number"""  # noqa: S608
_ROW = f"SELECT {RECIPIENT_ROW} FROM recipient WHERE message_id = ? AND number = ?"  # noqa: S608
_MESSAGES = f"""
    SELECT {MESSAGE_COLUMNS}, (SELECT count(*) FROM (SELECT 1 FROM recipient WHERE message_id = id LIMIT {COUNTED}))
    FROM message WHERE id IN (SELECT value FROM json_each(?))"""  # noqa: S608
_NEXT = "SELECT min(due) FROM recipient WHERE destination = ? AND (attempts > 0) = ? AND due > ? AND due < ?"


def load(
    db: sqlite3.Connection, destination: str, after: Position | None, until: float, limit: int, *, retried: bool
) -> Slice:
    """The next recipients of a destination that are due, at most `limit`, in order (due, message id, number).

    `retried`: those that were tried before, else those that were not. Raises sqlite3.Error.
    """
    place = dict(zip(("after_due", "after_message", "after_number"), after or START, strict=True))
    wanted = {"destination": destination, "retried": retried, "until": min(until, HELD - 1), "limit": limit, **place}
    db.execute("BEGIN")  # one snapshot: what is missing in it is lost, and has not left meanwhile
    try:
        found = _found(db, wanted)
        (next_due,) = db.execute(_NEXT, (destination, retried, until, HELD)).fetchone()
        messages, lost = _proved(db, found, wanted) if found else ([], [])
    finally:
        db.execute("ROLLBACK")
    last = Position(found[-1][2], *found[-1][:2]) if found else None
    return Slice(messages, last, complete=len(found) < limit, next_due=next_due, lost=lost)


def without(found: Slice, gone: Container[int], aside: Collection[tuple[int, int]]) -> Slice:
    """A slice less those messages and those recipients."""
    found.messages = [message for message in found.messages if message.id not in gone]
    if aside:
        for message in found.messages:
            message.recipients = [r for r in message.recipients if (message.id, r.number) not in aside]
        found.messages = [message for message in found.messages if message.recipients]
    return found


def _proved(
    db: sqlite3.Connection, found: list[tuple[Any, ...]], wanted: dict[str, Any]
) -> tuple[list[Message], list[int]]:
    """The messages that are whole, in the order of their first recipient, and the ids of those that are not."""
    grouped: dict[int, list[tuple[Any, ...]]] = {}
    for row in found:
        grouped.setdefault(row[0], []).append(row)
    envelopes = {row[0]: row for row in _messages(db, [key for key in grouped if is_id(key)])}
    messages: list[Message] = []
    lost: list[int] = []
    for key, its in grouped.items():
        envelope = envelopes.get(key)
        message = None
        if envelope and all(_agrees(row, wanted) for row in its):
            message = _message(envelope, [row[_KEY:] for row in its])
        if message is not None:
            messages.append(message)
        else:
            lost.append(key if is_id(key) else UNKNOWN)
    return messages, lost


def _agrees(row: tuple[Any, ...], wanted: dict[str, Any]) -> bool:
    """Whether an entry of the index has its row, and is where it should be."""
    key, (_, _, due, attempts, destination, *_) = row[:_KEY], row[_KEY:]
    return (
        key == (row[_KEY], row[_KEY + 1], due)
        and destination == wanted["destination"]
        and type(attempts) is int
        and (attempts > 0) == wanted["retried"]
    )


def _message(envelope: Sequence[Any], its: list[tuple[Any, ...]]) -> Message | None:
    """A message, if it is as it was stored, as far as it can be seen from these recipients."""
    *message, counted = envelope
    remaining = message[3]
    if type(remaining) is not int or min(remaining, COUNTED) != counted:
        return None
    if len(its) > 1 and len({row[1] for row in its}) < len(its):  # an entry of the index that is there twice
        return None
    if not checksums.matches(message, its):
        return None
    try:
        return rows.read_message(message, [rows.read_recipient(row) for row in its])
    except (ValueError, TypeError, AttributeError):  # damaged already when it was given its checksum
        return None


def _found(db: sqlite3.Connection, wanted: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Entries of the index with their rows; None in the columns of a row that is not there, or cannot be read."""
    try:
        return db.execute(_FOUND, wanted).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    return [key + _one(db, _ROW, key[:2], len(_COLUMNS.split(","))) for key in db.execute(_DUE, wanted).fetchall()]


def _messages(db: sqlite3.Connection, ids: list[int]) -> list[tuple[Any, ...]]:
    """The messages with what is counted of their recipients; those that cannot be read are left out."""
    try:
        return db.execute(_MESSAGES, (json.dumps(ids),)).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
    width = MESSAGE_COLUMNS.count(",") + 2
    return [row for key in ids if (row := _one(db, _MESSAGES, (json.dumps([key]),), width))[0] == key]


def _one(db: sqlite3.Connection, sql: str, key: tuple[Any, ...], width: int) -> tuple[Any, ...]:
    """One row; Nones for one that is not there or on a broken page."""
    try:
        row: tuple[Any, ...] | None = db.execute(sql, key).fetchone()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        row = None
    return row or (None,) * width
