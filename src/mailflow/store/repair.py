"""Mending what `check.py` found: `mailflow queue check --repair`, for a spool that no server holds (wish 82).

Mail is never deleted. A message with a damaged content or envelope stays in the queue, on hold, and what there is of it is kept below
`damaged/`. What belongs to no message is kept there as well, durably, before its rows leave the queue. Counters and indexes are
made anew from what they count. A database that cannot be read as a whole is rescued row by row (`rescue.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from mailflow.envelope import HELD
from mailflow.errors import QueueDamaged, QueueError
from mailflow.store import counter, damaged, firstpage, rescue
from mailflow.store.aside import Aside
from mailflow.store.check import Finding, Kind, check
from mailflow.store.failure import failure, is_damage
from mailflow.store.inspection import reindex
from mailflow.store.lock import SpoolLock
from mailflow.store.schema import connect, database
from mailflow.store.settings import QueueSettings
from mailflow.store.sqlite import Store

QUARANTINE_REASON = "This message is damaged; see the folder damaged below the spool"


class Mended:
    """One finding, and what was done about it."""

    __slots__ = ("done", "finding")

    def __init__(self, finding: Finding, done: str) -> None:
        self.finding, self.done = finding, done

    def __str__(self) -> str:
        return f"{self.finding}: {self.done}" if self.done else str(self.finding)


def repair(spool: Path, settings: QueueSettings) -> Iterator[Mended]:
    """Finds and mends; the spool is locked meanwhile. `done` is "" for what waits for the operator already.

    Raises QueueLocked, QueueError.
    """
    if not database(spool).exists():
        raise QueueError(f"{database(spool)}: there is no queue here")
    lock = SpoolLock(spool)
    lock.acquire()
    try:
        if done := firstpage.mend(spool, settings):
            yield Mended(Finding(Kind.DATABASE, 0, "its first page is damaged"), done)
        findings = list(check(spool, full=True))
        broken = [f for f in findings if f.kind is Kind.DATABASE]
        if broken and _reindexed(spool, settings):
            yield from (Mended(f, "indexes made anew") for f in broken)
        elif broken:
            yield Mended(broken[0], rescue.rescue(spool, settings))
            findings = list(check(spool, full=True))
        store = Store.open(spool, settings)
        try:
            aside = Aside.open(store)
            for finding in findings:
                if finding.kind is not Kind.DATABASE:
                    yield Mended(finding, _mend(store, aside, finding))
        finally:
            store.close(store.high_water)
    finally:
        lock.release()


def _reindexed(spool: Path, settings: QueueSettings) -> bool:
    """Whether new indexes were all that the database needed."""
    try:
        with closing(connect(spool, cache_bytes=settings.cache, checkpoint_bytes=settings.checkpoint)) as db:
            db.execute("BEGIN IMMEDIATE")  # closing undoes what is not committed
            reindex(db)
            db.execute("COMMIT")
    except QueueDamaged:
        return False
    except sqlite3.Error as error:
        if not is_damage(error):
            raise failure(error, str(database(spool))) from error
        return False
    return True


def _mend(store: Store, aside: Aside, finding: Finding) -> str:
    key = finding.id
    if finding.kind is Kind.QUARANTINED and damaged.is_kept(store.spool, key):
        return ""
    if finding.kind is Kind.ASIDE:
        return "" if any(left == key for left, _ in aside.keys) else "taken out of the queue"
    if finding.kind is Kind.COUNTER and store.transaction(lambda: counter.count_anew(store.db, key)):
        held = store.db.execute("SELECT min(due) >= ? FROM recipient WHERE message_id = ?", (HELD, key)).fetchone()[0]
        return f"counted anew{'; it is on hold, to be released' if held else ''}"
    try:
        kept = damaged.keep(store.db, store.spool, key, finding.text)
    except (OSError, sqlite3.Error) as error:
        raise failure(error, str(damaged.folder(store.spool))) from error
    if finding.kind is Kind.QUARANTINED:
        return f"kept as {kept}"
    if finding.kind in (Kind.CONTENT, Kind.ENVELOPE):
        sql = "UPDATE recipient SET due = ?, reason = ? WHERE message_id = ?"
        _guarded(store, lambda: store.db.execute(sql, (HELD, QUARANTINE_REASON, key)))
        return f"on hold, and kept as {kept}"
    _guarded(store, lambda: store.remove([key]))  # its file, if it has one, is free at the next start
    return f"moved to {kept}"


def _guarded(store: Store, body: Callable[[], object]) -> None:
    store.transaction(body)
