"""What deleted messages have left is removed beside the mail, step by step (`leftovers.py`); nobody waits for it. On the event loop."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from mailflow.errors import QueueError
from mailflow.store.batch import Admin
from mailflow.store.leftovers import SweepTask
from mailflow.store.sqlite import Store
from mailflow.store.writer import Writer

SPARES = 19
"""While mail comes and goes, a step leaves it the writer for so many times as long as it took: it has a twentieth of its time."""
PAUSE_SECONDS = 1.0
"""The longest such pause."""
RETRY_SECONDS = 60.0
"""How soon a step that failed is tried again."""


class Sweeping:
    """The sweep of one queue: under way from `begin` until nothing is left."""

    def __init__(self, store: Store, writer: Writer, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._writer, self._loop = store, writer, loop
        self._task: SweepTask | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._commits = 0
        self._closed = False

    def begin(self) -> None:
        """Something may have been left."""
        if self._store.leftovers and self._task is None:
            self._task = SweepTask()
            self._go_on()

    def close(self) -> None:
        """The next start goes on with it."""
        self._closed = True
        if self._timer:
            self._timer.cancel()

    def _go_on(self) -> None:
        assert self._task is not None  # noqa: S101 - set by the callers
        self._timer = None
        self._writer.administer(Admin(self._task, partial(self._swept, self._task)))

    def _swept(self, task: SweepTask, result: list[Any] | QueueError) -> None:
        self._task = None
        if self._closed:
            return
        if isinstance(result, QueueError):  # the disk is full, perhaps: a deletion needs room in the log
            if not self._writer.failed:
                self._task, self._timer = task, self._loop.call_later(RETRY_SECONDS, self._go_on)
            return
        if task.complete:
            self.begin()  # something may have been deleted since
            return
        self._task = task
        seen, self._commits = self._commits, self._writer.mail_commits
        busy = self._writer.waiting or seen != self._commits
        pause = min(PAUSE_SECONDS, task.seconds * SPARES) if busy else 0.0
        self._timer = self._loop.call_later(pause, self._go_on)
