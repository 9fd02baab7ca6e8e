"""Finding and counting mail in the queue by any condition, without asking the server (wish 51).

Reads as `reader.py` does: each look is a short read transaction, so a server beside it is not held up. What a selection
finds here is what an administrator's command with the same selection changes: of a message, only the recipients
that fulfil the conditions are shown and counted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mailflow.store import query, rows
from mailflow.store.failure import failure
from mailflow.store.filters import conditions
from mailflow.store.reader import open_queue
from mailflow.store.rows import MESSAGE_COLUMNS, RECIPIENT_COLUMNS
from mailflow.store.scan import Scan
from mailflow.store.schema import database
from mailflow.store.values import QueueCounts, QueuedMessage, Selection

T = TypeVar("T")

READ_ROWS = 50_000
"""Rows that one look reads at most: some 30 ms, in which the log cannot be begun anew."""
FOUND_AT_ONCE = 500
"""Recipients that one look finds, at most."""
LISTED_RECIPIENTS = 1000
"""Recipients of one message that are shown."""
DESTINATIONS_AT_ONCE = 1000
GROUPS = 200_000
"""Different values that are counted apart; what else comes is counted together, which bounds memory."""
OTHERS = "(others)"

_DOMAIN = (
    "lower(CASE instr(substr({0}, instr({0}, '@') + 1), '@') WHEN 0 THEN substr({0}, instr({0}, '@') + 1)"
    " ELSE replace({0}, rtrim({0}, replace({0}, '@', '')), '') END)"
)
"""What stands behind the last @; a quoted local part may have others."""
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
    scan, last = Scan(replace(selection, limit=limit), now, look=READ_ROWS), -1
    with closing(open_queue(spool)) as db:
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
    with closing(open_queue(spool)) as db:
        if by == "destination" and selection.everything:
            return _ordered(_count_destinations(spool, db))
        scan = Scan(selection, now, message=by in _OF_MESSAGE, look=READ_ROWS)
        columns = f"{GROUPINGS[by]}, count(DISTINCT message_id), count(*), min(message_id)"
        while not scan.complete:
            for value, messages, recipients, first in _asked(spool, lambda: scan.groups(db, columns)):
                _add(found, Count(value, messages, recipients, first / 1e6))
    return _ordered(found.values())


def _ordered(counts: Iterable[Count]) -> list[Count]:
    return sorted(counts, key=lambda c: (-c.recipients, c.value))


def _count_destinations(spool: Path, db: sqlite3.Connection) -> list[Count]:
    """From the index alone, which has them in order: a third of the work."""
    found: list[Count] = []
    sql = (
        "SELECT destination, count(DISTINCT message_id), count(*), min(message_id) FROM recipient"
        " WHERE destination > ? GROUP BY destination LIMIT ?"
    )
    while True:
        after = found[-1].value if found else ""
        part = _asked(spool, partial(_rows, db, sql, after, DESTINATIONS_AT_ONCE))
        found += [Count(name, messages, recipients, first / 1e6) for name, messages, recipients, first in part]
        if len(part) < DESTINATIONS_AT_ONCE:
            return found


def _rows(db: sqlite3.Connection, sql: str, *values: str | int) -> list[tuple[Any, ...]]:
    return db.execute(sql, values).fetchall()


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


def totals(spool: Path, selection: Selection, now: float) -> QueueCounts:
    """How much is selected, and in which states. Raises QueueError."""
    columns = (
        "'', count(DISTINCT message_id), count(*),"
        " coalesce(sum(due >= :held), 0), coalesce(sum(due < :held AND attempts > 0), 0)"
    )
    messages = recipients = held = deferred = 0
    with closing(open_queue(spool)) as db:
        if selection.everything:
            return _asked(spool, lambda: query.counts(db))
        scan = Scan(selection, now, look=READ_ROWS)
        while not scan.complete:
            for _, m, r, h, d in _asked(spool, lambda: scan.groups(db, columns)):
                messages, recipients, held, deferred = messages + m, recipients + r, held + h, deferred + d
    return QueueCounts(messages, recipients, recipients - held - deferred, deferred, held)


def _asked(spool: Path, question: Callable[[], T]) -> T:
    try:
        return question()
    except (sqlite3.Error, OSError) as error:
        raise failure(error, str(database(spool))) from error
