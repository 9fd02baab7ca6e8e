"""One timer of the event loop for whoever waits for the earliest of many times: `flow`.

A time that is not needed any more is not taken back: an alarm that rings too early costs less than setting it anew
each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls back at the earliest time that it was set to since it last rang."""

    __slots__ = ("_at", "_ring", "_timer")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<Alarm at={self._at if self._timer else None}>"

    def set(self, at: float, clock: float) -> None:
        """Rings at `at` or before; `clock` is the time now, of the same clock."""
        if self._timer is not None:
            if self._at <= at:
                return
            self._timer.cancel()
        self._at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - clock), self._rings)

    def cancel(self) -> None:
        """Does not ring any more, until it is set again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rings(self) -> None:
        self._timer = None
        self._ring()
