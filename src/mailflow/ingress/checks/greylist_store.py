"""Where greylisting's memory is kept over restarts: one small SQLite file, and one thread that alone touches it.

The loop hands over `put`s, which are collected and written together every `FLUSH_SECONDS`, and awaits `get`s. Reading and
writing go through one queue in order, so that a `get` sees every earlier `put`. No write is waited for: what the last
seconds brought may be lost when the process or the machine dies, and then some mail waits once more.

Bounds: `READS` questions and `BATCHES` of writes wait for the thread; beyond that, and when the file fails, `get`
answers "unknown" at once and writes are dropped: greylisting goes on with what is in memory. A damaged file is moved aside. What has
expired is deleted in steps, and so is what is above the bound on rows.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from mailflow.ingress.checks.greylist import Entry

FLUSH_SECONDS = 1.0
BATCH_ROWS = 5_000
"""Rows that are written together; when so many wait they are handed over at once."""
BATCHES = 8
READS = 1_000
PURGE_SECONDS = 60
"""How often the thread looks for rows that have expired, while there is something to write."""
PURGE_ROWS = 2_000
"""Rows deleted in one step."""
CLOSE_SECONDS = 5.0
"""How long `close` waits for the last writes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
  key BLOB PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, passed INTEGER NOT NULL, until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_until ON entry (until);
"""

Row = tuple[Entry, int]
"""An entry, and when it is forgotten."""
Told = Callable[[str], None]


class GreylistStore:
    """The loop's side. Made and used in the running event loop."""

    def __init__(self, path: Path, rows: int, now: Callable[[], int], warn: Told) -> None:
        """`rows`: at most so many are kept. `warn` is told, on the loop, what went wrong with the file.

        Blocks for as long as it takes to open a file; for use when a server starts.
        """
        self._loop = asyncio.get_running_loop()
        self._warn = warn
        self._file = _File(path, rows, now)
        if self._file.moved:
            warn(f"the memory of greylisting was damaged and is now {self._file.moved}")
        self._dirty: dict[bytes, Row] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._batches = self._reads = 0
        self._broken = False
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="mailflow-greylist", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<GreylistStore unwritten={len(self._dirty)} batches={self._batches} reads={self._reads}>"

    def put(self, key: bytes, entry: Entry, until: int) -> None:
        """Keeps an entry, soon."""
        dirty = self._dirty
        dirty[key] = entry, until
        if len(dirty) >= BATCH_ROWS:
            self._hand_over()
        elif self._flush is None:
            self._flush = self._loop.call_later(FLUSH_SECONDS, self._hand_over)

    async def get(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """What is known of these keys."""
        found = {key: self._dirty[key][0] for key in keys if key in self._dirty}
        rest = [key for key in keys if key not in found]
        if not rest or self._reads >= READS:
            return found
        answer: asyncio.Future[dict[bytes, Entry]] = self._loop.create_future()

        def read() -> None:
            entries, trouble = self._file.read(rest)
            self._tell(self._read, answer, entries, trouble)

        self._reads += 1
        self._inbox.put(read)
        return found | await answer

    async def close(self) -> None:
        """Writes what is left, and ends the thread."""
        self._hand_over()
        self._inbox.put(None)
        await self._loop.run_in_executor(None, self._thread.join, CLOSE_SECONDS)

    def _hand_over(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        rows, self._dirty = self._dirty, {}
        if not rows or self._batches >= BATCHES:
            return

        def write() -> None:
            self._tell(self._written, self._file.write(rows))

        self._batches += 1
        self._inbox.put(write)

    def _read(self, answer: asyncio.Future[dict[bytes, Entry]], entries: dict[bytes, Entry], trouble: str) -> None:
        self._reads -= 1
        self._noted(trouble)
        if not answer.done():
            answer.set_result(entries)

    def _written(self, trouble: str) -> None:
        self._batches -= 1
        self._noted(trouble)

    def _noted(self, trouble: str) -> None:
        """One line in the log when the file begins to fail, and one when it works again."""
        if bool(trouble) != self._broken:
            self._broken = bool(trouble)
            self._warn(
                f"the memory of greylisting fails: {trouble}" if trouble else "the memory of greylisting works again"
            )

    # In the thread

    def _work(self) -> None:
        while (step := self._inbox.get()) is not None:
            step()
        self._file.close()

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop was closed under us: nobody is left to be told
            self._loop.call_soon_threadsafe(function, *arguments)


class _File:
    """The thread's side. Errors are returned as text, "" for none."""

    def __init__(self, path: Path, rows: int, now: Callable[[], int]) -> None:
        self._limit, self._now = rows, now
        self._purged = 0
        self.moved: Path | None = None
        """Where a damaged file has gone."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, no permission, no room: not the file's fault
                raise
            self.moved = path.with_suffix(".damaged")
            path.replace(self.moved)
            for tail in ("-wal", "-shm"):
                path.with_name(path.name + tail).unlink(missing_ok=True)
            self._db = _open(path)

    def read(self, keys: list[bytes]) -> tuple[dict[bytes, Entry], str]:
        found: dict[bytes, Entry] = {}
        try:
            for key in keys:
                row = self._db.execute("SELECT first, last, passed FROM entry WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = Entry(*row)
        except sqlite3.Error as error:
            return {}, str(error)
        return found, ""

    def write(self, rows: dict[bytes, Row]) -> str:
        try:
            with self._db:
                self._db.executemany(
                    "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?)",
                    [(key, *entry, until) for key, (entry, until) in rows.items()],
                )
                now = self._now()
                if not 0 <= now - self._purged < PURGE_SECONDS:
                    self._purged = now if self._purge(now) else 0
        except sqlite3.Error as error:
            return str(error)
        return ""

    def _purge(self, now: int) -> bool:
        """Deletes what has expired and what is too much, a step of each. True when nothing is left to do."""
        expired = self._delete("WHERE until <= ? ORDER BY until LIMIT ?", now, PURGE_ROWS)
        (count,) = self._db.execute("SELECT count(*) FROM entry").fetchone()
        surplus = count - self._limit
        if surplus > 0:
            self._delete("ORDER BY until LIMIT ?", min(surplus, BATCH_ROWS + PURGE_ROWS))
        return expired < PURGE_ROWS and surplus <= 0

    def _delete(self, which: str, *values: int) -> int:
        return self._db.execute(f"DELETE FROM entry WHERE key IN (SELECT key FROM entry {which})", values).rowcount  # noqa: S608 - our own words

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._db.close()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False)  # made here, used by the thread only
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
