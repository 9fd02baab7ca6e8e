"""Finding and counting mail in the queue by any condition, without asking the server (wish 51).

Reads as `reader.py` does: each look is a short read transaction, so a server beside it is not held up. What a selection
finds here is what an administrator's command with the same selection changes: of a message, only the recipients
that fulfil the conditions are shown and counted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from mailflow.store import rows
from mailflow.store.failure import failure
from mailflow.store.filters import conditions
from mailflow.store.rows import MESSAGE_COLUMNS, RECIPIENT_COLUMNS
from mailflow.store.scan import Scan
from mailflow.store.schema import connect_read_only, database
from mailflow.store.values import QueuedMessage, Selection

T = TypeVar("T")

FOUND_AT_ONCE = 500
"""Recipients that one look finds, at most."""
LISTED_RECIPIENTS = 1000
"""Recipients of one message that are shown."""
GROUPS = 200_000
"""Different values that are counted apart; what else comes is counted together, which bounds memory."""
OTHERS = "(others)"

_DOMAIN = "lower(replace({0}, rtrim({0}, replace({0}, '@', '')), ''))"  # what stands behind the last @
GROUPINGS = {
    "destination": "destination",
    "recipient-domain": _DOMAIN.format("address"),
    "sender": "sender",
    "sender-domain": _DOMAIN.format("sender"),
    "client": "CASE WHEN peer LIKE '[%' THEN json_extract(peer, '$[0]') ELSE substr(peer, 1, instr(peer, char(9)) - 1) END",
    "reason": "reason",
    "state": "CASE WHEN due >= :held THEN 'held' WHEN attempts > 0 THEN 'deferred' ELSE 'queued' END",
}
"""What one can count by, as expressions over the columns of both tables."""
_OF_MESSAGE = frozenset({"sender", "sender-domain", "client"})


class Count(NamedTuple):
    """How much mail has one value."""

    value: str
    messages: int
    recipients: int
    oldest: float
    """When the first of the messages arrived, seconds since 1970."""


def find_messages(
    spool: Path, selection: Selection, now: float, limit: int | None = None, recipients: int = LISTED_RECIPIENTS
) -> Iterator[QueuedMessage]:
    """The messages with a selected recipient, oldest first, at most `limit`, with their first selected recipients.

    Raises QueueError when there is no queue, or it cannot be read.
    """
    scan, last = Scan(replace(selection, limit=limit), now), -1
    with closing(_asked(spool, lambda: connect_read_only(spool))) as db:
        while not scan.complete:
            found = _asked(spool, partial(_look, db, scan, selection, now, last, recipients))
            yield from found
            last = found[-1].id if found else last


def _look(
    db: sqlite3.Connection, scan: Scan, selection: Selection, now: float, last: int, recipients: int
) -> list[QueuedMessage]:
    """One look, in one snapshot; the message `last` has been shown."""
    db.execute("BEGIN")
    try:
        ids = {row[0]: None for row in scan.rows(db, "message_id, number", FOUND_AT_ONCE) if row[0] != last}
        return [_message(db, row, selection, now, recipients) for row in _messages(db, list(ids))]
    finally:
        db.execute("ROLLBACK")


def _messages(db: sqlite3.Connection, ids: list[int]) -> list[tuple[int, ...]]:
    sql = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"  # noqa: S608
    return db.execute(sql, (json.dumps(ids),)).fetchall()


def _message(
    db: sqlite3.Connection, row: tuple[int, ...], selection: Selection, now: float, recipients: int
) -> QueuedMessage:
    where = conditions(selection, now)
    sql = (
        f"SELECT {RECIPIENT_COLUMNS} FROM {where.tables}"  # noqa: S608
        f" WHERE message_id = :message_id AND {where.both} ORDER BY number LIMIT :recipients"
    )
    found = db.execute(sql, {**where.values, "message_id": row[0], "recipients": recipients})
    return rows.listed_message(row, [rows.listed_recipient(r) for r in found])


def count_by(spool: Path, selection: Selection, by: str, now: float) -> list[Count]:
    """Selected mail by one of GROUPINGS, most recipients first. Raises QueueError, ValueError for another `by`."""
    if by not in GROUPINGS:
        raise ValueError(f"cannot count by {by!r} (accepted: {', '.join(GROUPINGS)})")
    found: dict[str, Count] = {}
    with closing(_asked(spool, lambda: connect_read_only(spool))) as db:
        scan = Scan(selection, now, message=by in _OF_MESSAGE)
        columns = f"{GROUPINGS[by]}, count(DISTINCT message_id), count(*), min(message_id)"
        while not scan.complete:
            for value, messages, recipients, first in _asked(spool, lambda: scan.groups(db, columns)):
                _add(found, Count(value, messages, recipients, first / 1e6))
    return sorted(found.values(), key=lambda c: (-c.recipients, c.value))


def _add(found: dict[str, Count], more: Count) -> None:
    value = more.value if more.value in found or len(found) < GROUPS else OTHERS
    known = found.get(value)
    found[value] = (
        Count(
            value,
            known.messages + more.messages,
            known.recipients + more.recipients,
            min(known.oldest, more.oldest),
        )
        if known
        else more._replace(value=value)
    )


def count_messages(spool: Path, selection: Selection, now: float) -> int:
    """How many messages have a selected recipient. Raises QueueError."""
    total = 0
    with closing(_asked(spool, lambda: connect_read_only(spool))) as db:
        scan = Scan(selection, now)
        while not scan.complete:
            total += sum(row[1] for row in _asked(spool, lambda: scan.groups(db, "'', count(DISTINCT message_id)")))
    return total


def _asked(spool: Path, question: Callable[[], T]) -> T:
    try:
        return question()
    except (sqlite3.Error, OSError) as error:
        raise failure(error, str(database(spool))) from error
