"""An administrator's commands on a queue that a server has open: in steps beside the mail, each in a transaction of its own.

`Queue` hands them on. They leave disk and processor to the mail for most of the time; what a command does, step by step, is in
`admin.py`, `compact.py` and others. Here too is what the server itself does in that way: damaged messages are put on hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from mailflow.store.admin import SHORT_STEP_SECONDS, STEP_SECONDS, AdminTask, Command, merged
from mailflow.store.batch import Task
from mailflow.store.compact import CompactTask
from mailflow.store.failure import StoreDamaged
from mailflow.store.sweeping import Sweeping
from mailflow.store.values import Changed, Selection
from mailflow.store.writer import Writer

ADMIN_AT_ONCE = 4
"""Administrator's commands under way; each has one step with the writer."""
ADMIN_SPARES = 5
"""While mail comes and goes, a command leaves it the writer for at least so many times as long as its last step took."""
ADMIN_SPARES_BESIDE = 1
"""The same where mail goes on during the step and the step has changed something: most of what it costs is then its number
of steps, and mail keeps about 85 % of its rate (`python -m bench.size`)."""
ADMIN_RATE = 4000
"""Messages a second. A command that is faster leaves the mail more,"""
ADMIN_MOST_SPARES = 15
"""up to so many times as long as its last step took."""
MOST_QUARANTINED = 10_000
"""Damaged messages that are remembered because they cannot be put on hold."""
ADMIN_PAUSE_SECONDS = 1.0
"""The longest such pause."""


class Administration:
    """The commands of one queue."""

    def __init__(
        self,
        step: Callable[[Task], asyncio.Future[list[Any]]],
        writer: Writer,
        sweeping: Sweeping,
        now: Callable[[], float],
    ) -> None:
        """`step` has the writer make a task's next step; `now` gives the queue's time, seconds since 1970."""
        self._step = step
        self._writer = writer
        self._sweeping = sweeping
        self._now = now
        self._quarantined: set[int] = set()
        """Damaged messages that are about to be put on hold, or that could not be."""
        self._turns = asyncio.Semaphore(ADMIN_AT_ONCE)
        self._mail_commits = 0

    async def change(self, command: Command, selection: Selection) -> AsyncGenerator[list[Changed], None]:
        """See `Queue.change`."""
        async with self._turns:
            task = AdminTask(command, selection, self._now(), seconds=self._step_seconds())
            try:
                while not task.complete:
                    if changed := await self._step(task):
                        if command is Command.RELEASE:
                            self._quarantined.difference_update(c.id for c in changed)
                        yield changed
                    if not task.complete:
                        await self._give_way(task, len(changed))
            finally:
                self._sweeping.begin()

    def quarantine(self, id: int, each: Callable[[list[Changed]], None]) -> bool:
        """See `Queue.quarantine`."""
        if id in self._quarantined:
            return False
        if len(self._quarantined) < MOST_QUARANTINED:
            self._quarantined.add(id)
        task = AdminTask(Command.HOLD, Selection(ids=(id,)), self._now())

        def held(step: asyncio.Future[list[Any]]) -> None:
            if step.cancelled() or (error := step.exception()) is not None:
                if not step.cancelled() and not isinstance(error, StoreDamaged):
                    self._quarantined.discard(id)  # the disk is full, perhaps: the next attempt tries again
                return
            if changed := step.result():
                each(changed)
                self._quarantined.discard(id)  # it may be released, and is to be told of again then
            if not task.complete:
                self._step(task).add_done_callback(held)

        self._step(task).add_done_callback(held)
        return True

    async def compact(self) -> AsyncGenerator[int, None]:
        """See `Queue.compact`."""
        async with self._turns:
            task = CompactTask()
            while not task.complete:
                for given in await self._step(task):
                    yield given
                if not task.complete:
                    await self._give_way(task)

    async def all_of(self, command: Command, selection: Selection) -> list[Changed]:
        """All that `change` changes."""
        return merged([part async for part in self.change(command, selection)])

    async def _give_way(self, task: AdminTask | CompactTask, changed: int = 0) -> None:
        """Leaves the writer to the mail, if there was any since the last step, which `changed` so many messages.

        Whether some waits at this moment says little: those who were just answered are about to come again.
        """
        seen, self._mail_commits = self._mail_commits, self._writer.mail_commits
        if self._writer.waiting or seen != self._mail_commits:
            spares = ADMIN_SPARES_BESIDE if changed and self._writer.beside else ADMIN_SPARES
            longer = min(changed / ADMIN_RATE - task.seconds, task.seconds * ADMIN_MOST_SPARES)
            await asyncio.sleep(min(ADMIN_PAUSE_SECONDS, max(task.seconds * spares, longer)))

    def _step_seconds(self) -> float:
        return STEP_SECONDS if self._writer.beside else SHORT_STEP_SECONDS
