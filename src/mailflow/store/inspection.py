"""A running server's look at its own database: what is wrong with it as a whole, found in a thread of its own (wish 82).

Damage to a row is seen when the row is read; what an index or a page does not show any more is never read, and would
wait in silence. So the server looks at its structure (`check.structure`), which needs no message and no content. And it
makes indexes anew that do not agree with their tables, for in these all mail is still there.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

from mailflow.errors import QueueDamaged, QueueError
from mailflow.store.check import FINDING, Finding, structure
from mailflow.store.failure import failure, is_damage
from mailflow.store.schema import connect_read_only, database
from mailflow.store.sqlite import Store

INTERRUPT_SECONDS = 0.05


class Inspection:
    """One look. `findings` comes from the event loop's next turns; it raises QueueError where the queue cannot be read."""

    def __init__(self, spool: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.findings: asyncio.Future[list[Finding]] = loop.create_future()
        self._spool = spool
        self._loop = loop
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._thread = Thread(target=self._work, name="mailflow-inspect", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Breaks the look off; nobody is told of anything any more."""
        self._closed = True
        self.findings.cancel()
        while self._thread.is_alive():  # an interruption that comes between two statements is not noticed
            if self._db is not None:
                with suppress(sqlite3.ProgrammingError):  # it has just ended
                    self._db.interrupt()
            await self._loop.run_in_executor(None, self._thread.join, INTERRUPT_SECONDS)

    def _work(self) -> None:
        answer: list[Finding] | QueueError
        try:
            with closing(connect_read_only(self._spool)) as db:
                self._db = db
                answer = [] if self._closed else list(structure(db))
        except Exception as error:  # noqa: BLE001 -- the border: who waits gets it as a QueueError
            answer = failure(error, str(database(self._spool)))
        with suppress(RuntimeError):  # the loop was closed under us: nobody is left to be told
            self._loop.call_soon_threadsafe(self._tell, answer)

    def _tell(self, answer: list[Finding] | QueueError) -> None:
        if self.findings.done():
            return
        if isinstance(answer, QueueError):
            self.findings.set_exception(answer)
        else:
            self.findings.set_result(answer)


def reindex(db: sqlite3.Connection, *tables: str) -> None:
    """Makes the indexes anew, in a transaction of the caller's, who undoes it when this raises: then not only they are
    damaged (QueueDamaged), as a look at these tables, or at everything, shows; or it did not go (sqlite3.Error)."""
    try:
        db.execute("REINDEX")
        lines = [db.execute(f"PRAGMA integrity_check({what})").fetchone()[0] for what in tables or ("1",)]
        line = next((line for line in lines if line != "ok"), "ok")
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        line = str(error)
    if line != "ok":
        raise QueueDamaged(f"not only its indexes are damaged: {line}")


class ReindexTask:
    """`reindex` by the writer of a running queue: mail waits meanwhile, some seconds for each million of messages."""

    def step(self, store: Store) -> list[None]:
        """All of it. Raises QueueError; then nothing has changed."""
        store.transaction(lambda: reindex(store.db, *FINDING))
        return []
