"""Mail of the redo log is put into the tables, and what has left leaves them: in one transaction, which makes the log's records void.

Where a damaged database does not take some of it, all else is put in and that stays in the log (`Fresh.stuck`).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mailflow.errors import QueueError, QueueFull
from mailflow.store import statements
from mailflow.store.failure import StoreBroken, write_failure
from mailflow.store.redo import token_of
from mailflow.store.rows import row_of

if TYPE_CHECKING:
    from mailflow.store.sqlite import Store

T = TypeVar("T")
Change: TypeAlias = tuple[Callable[["Store", list[int]], None], int]
"""A message that enters (`_enter`) or leaves (`_leave`)."""

TOKEN_BYTES = 8


def folding(store: Store, body: Callable[[], T], leaving: Collection[int] = ()) -> T:
    """`body` in one transaction with all that the redo log has, but for messages that `body` takes out (`leaving`).

    It begins a new generation, whether there is anything or not: so the next record shows that this commit was made, should
    the database lose it. Raises as `Store.transaction`; then nothing has changed.
    """
    fresh = store.fresh
    if not fresh.used:
        return store.transaction(body)

    def both() -> T:
        _enter(store, [key for key in fresh.entries if key not in fresh.stuck and key not in leaving])
        _leave(store, [key for key in fresh.gone if key not in fresh.stuck])
        result = body()
        store.write_meta("redo", fresh.generation + 1)
        return result

    try:
        fresh.carry(leaving)
        result = store.transaction(both)
    except OSError as error:
        fresh.not_folded()
        raise write_failure(error, "the redo log") from error
    except BaseException:
        fresh.not_folded()
        raise
    fresh.folded()
    return result


def fold(store: Store) -> None:
    """Puts all into the tables that they take; the rest is `Fresh.stuck` then. Raises QueueError: nothing has become of it."""
    fresh = store.fresh
    if not fresh.dirty:
        return
    try:
        folding(store, _nothing)
    except (QueueFull, StoreBroken):
        raise
    except QueueError as error:
        if isinstance(error.__cause__, sqlite3.OperationalError | MemoryError):  # it passes
            raise
        changes: list[Change] = [(_enter, key) for key in fresh.entries if key not in fresh.stuck]
        changes += [(_leave, key) for key in fresh.gone if key not in fresh.stuck]
        fresh.stuck.update(_refused(store, changes, []))
        folding(store, _nothing)
        fresh.why = error


def unfold(store: Store) -> None:
    """At a start: reads the redo log and puts all into the tables. Raises QueueError, sqlite3.Error."""
    fresh = store.fresh
    fresh.load(_token(store), store.meta("redo"))
    known = "SELECT id FROM message WHERE id IN (SELECT value FROM json_each(?))"
    fresh.left(key for (key,) in store.db.execute(known, (str(list(fresh.entries)),)).fetchall())
    store.high_water = max(store.high_water, *fresh.entries, 0)
    try:
        try:
            fold(store)
        except QueueFull:
            store.make_room()
            fold(store)
    except QueueFull as full:
        fresh.trouble.append(f"{len(fresh.entries)} messages stay in the redo log until a start finds room: {full}")
    if fresh.stuck:
        fresh.trouble.append(f"{len(fresh.stuck)} messages stay in the redo log: {fresh.why}")


def _token(store: Store) -> int:
    """That of the database; made anew where it has lost it."""
    token = store.meta("redo_token")
    if token is None:
        found = token_of(store.spool)
        token = int.from_bytes(os.urandom(TOKEN_BYTES), signed=True) if found is None else found
        store.transaction(partial(store.write_meta, "redo_token", token))
    return token


def _nothing() -> None:
    return None


def _enter(store: Store, keys: list[int]) -> None:
    entries = store.fresh.entries
    flat: list[Any] = list(chain.from_iterable([row_of(*entries[key]) for key in keys]))
    if flat:
        statements.BATCH(store.db, flat)


def _leave(store: Store, keys: list[int]) -> None:
    store.remove(keys)


def _refused(store: Store, changes: list[Change], taken: list[Change]) -> list[int]:
    """Which of these the tables do not take beside those in `taken`, to which it adds the others: found by halving."""
    try:
        store.transaction(lambda: _tried(store, [*taken, *changes]))
    except _Undone:
        taken += changes
        return []
    except (QueueFull, StoreBroken):
        raise
    except QueueError:
        if len(changes) < 2:
            return [key for _, key in changes]
    half = len(changes) // 2
    refused = _refused(store, changes[:half], taken)
    return refused + _refused(store, changes[half:], taken)


class _Undone(QueueError):
    """It would have gone."""


def _tried(store: Store, changes: list[Change]) -> None:
    for kind in (_enter, _leave):
        kind(store, [key for change, key in changes if change is kind])
    raise _Undone("")
