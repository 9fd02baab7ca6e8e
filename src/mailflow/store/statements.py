"""The statements that put messages into the tables and take them out: few, and each for many messages.

Python's sqlite3 gives up the interpreter lock at every step of a statement and again at its end; a busy event loop takes
it at once, and then both threads wait, wake and are woken. With a statement for each table and power of two that was a
fifth of all CPU time (docs/performance.md). So a view takes the whole of a message in one row, and its triggers do the
rest inside SQLite, without the lock; what there is too little of is filled up with rows of NOTHING, for which no trigger
fires. A usual batch of mail is one statement, which outside of BEGIN and COMMIT is a transaction of its own.

`prepare` makes the views, which live in the connection only. The transaction is the caller's.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from mailflow.envelope import HELD
from mailflow.store import rows
from mailflow.store.rows import NOTHING

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Rows in one statement: so few that every statement is found in the cache of prepared ones, and so near to each other
that little is filled up."""
MOST = SIZES[-1]


class Statements:
    """One statement for each number of rows, with places for `width` values in each."""

    def __init__(self, head: str, width: int, tail: str = "") -> None:
        row = f"({','.join('?' * width)})"
        self.width = width
        self.sql = {size: f"{head}{','.join([row] * size)}{tail}" for size in SIZES}

    def run(self, db: sqlite3.Connection, flat: Sequence[Any]) -> None:
        """Runs with all of these values, in parts that are filled up with NOTHING."""
        most = MOST * self.width
        for at in range(0, len(flat), most):
            part = flat[at : at + most] if len(flat) > most else flat
            size = SIZES[bisect_left(SIZES, -(-len(part) // self.width))]
            missing = size * self.width - len(part)
            db.execute(self.sql[size], [*part, *[NOTHING] * missing] if missing else part)


class Table:
    """What puts rows into one table and takes them out by id."""

    def __init__(self, name: str, columns: str, key: str) -> None:
        self.columns = columns
        width = columns.count(",") + 1
        filler = f" WHERE column{columns.split(', ').index(key) + 1} <> {NOTHING}"
        # OR ROLLBACK: a failing statement undoes the whole transaction, which we do anyway, so SQLite need not keep a
        # journal (a temporary file) to undo the statement alone.
        head = f"INSERT OR ROLLBACK INTO {name} ({columns}) SELECT * FROM (VALUES "  # noqa: S608
        self.insert = Statements(head, width, f"){filler}").run
        self._delete = f"DELETE FROM {name} WHERE {key} IN (SELECT value FROM json_each(?))"  # noqa: S608

    def delete(self, db: sqlite3.Connection, ids: list[int]) -> None:
        """Takes out what belongs to these messages."""
        if ids:
            db.execute(self._delete, (str(ids),))


RECIPIENT_WIDTH = rows.RECIPIENT_ROW.count(",") + 1
MESSAGE = Table("message", rows.MESSAGE_COLUMNS, "id")
RECIPIENT = Table("recipient", rows.RECIPIENT_ROW, "message_id")
CONTENT = Table("content", "id, crc, file, data", "id")
LEFTOVER = Table("leftover", "id", "id")
EXTENT = Table("extent", "id, crc, segment, page, size", "id")
EXTENTS = (
    "SELECT json_group_array(json_array(segment, page, size)) FROM extent WHERE id IN (SELECT value FROM json_each(?))"
    " AND typeof(segment) = 'integer' AND typeof(page) = 'integer' AND typeof(size) = 'integer'"
)
"""Where the contents of messages are, of which some have none there: JSON for JSON, in one step."""

_RECIPIENT_REST = rows.RECIPIENT_ROW.partition(", ")[2]
BATCH_COLUMNS = f"{rows.MESSAGE_COLUMNS}, {_RECIPIENT_REST}, crc, data, segment, page, extent, gone"
"""A message that enters, its first recipient, and its content: in `data`, or in an extent, or in a file (then none of
these). Or `gone`: ids of messages that leave all tables, as JSON."""
BATCH_WIDTH = BATCH_COLUMNS.count(",") + 1
BATCH = Statements(f"INSERT OR ROLLBACK INTO batch ({BATCH_COLUMNS}) VALUES ", BATCH_WIDTH).run  # noqa: S608


def gone(ids: list[int]) -> list[Any]:
    """The row of BATCH with which these messages leave."""
    return [*[NOTHING] * (BATCH_WIDTH - 1), str(ids)]


DEFERRING = Statements("INSERT INTO deferring VALUES ", 5).run
"""Recipients that stay: due, attempts, reason, message_id, number. A hold that was placed during the attempt stays."""


def _new(columns: str) -> str:
    return ", ".join(f"NEW.{name}" for name in columns.split(", "))


_GONE = "(SELECT value FROM json_each(NEW.gone))"
_VIEWS = (
    f"CREATE TEMP VIEW batch ({BATCH_COLUMNS}) AS SELECT {', '.join(['NULL'] * BATCH_WIDTH)}",
    f"""CREATE TEMP TRIGGER enter INSTEAD OF INSERT ON batch WHEN NEW.id <> {NOTHING} BEGIN
        INSERT INTO message ({rows.MESSAGE_COLUMNS}) VALUES ({_new(rows.MESSAGE_COLUMNS)});
        INSERT INTO recipient ({rows.RECIPIENT_ROW}) VALUES (NEW.id, {_new(_RECIPIENT_REST)});
    END""",  # noqa: S608
    f"""CREATE TEMP TRIGGER enter_content INSTEAD OF INSERT ON batch WHEN NEW.data <> {NOTHING} BEGIN
        INSERT INTO content (id, crc, data) VALUES (NEW.id, NEW.crc, NEW.data);
    END""",  # noqa: S608
    f"""CREATE TEMP TRIGGER enter_extent INSTEAD OF INSERT ON batch WHEN NEW.segment <> {NOTHING} BEGIN
        INSERT INTO extent (id, crc, segment, page, size) VALUES (NEW.id, NEW.crc, NEW.segment, NEW.page, NEW.extent);
    END""",  # noqa: S608
    f"""CREATE TEMP TRIGGER leave INSTEAD OF INSERT ON batch WHEN NEW.gone <> {NOTHING} BEGIN
        DELETE FROM message WHERE id IN {_GONE};
        DELETE FROM recipient WHERE message_id IN {_GONE};
        DELETE FROM content WHERE id IN {_GONE};
        DELETE FROM extent WHERE id IN {_GONE};
    END""",  # noqa: S608
    "CREATE TEMP VIEW deferring (due, attempts, reason, message_id, number) AS SELECT NULL, NULL, NULL, NULL, NULL",
    f"""CREATE TEMP TRIGGER defer INSTEAD OF INSERT ON deferring WHEN NEW.number <> {NOTHING} BEGIN
        UPDATE recipient SET due = iif(due >= {HELD!r}, due, NEW.due), attempts = NEW.attempts, reason = NEW.reason
            WHERE message_id = NEW.message_id AND number = NEW.number;
    END""",  # noqa: S608
)


def prepare(db: sqlite3.Connection) -> None:
    """Makes the views of this connection. Raises sqlite3.Error."""
    for statement in _VIEWS:
        db.execute(statement)
