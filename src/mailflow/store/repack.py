"""Filling pages again that a scattered deletion has left partly empty, so that whole pages become free.

New mail has higher ids than all before, so nothing ever enters such pages again. A `Repack` goes through a table by key, takes some
neighbouring rows out, and puts them in again, in one transaction: SQLite fills the pages anew, to 88 % as at first
(measured with contents of 1 KB). Where that made no page free the next rows are passed over, ever more of them; so a
table without gaps is not written anew as a whole. Only the two tables that are ordered by id alone: a recipient's row would cost a page of the index too.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

from mailflow.store import statements
from mailflow.store.schema import PAGE_SIZE_BYTES
from mailflow.store.sqlite import Store

MOST_BYTES = 2**20
"""Contents moved in one transaction, at most; one that is larger moves alone."""
WORTH = 20
"""It paid if one page of so many became free."""
MOST_PASSED = 16
"""At most so many times as many rows are passed over as were moved in vain."""


class Table(NamedTuple):
    """What is packed, by the integer key `id`."""

    name: str
    size: str
    """An expression: what a row has beside a few bytes."""


TABLES = (
    Table("content", "coalesce(length(data), 0)"),
    Table("message", "length(sender) + length(peer) + length(options)"),
)


class Repack:
    """One way through a table. `step` is a transaction's work."""

    def __init__(self, table: Table) -> None:
        self.complete = False
        self._table = table
        self._last = -1
        self._newest = -1
        """What enters later stands behind it, in full pages."""
        self._pass = 0

    def step(self, store: Store, most: int) -> None:
        """Packs the next rows, at most so many, inside a transaction of the caller's."""
        db, name = store.db, self._table.name
        if self._newest < 0:
            self._newest = db.execute(f"SELECT coalesce(max(id), 0) FROM {name}").fetchone()[0]  # noqa: S608 -- names of ours, as below
        if self._pass:
            sql = f"SELECT id FROM {name} WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"  # noqa: S608
            row = db.execute(sql, (self._last, self._pass * most - 1)).fetchone()
            if row is None:
                self.complete = True
                return
            self._last = row[0]
        sql = f"SELECT id, {self._table.size} FROM {name} WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"  # noqa: S608
        end, size = self._last, 0
        found = db.execute(sql, (self._last, self._newest, most)).fetchall()
        for key, length in found:
            if size and size + length > MOST_BYTES:
                break
            end, size = key, size + length
        free = free_pages(store)
        _put_again(store, name, self._last, end)
        self._last, self.complete = end, not found or (len(found) < most and end == found[-1][0])
        paid = (free_pages(store) - free) * PAGE_SIZE_BYTES * WORTH > size
        self._pass = 0 if paid else min(MOST_PASSED, 2 * self._pass or 1)


def _put_again(store: Store, name: str, after: int, last: int) -> None:
    """Takes the rows of `message` or `content` with ids behind `after`, up to `last`, out and puts them in again."""
    table = statements.CONTENT if name == "content" else statements.MESSAGE
    sql = f"DELETE FROM {name} WHERE id > ? AND id <= ? RETURNING {table.columns}"  # noqa: S608
    found = sorted(store.db.execute(sql, (after, last)).fetchall())
    table.insert(store.db, list(chain.from_iterable(found)))


def free_pages(store: Store) -> int:
    """Pages of the database that hold nothing."""
    return int(store.db.execute("PRAGMA freelist_count").fetchone()[0])
