"""Time limits of all connections, looked after in one sweep: no timer is set or cancelled for a command.

Every tick each watched item gets `check(now)`. Limits are therefore kept to within two ticks, which is fine for limits of
seconds and minutes. The timer runs only while something is watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol


class Watched(Protocol):
    """Something with time limits."""

    def check(self, now: float) -> None:
        """Looks whether a limit has passed; `now` is loop time. May end the item, which discards it."""
        ...

    def hang_up(self) -> None:
        """Ends it now."""
        ...


class Sweep:
    """Calls `check` of everything that was added, once a tick (seconds)."""

    __slots__ = ("_items", "_tick", "_timer")

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self._items: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Watched]:
        return iter(list(self._items))

    def add(self, item: Watched) -> None:
        """Watches the item from now on."""
        self._items.add(item)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._tick, self._run, loop)

    def discard(self, item: Watched) -> None:
        """Watches the item no longer."""
        self._items.discard(item)
        if not self._items and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._tick, self._run, loop)
        now = loop.time()
        for item in self:
            item.check(now)
