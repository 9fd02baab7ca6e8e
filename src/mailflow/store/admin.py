"""The administrator's commands on the store: hold, release, delete, flush, in steps of bounded size.

A command is an `AdminTask`; `step(store)` does the next part in one transaction and says whether all is done. Between
two steps the writer commits mail, so that flushing 100,000 messages delays nobody. A command over many messages is
therefore not one transaction: after a crash the parts that were done stay done.

Selections by destination use the index, and so cost what they touch, however much else is waiting (wish 46).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from typing import TypeAlias

from mailflow.envelope import HELD
from mailflow.store.sqlite import Store
from mailflow.store.values import Changed, Selection

STEP_RECIPIENTS = 2000
"""Recipients changed in one transaction; some 10 ms of writing."""
STEP_IDS = 500

Rows: TypeAlias = list[tuple[int, int, str]]
"""Message id, recipient number, destination."""


class Command(Enum):
    """What to do with the selected recipients; the value is the condition for those that it changes."""

    HOLD = "due < :held"
    RELEASE = "due >= :held"
    FLUSH = "due > :now AND due < :held"
    DELETE = "TRUE"


class AdminTask:
    """One command under way."""

    def __init__(self, command: Command, selection: Selection, now: float) -> None:
        self._command = command
        self._selection = selection
        self._values: dict[str, float | str] = {"held": HELD, "now": now}
        self._parts: Iterator[tuple[str, str]] | None = None
        self._part: tuple[str, str] | None = None
        self._changed: dict[int, tuple[dict[str, None], int]] = {}

    def result(self) -> list[Changed]:
        """What was changed so far, by message in order of first touch."""
        return [Changed(key, tuple(names), count) for key, (names, count) in self._changed.items()]

    def step(self, store: Store) -> bool:
        """Does the next part; True when nothing is left. Raises what `Store.transaction` raises."""
        if self._parts is None:
            self._parts = self._split(store)
            self._part = next(self._parts, None)
        if self._part is None:
            return True
        rows = store.transaction(lambda: self._change(store, *(self._part or ("", ""))))
        self._note(store, rows)
        if len(rows) < STEP_RECIPIENTS:
            self._part = next(self._parts, None)
        return self._part is None

    def _split(self, store: Store) -> Iterator[tuple[str, str]]:
        """Conditions that together select everything meant, with the value that each needs."""
        selection = self._selection
        if selection.ids is not None:
            by_id = "message_id IN (SELECT value FROM json_each(:value))"
            for first in range(0, len(selection.ids), STEP_IDS):
                yield by_id, json.dumps(selection.ids[first : first + STEP_IDS])
        elif selection.destination is not None:
            yield from _both_lanes(selection.destination)
        else:
            for (name,) in store.db.execute("SELECT DISTINCT destination FROM recipient").fetchall():
                yield from _both_lanes(name)

    def _change(self, store: Store, condition: str, value: str) -> Rows:
        """One transaction's work: finds the next recipients to which the command still applies, and applies it."""
        sql = (
            "SELECT message_id, number, destination FROM recipient"  # noqa: S608
            f" WHERE {condition} AND {self._command.value} LIMIT {STEP_RECIPIENTS}"
        )
        rows: Rows = store.db.execute(sql, {**self._values, "value": value}).fetchall()
        if self._command is Command.DELETE:
            self._delete(store, rows)
        else:
            due = HELD if self._command is Command.HOLD else self._values["now"]
            store.db.executemany(
                "UPDATE recipient SET due = ? WHERE message_id = ? AND number = ?", [(due, r[0], r[1]) for r in rows]
            )
        return rows

    def _delete(self, store: Store, rows: Rows) -> None:
        store.db.executemany("DELETE FROM recipient WHERE message_id = ? AND number = ?", [r[:2] for r in rows])
        touched: dict[int, int] = {}
        for key, _, _ in rows:
            touched[key] = touched.get(key, 0) + 1
        store.remove([key for key, count in touched.items() if store.count_down(key, count) == 0])

    def _note(self, store: Store, rows: Rows) -> None:
        for key, _, destination in rows:
            names, count = self._changed.get(key, ({}, 0))
            names[destination] = None
            self._changed[key] = (names, count + 1)
        if self._command is Command.DELETE and store.files.busy:
            for key in {r[0] for r in rows}:
                if not store.has_message(key):
                    store.delete_file(key)


def _both_lanes(destination: str) -> Iterator[tuple[str, str]]:
    """The index has those never tried and those deferred apart, and each in order of due time."""
    yield "destination = :value AND (attempts > 0) = 0", destination
    yield "destination = :value AND (attempts > 0) = 1", destination
