"""The administrator's commands on a spool that no server holds.

`with open_offline(spool) as queue: queue.hold(Selection(ids=(id,)))`. The lock is held meanwhile, so a server that starts
now is refused, and a server that runs refuses us: QueueLocked; then ask it through its control socket instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mailflow.errors import QueueError
from mailflow.store import redo
from mailflow.store.admin import AdminTask, Command, merged
from mailflow.store.aside import Aside
from mailflow.store.compact import INCREMENTAL, CompactTask, rewrite
from mailflow.store.leftovers import SweepTask
from mailflow.store.lock import SpoolLock
from mailflow.store.schema import database
from mailflow.store.settings import QueueSettings
from mailflow.store.sqlite import Store
from mailflow.store.values import Changed, Selection


class OfflineQueue:
    """The queue of a spool without a server. Every method is durable when it returns, and raises QueueError."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now

    def hold(self, selection: Selection) -> list[Changed]:
        """No attempts until release."""
        return self._run(Command.HOLD, selection)

    def release(self, selection: Selection) -> list[Changed]:
        """Held recipients become due now."""
        return self._run(Command.RELEASE, selection)

    def flush(self, selection: Selection) -> list[Changed]:
        """Deferred recipients become due now."""
        return self._run(Command.FLUSH, selection)

    def delete(self, selection: Selection) -> list[Changed]:
        """The recipients leave the queue without a bounce."""
        return self._run(Command.DELETE, selection)

    def compact(self) -> Iterator[int]:
        """Gives unused space back to the disk; the bytes of each step. A queue of an older mailflow is written anew."""
        if self._store.db.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:
            yield rewrite(self._store)
        task = CompactTask()
        while not task.complete:
            yield from task.step(self._store)

    def _run(self, command: Command, selection: Selection) -> list[Changed]:
        return merged(self.change(command, selection))

    def change(self, command: Command, selection: Selection) -> Iterator[list[Changed]]:
        """The command in steps; what each changed is durable when it is given out."""
        task = AdminTask(command, selection, self._now())
        while not task.complete:
            if changed := task.step(self._store):
                yield changed
        sweep = SweepTask()
        while not sweep.complete:
            sweep.step(self._store)


def fold_leftover(spool: Path, token: int, generation: int) -> None:
    """What a killed server left in its redo log is put into the tables, where a reader finds it, if that can be done. Nothing
    where a server runs: it does that itself in moments; nor where the log is damaged, of which the next one tells."""
    with suppress(QueueError, OSError):
        if not redo.read(spool, token, generation).damaged:
            with open_offline(spool):
                return


@contextmanager
def open_offline(
    spool: Path, settings: QueueSettings | None = None, now: Callable[[], float] = time.time
) -> Iterator[OfflineQueue]:
    """The queue below `spool`, locked while the block runs. Raises QueueLocked, or QueueError when there is none."""
    if not database(spool).exists():
        raise QueueError(f"{database(spool)}: there is no queue here")
    lock = SpoolLock(spool)
    lock.acquire()
    try:
        store = Store.open(spool, settings or QueueSettings(), now)
        try:
            Aside.open(store)
            yield OfflineQueue(store, now)
        finally:
            store.close(store.high_water)
    finally:
        lock.release()
