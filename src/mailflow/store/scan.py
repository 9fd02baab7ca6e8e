"""Going through the recipients that a selection means, in steps of bounded work.

Used by the administrator's commands (inside the writer's transactions) and by listing and counting (read only). A
`Scan` remembers how far it came as a key of `recipient`, so that between two steps anything may enter and leave. Mail that
arrives after the scan began is not meant.

What a step costs: it looks at no more rows than its user can wait for. One destination, or ids, are found by their index;
anything else reads all rows once, which for 1,000,000 takes less than a second over all steps, and is why rare
conditions have no index: each would cost every message a page more to write.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from mailflow.store.filters import conditions, exact_destination
from mailflow.store.values import Selection

RANGES_AT_ONCE = 500
"""Messages that one step looks up by id, at most."""
INDEXED_RECIPIENTS = 20_000
"""Up to so many recipients of one destination are found by the index, and their keys kept; beyond, all rows are read."""
LAST = 2**62
"""Behind every message id and recipient number."""


class Key(NamedTuple):
    """A place in `recipient`."""

    message_id: int
    number: int


class Scan:
    """One way through the recipients of a selection."""

    def __init__(
        self,
        selection: Selection,
        now: float,
        also: str = "TRUE",
        *,
        look: int,
        message: bool = False,
    ) -> None:
        """`also`: another condition on columns of `recipient`, with :now and :held bound; `message`: columns of `message`
        are wanted, whatever the conditions are; `look`: rows that one look reads at most."""
        where = conditions(selection, now)
        if message and not where.message:
            where = where._replace(message="TRUE")
        self.values = where.values
        self.complete = selection.limit == 0
        self._left = LAST if selection.limit is None else selection.limit
        self._last = -1
        self._selection = selection
        self._ranges: Iterator[tuple[Key, Key]] | None = None
        self._range: tuple[Key, Key] | None = None
        self._look = look
        also = f"{also} AND id >= :a AND id <= :c" if where.message else also
        self._from = f" FROM {where.tables} WHERE {_BETWEEN} AND {where.both} AND {also}"
        # By the first table's own key: by the second's, SQLite would sort all that a look finds, and again for each part.
        self._order = "id, number" if where.message else "message_id, number"

    def rows(self, db: sqlite3.Connection, columns: str, most: int) -> list[tuple[Any, ...]]:
        """The next selected recipients, at most `most`; often fewer, or none, before `complete` is true.

        `columns` begins with message_id, number.
        """
        found: list[tuple[Any, ...]] = []
        sql = f"SELECT {columns}{self._from} ORDER BY {self._order} LIMIT :most"
        for _ in range(RANGES_AT_ONCE):
            part = self._next(db)
            if part is None:
                break
            some = self._select(db, sql, *part, most - len(found))
            found += some
            if len(found) >= most:
                self._range = (Key(*some[-1][:2]), self._end)
                break
            if part[1] < self._end:  # the rest of this range is for the next look
                break
        return self._limited(found)

    def _limited(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Ends the scan with the last message that is wanted."""
        for at, row in enumerate(rows):
            if row[0] != self._last:
                if self._left == 0:
                    self.complete = True
                    return rows[:at]
                self._last, self._left = row[0], self._left - 1
        return rows

    def groups(self, db: sqlite3.Connection, columns: str) -> list[tuple[Any, ...]]:
        """Sums over the next rows: `columns` are an expression to group by, and aggregates. No message is in two parts."""
        part = self._next(db, whole=True)
        return [] if part is None else self._select(db, f"SELECT {columns}{self._from} GROUP BY 1", *part, 0)

    def _select(self, db: sqlite3.Connection, sql: str, low: Key, high: Key, most: int) -> list[tuple[Any, ...]]:
        bounds = {"a": low[0], "b": low[1], "c": high[0], "d": high[1], "most": most}
        return db.execute(sql, {**self.values, **bounds}).fetchall()

    def _next(self, db: sqlite3.Connection, *, whole: bool = False) -> tuple[Key, Key] | None:
        """The next part of at most `look` rows: behind the first key, up to the second; None at the end.

        `whole`: and what else the last message has.
        """
        if self._ranges is None:
            self._ranges = self._plan(db)
        if self._range is None:
            self._range = next(self._ranges, None)
        if self._range is None:
            self.complete = True
            return None
        low, self._end = self._range
        if low[0] == self._end[0] and self._end[1] - low[1] <= self._look:  # it has no more numbers than that
            self._range = None
            return low, self._end
        keys = {"a": low[0], "b": low[1], "c": self._end[0], "d": self._end[1], "look": self._look - 1}
        row = db.execute(_BOUND, keys).fetchone()
        high = Key(row[0], LAST if whole else row[1]) if row else self._end
        self._range = (high, self._end) if row else None
        return low, high

    def _plan(self, db: sqlite3.Connection) -> Iterator[tuple[Key, Key]]:
        ids = self._selection.ids
        destination = exact_destination(self._selection)
        if ids is None and destination is not None:
            found = db.execute(_DESTINATION, (destination, INDEXED_RECIPIENTS + 1)).fetchall()
            if len(found) <= INDEXED_RECIPIENTS:
                return _spans([Key(*row) for row in found])
        if ids is not None:
            return iter([(Key(i, -1), Key(i, LAST)) for i in sorted(set(ids))])
        (newest,) = db.execute("SELECT max(id) FROM message").fetchone()
        return iter([] if newest is None else [(Key(-1, -1), Key(newest, LAST))])


def _spans(keys: list[Key]) -> Iterator[tuple[Key, Key]]:
    """For each message the part of the table from the first of its keys to the last."""
    for message_id, group in groupby(sorted(keys), key=itemgetter(0)):
        numbers = [number for _, number in group]
        yield Key(message_id, numbers[0] - 1), Key(message_id, numbers[-1])


_BETWEEN = "(message_id, number) > (:a, :b) AND (message_id, number) <= (:c, :d)"
_BOUND = (
    f"SELECT message_id, number FROM recipient WHERE {_BETWEEN}"  # noqa: S608
    " ORDER BY message_id, number LIMIT 1 OFFSET :look"
)
_DESTINATION = "SELECT message_id, number FROM recipient WHERE destination = ? LIMIT ?"
