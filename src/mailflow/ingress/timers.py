"""Time limits of all sessions, with one timer: a sweep over them at a coarse, regular interval.

A session costs nothing between sweeps: its connection sets `quiet` to 0 when something comes, and the sweep counts
it up. So a limit is kept to within one interval. `SessionTimer.sweep` is what the timer calls; tests call it directly.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from typing import Protocol

from mailflow.ingress.abuse.pace import Paced, Paces
from mailflow.ingress.abuse.stress import Stress

LONGEST_INTERVAL_SECONDS = 1.0
INTERVALS_PER_LIMIT = 4
CLOSING_SECONDS = 15.0
"""How long a closed session may take to fetch its last reply; then it is cut off."""


class Timed(Paced, Protocol):
    """A connection, as the sweep sees it."""

    quiet: int
    """Sweeps since the client last did something it was to do."""
    age: int
    """Sweeps since it connected."""

    @property
    def patient(self) -> bool:
        """Whether it waits for us: such a one is not late."""
        ...

    @property
    def opening(self) -> bool:
        """Whether something has to happen before SMTP can go on: a balancer's header, a TLS handshake."""
        ...

    @property
    def closing(self) -> bool:
        """Whether the last reply has been written."""
        ...

    def expire(self) -> None:
        """Time is up: tell the client and close."""
        ...

    def give_up(self, why: str) -> None:
        """It sends too slowly: log why, tell the client and close."""
        ...

    def cut(self) -> None:
        """Close without waiting for anything."""
        ...


class SessionTimer:
    """Sweeps over the connections in `connections`, which others fill and empty."""

    def __init__(
        self,
        connections: Collection[Timed],
        idle: float,
        total: float,
        opening: float = 30.0,
        *,
        stress: Stress | None = None,
        paces: Paces | None = None,
    ) -> None:
        """Limits in seconds: of silence, of a session as a whole, and of what comes before SMTP.

        `stress` may shorten that of silence, and `paces` says who sends too slowly.
        """
        self._connections = connections
        self.interval = min(
            LONGEST_INTERVAL_SECONDS, *(limit / INTERVALS_PER_LIMIT for limit in (idle, total, opening))
        )
        self._idle = math.ceil(idle / self.interval)
        self._total = math.ceil(total / self.interval)
        self._opening = math.ceil(opening / self.interval)
        self._closing = math.ceil(min(CLOSING_SECONDS, idle) / self.interval)
        self._stress, self._paces = stress, paces
        self._hurried = min(self._idle, math.ceil(stress.idle / self.interval)) if stress else self._idle
        self._look = max(1, int(paces.interval / self.interval)) if paces else 0
        """Sweeps between two looks at the paces."""
        self._sweeps = 0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sweeps regularly from now on, in the running loop."""
        self._handle = asyncio.get_running_loop().call_later(self.interval, self._tick)

    def stop(self) -> None:
        """Sweeps no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        self.start()
        self.sweep()

    def sweep(self) -> None:
        """Counts every connection up, and ends those that are late."""
        late = []
        hurried = self._hurried if self._stress is not None and self._stress.on else self._idle
        for connection in self._connections:
            connection.age += 1
            connection.quiet = 0 if connection.patient else connection.quiet + 1
            if (
                connection.quiet > self._limit(connection)
                or (connection.age > self._total and not connection.patient)
                or (connection.quiet > hurried and not connection.closing and not connection.favoured)
            ):
                late.append(connection)
        self._sweeps += 1
        if self._paces is not None and self._sweeps % self._look == 0:
            hurry = self._stress.idle if self._stress is not None and self._stress.on else math.inf
            for connection, why in self._paces.late(self._connections, self._sweeps * self.interval, hurry):
                connection.give_up(why)
        for connection in late:
            if connection.closing:
                connection.cut()
            else:
                connection.expire()

    def _limit(self, connection: Timed) -> int:
        if connection.closing:
            return self._closing
        return self._opening if connection.opening else self._idle
