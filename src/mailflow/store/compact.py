"""Giving unused space back to the disk (`mailflow queue compact`), beside a running server or without one.

What leaves the queue leaves free pages in the database and in the segments, and spare content files; the next mail uses
them again. After a large backlog they may be more than the queue will need for long. A `CompactTask` gives them back in
steps of about STEP_SECONDS: what deleted messages left is removed, pages with gaps are filled again (`repack.py`), the
database's last pages move into free ones, and the file is cut. A crash in between loses nothing; each step is a
transaction.

A database made before it was laid out for this (SQLite's auto_vacuum) has to be written anew once, which only
`rewrite` does, without a server and with room for two more copies of what is in it.
"""

from __future__ import annotations

import os
import sqlite3
import time

from mailflow.errors import QueueError, QueueFull
from mailflow.store.failure import failure
from mailflow.store.leftovers import SweepTask
from mailflow.store.repack import TABLES, Repack, free_pages
from mailflow.store.schema import PAGE_SIZE_BYTES, database
from mailflow.store.sqlite import Store

STEP_SECONDS = 0.02
FIRST_PAGES = 64
MOST_PAGES = 2048
"""Pages moved in one step, at most."""
FIRST_ROWS = FEWEST_ROWS = 200
"""Rows packed anew in one step: fewer would leave a page half empty behind each step too often."""
MOST_ROWS = 2000
COPIES = 2
"""VACUUM writes what is in the database to a temporary file, and from there to the log."""
INCREMENTAL = 2
"""The value of SQLite's auto_vacuum that lets us choose when."""


class CompactTask:
    """One compaction under way. `step` returns the bytes that it gave back."""

    def __init__(self) -> None:
        self.complete = False
        self.seconds = 0.0
        """What the last step took."""
        self._pages = FIRST_PAGES
        self._begun = False
        self._sweep = SweepTask()
        self._packs = [Repack(table) for table in TABLES]
        self._rows = FIRST_ROWS

    def step(self, store: Store) -> list[int]:
        """The next part. Raises QueueError when the database is not laid out for it, or cannot be written."""
        begun = time.perf_counter()
        if not self._begun:
            given = self._begin(store)
        elif not self._sweep.complete:
            given = 0
            self._sweep.step(store)
        elif self._packs:
            given = 0
            self._pack(store, self._packs[0])
        else:
            given = self._move(store)
        self.seconds = time.perf_counter() - begun
        if self.seconds > STEP_SECONDS:
            self._pages, self._rows = max(1, self._pages // 2), max(FEWEST_ROWS, self._rows // 2)
        elif self.seconds < STEP_SECONDS / 2:
            self._pages, self._rows = min(MOST_PAGES, self._pages * 2), min(MOST_ROWS, self._rows * 2)
        return [given]

    def _begin(self, store: Store) -> int:
        """Files first: whole ones, and the segments' free pages."""
        if store.db.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:
            raise QueueError(
                f"{database(store.spool)}: made by an older mailflow, cannot be compacted beside a running server;"
                " stop the server and run this command again"
            )
        self._begun = True
        try:
            store.files.drop_spares()
            return store.segments.give_back()
        except OSError as error:
            raise failure(error, str(store.spool)) from error

    def _pack(self, store: Store, pack: Repack) -> None:
        store.transaction(lambda: pack.step(store, self._rows))
        if pack.complete:
            self._packs.remove(pack)

    def _move(self, store: Store) -> int:
        free = free_pages(store)
        if free:
            # One page moves at each step of the statement: all have to be asked for.
            store.transaction(lambda: store.db.execute(f"PRAGMA incremental_vacuum({self._pages})").fetchall())
            left = free_pages(store)
        else:
            left = 0
        if left in (0, free):
            self.complete = True
            _cut(store)
        return (free - left) * PAGE_SIZE_BYTES


def rewrite(store: Store) -> int:
    """Writes the database anew, for later compaction in steps too; only without a server. Returns the bytes given back.

    Raises QueueFull when the disk has no room for it, QueueError.
    """
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    need = COPIES * (pages - free_pages(store)) * PAGE_SIZE_BYTES
    disk = os.statvfs(store.spool)
    if disk.f_bavail * disk.f_frsize < need:
        raise QueueFull(f"{store.spool}: compacting needs {need} bytes free for its copies")
    try:
        store.db.execute("PRAGMA temp_store = FILE")  # a copy of the queue is not for the memory
        store.db.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        store.db.execute("VACUUM")
        _cut(store)
    except (sqlite3.Error, OSError) as error:
        raise failure(error, str(database(store.spool))) from error
    left = store.db.execute("PRAGMA page_count").fetchone()[0]
    return int(pages - left) * PAGE_SIZE_BYTES


def _cut(store: Store) -> None:
    """The file shrinks when the log is copied into it; readers are not waited for, the next copying does it then."""
    store.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
