"""The time by which mail waits: the wall clock, without its leaps.

Due times stand on disk as wall-clock time, because they must outlive the process. Inside a running process they are
compared with a time that follows the loop's clock, which never leaps. `QueueTime` knows how far the wall clock leads,
lets that follow as the clock is slewed, and keeps it when the clock is set: then `skew` says by how much the wall
clock is ahead of the queue's time from now on, and `stepped` is told.

So a clock that is set makes no waiting mail due early or late while the process runs. After a restart, due times
are read by the wall clock as it is then (`store/strays.py` sees to those that it cannot have written). Callers: `flow` and `loader`; `look` before due times are written or read.
"""

from __future__ import annotations

from collections.abc import Callable

STEP_SECONDS = 2.0
"""A wall clock that moved this much against the loop's clock since the last look was set. Slewing moves it by 0.05 %."""


class QueueTime:
    """See the module's description."""

    __slots__ = ("_lead", "_stepped", "_wall", "clock", "skew")

    def __init__(
        self, wall: Callable[[], float], clock: Callable[[], float], stepped: Callable[[float], None] = lambda _by: None
    ) -> None:
        """`wall`: seconds since 1970; `clock`: seconds that never leap; `stepped(seconds)` is called after each leap."""
        self._wall, self.clock, self._stepped = wall, clock, stepped
        self._lead = wall() - clock()
        self.skew = 0.0
        """Seconds by which the wall clock is ahead of the queue's time; 0 until it is set."""

    def __repr__(self) -> str:
        return f"<QueueTime skew={self.skew:g}>"

    def now(self) -> float:
        """The queue's time, in seconds since 1970."""
        return self.clock() + self._lead

    def look(self) -> float:
        """Looks whether the wall clock was set since the last look; the queue's time."""
        clock = self.clock()
        lead = self._wall() - self.skew - clock
        moved = lead - self._lead
        if -STEP_SECONDS < moved < STEP_SECONDS:
            self._lead = lead
        else:
            self.skew += moved
            self._stepped(moved)
        return clock + self._lead
