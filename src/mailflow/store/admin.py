"""The administrator's commands on the store: hold, release, delete, flush, in steps of bounded size.

A command is an `AdminTask`; `step(store)` does the next part in one transaction and returns what it changed. Between two
steps the writer commits mail, and beside them the redo log takes what is usual (`writer.py`), so that changing 1,000,000 messages
delays nobody: a step adapts its size to take about STEP_SECONDS. A command over many messages is therefore not one transaction: after a crash the parts that were done
stay done.

Which recipients are meant is found by `scan.py`, within the same transaction. One destination costs what it touches,
however much else is waiting (wish 46).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from enum import Enum
from itertools import chain
from typing import TypeAlias

from mailflow.envelope import HELD
from mailflow.store import counter
from mailflow.store.scan import Scan
from mailflow.store.sqlite import Store
from mailflow.store.values import Changed, Selection

STEP_SECONDS = 0.1
"""A step that took longer is followed by a smaller one: new mail that is for the tables waits for its 250 as long as a step takes."""
SHORT_STEP_SECONDS = 0.02
"""The same where all new mail waits for it."""
STEP_RECIPIENTS = 2000
"""Recipients changed in one transaction, at most."""
SCANNED_RECIPIENTS = 5000
"""Rows that a step looks at, at most, whether they are meant or not: some 5 ms."""
SMALLEST_STEP = 200
"""A step has a sync of its own, which fewer would not be worth."""

Rows: TypeAlias = list[tuple[int, int, str]]
"""Message id, recipient number, destination."""


class Command(Enum):
    """What to do with the selected recipients."""

    HOLD = "hold"
    RELEASE = "release"
    FLUSH = "flush"
    DELETE = "delete"


_ABOUT = {
    Command.HOLD: "due < :held",
    Command.RELEASE: "due >= :held",
    Command.FLUSH: "due < :held",
    Command.DELETE: "TRUE",
}
"""The recipients that a command is about, among those selected."""


class AdminTask:
    """One command under way."""

    def __init__(
        self, command: Command, selection: Selection, now: float, also: str = "TRUE", seconds: float = STEP_SECONDS
    ) -> None:
        """`also`: a further condition in SQL, on columns of `recipient`; `seconds`: what a step may take."""
        self.seconds = 0.0
        """What the last step took."""
        self._command = command
        self._may_take = seconds
        self._now = now
        self._scan = Scan(selection, now, f"{_ABOUT[command]} AND {also}", look=SCANNED_RECIPIENTS)
        self._most = SMALLEST_STEP

    @property
    def complete(self) -> bool:
        """Nothing is left to do."""
        return self._scan.complete

    def step(self, store: Store) -> list[Changed]:
        """Does the next part; what it changed, by message. Raises what `Store.transaction` raises."""
        begun = time.perf_counter()
        rows, gone = store.transaction(lambda: self._change(store))
        if gone and store.files.busy:
            for key in gone:
                store.delete_file(key)
        self.seconds = time.perf_counter() - begun
        if self.seconds > self._may_take:
            self._most = max(SMALLEST_STEP, self._most // 2)
        elif len(rows) >= self._most and self.seconds < self._may_take / 2:
            self._most = min(STEP_RECIPIENTS, self._most * 2)
        return _changed(rows)

    def _change(self, store: Store) -> tuple[Rows, list[int]]:
        """One transaction's work: the recipients found and changed, and the messages that left with them."""
        rows: Rows = self._scan.rows(store.db, "message_id, number, destination", self._most)
        if not rows:
            return rows, []
        if self._command is Command.DELETE:
            return rows, _delete(store, rows)
        due = HELD if self._command is Command.HOLD else self._now
        later = " AND due > :due" if self._command is Command.FLUSH else ""  # what is due already need not be written
        sql = f"UPDATE recipient SET due = :due WHERE {_KEYS}{later}"  # noqa: S608
        store.db.execute(sql, {"due": due, "keys": json.dumps([r[:2] for r in rows])})
        return rows, []


def _delete(store: Store, rows: Rows) -> list[int]:
    """Takes recipients out, with the last one the message; returns the ids of messages that are gone.

    One statement for many: Python gives up the interpreter at each, and a busy event loop is slow to give it back.
    """
    touched: dict[int, int] = {}
    for key, _, _ in rows:
        touched[key] = touched.get(key, 0) + 1
    # Not by `remaining`, for that may be damaged.
    sql = f"""
        SELECT id, (SELECT count(*) FROM (SELECT 1 FROM recipient WHERE message_id = id LIMIT {STEP_RECIPIENTS + 1}))
        FROM message WHERE id IN (SELECT value FROM json_each(?))"""  # noqa: S608
    left = dict(store.db.execute(sql, (json.dumps(list(touched)),)).fetchall())
    gone = [key for key, count in touched.items() if left.get(key, 0) <= count]
    partly = touched.keys() - set(gone)
    if partly:
        keys = json.dumps([r[:2] for r in rows if r[0] in partly])
        store.db.execute(f"DELETE FROM recipient WHERE {_KEYS}", {"keys": keys})  # noqa: S608
        for key in partly:
            counter.count_down(store.db, key, touched[key])
    store.leave(gone)
    return gone


def merged(steps: Iterable[list[Changed]]) -> list[Changed]:
    """What all steps of a command changed, one entry a message, in the order of their ids."""
    found: dict[int, Changed] = {}
    for changed in chain.from_iterable(steps):
        known = found.get(changed.id)
        names, numbers = (known.destinations, known.numbers) if known else ((), ())
        both = tuple(dict.fromkeys(names + changed.destinations))
        found[changed.id] = Changed(changed.id, both, numbers + changed.numbers)
    return list(found.values())


def _changed(rows: Rows) -> list[Changed]:
    found: dict[int, tuple[dict[str, None], list[int]]] = {}
    for key, number, destination in rows:
        names, numbers = found.setdefault(key, ({}, []))
        names[destination] = None
        numbers.append(number)
    return [Changed(key, tuple(names), tuple(numbers)) for key, (names, numbers) in found.items()]


_KEYS = (
    "(message_id, number) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys))"
)
