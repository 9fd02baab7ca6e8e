"""Runs a program's hooks: so many at a time, each only so long. What fails is logged in full and never told to a client."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from mailflow.hooks.settings import HooksSettings
from mailflow.smtp.reply import reply

FAILED = reply(451, "4.3.0", "Local error, try again later")
"""A hook raised or took too long."""

T = TypeVar("T")


class Eventful(Protocol):
    """Who can write to the log."""

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        """Logs one event."""
        ...


class Runner:
    """The bounds that all hooks of a server share."""

    __slots__ = ("_places", "_seconds")

    def __init__(self, settings: HooksSettings) -> None:
        self._places = asyncio.Semaphore(settings.concurrency)
        self._seconds = settings.time_limit

    async def run(self, call: Awaitable[T]) -> T:
        """Awaits a hook's call. Raises TimeoutError, or what the hook raises; RuntimeError when something that it waited
        for was cancelled, as that must not look like the end of the session."""
        try:
            async with asyncio.timeout(self._seconds):
                async with self._places:
                    return await call
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RuntimeError("what it waited for was cancelled") from error
        finally:
            if inspect.iscoroutine(call):
                call.close()  # one that never got a place has not begun


def log_failure(log: Eventful, hook: str) -> None:
    """Logs the exception being handled."""
    log.event("warning", level=40, reason=f"{hook} failed: {traceback.format_exc()}")
