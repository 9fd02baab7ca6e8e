"""The server looks for damage in its own queue: after its start, and then every `check_interval` (wish 82).

What it finds goes to the log, a few lines and the sum. Broken indexes are made anew, and what they did not show is taken
up; all else is for `mailflow queue check --repair`, which needs the server stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mailflow.errors import QueueError
from mailflow.journal import Journal
from mailflow.queue import Queue
from mailflow.store.check import Kind

TOLD = 5
"""Findings that have a line of their own in the log."""


class SelfCheck:
    """See the module's description."""

    def __init__(self, queue: Queue, journal: Journal, interval: float, take_up: Callable[[], Awaitable[None]]) -> None:
        """`interval` in seconds, 0: never. `take_up` is called when indexes are whole again: mail is in them that nobody
        knows of."""
        self._queue, self._journal, self._interval, self._take_up = queue, journal, interval, take_up
        self._task: asyncio.Task[None] | None = None
        self._in_vain = False

    def start(self) -> None:
        """Tells what was found at the start, and begins the first look."""
        for trouble in self._queue.trouble:
            self._journal.inspected(trouble)
        if self._interval:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Looks no more; a look that is under way is broken off."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
            except QueueError as error:
                self._journal.inspected(f"cannot be checked: {error}")
            await asyncio.sleep(self._interval)

    async def _look(self) -> None:
        findings = await self._queue.inspect()
        mended = any(found.kind is Kind.DATABASE for found in findings) and await self._mended()
        if mended:
            self._journal.inspected("its indexes were damaged and have been made anew", mended=True)
            findings = [found for found in findings if found.kind is not Kind.DATABASE]
        for finding in findings[:TOLD]:
            self._journal.inspected(str(finding))
        if len(findings) > TOLD:
            self._journal.inspected(f"{len(findings)} findings in all")
        if mended:
            await self._take_up()

    async def _mended(self) -> bool:
        """Whether new indexes are all that the database needed. Tried in vain once, it is not tried again."""
        if self._in_vain:
            return False
        try:
            await self._queue.reindex()
        except QueueError:
            self._in_vain = True
        return not self._in_vain
