"""How many deliveries one destination may have under way: slow start, feedback, dead marks.

Callers: `Destination` inherits from `Window`; the scheduler calls one of `good`, `busy` and `unreachable` for each
finished delivery that says something about the site. Rules:
- good: one more, up to the maximum. Above the point where the site last complained, growth is careful: a window
  of n needs n * n good deliveries to become n + 1, because each complaint costs some message a wait in the queue.
- busy: half, once for all deliveries begun before the last halving (they saw the same overload). A complaint at a
  window of one counts as a failure.
- failures in a row: dead, for a time that doubles with each probe that fails. After that one delivery may try.

Invariant: 1 <= window <= top. Times are the caller's; nothing here reads a clock.
"""

from __future__ import annotations

from enum import Enum


class Feedback(Enum):
    """What a finished delivery says about its site."""

    GOOD = "good"
    """The site took the message."""
    BUSY = "busy"
    """It refused the connection or session for load (421 and the like)."""
    DEAD = "dead"
    """No host of it could be reached."""
    NEUTRAL = "neutral"
    """A failure of this message; says nothing about the site."""
    UNATTEMPTED = "unattempted"
    """Never begun; the job may come back by `add` at the front of its lane."""


class Window:
    """The concurrency window and the health of one destination."""

    __slots__ = ("ceiling", "dead", "deaths", "failures", "goods", "shrunk_at", "top", "window")

    def __init__(self, initial: int, top: int) -> None:
        self.top = top
        self.window = min(initial, top)
        self.ceiling = top
        """The window below which growth is fast."""
        self.goods = 0
        """Good deliveries since the window last grew, counted above the ceiling only."""
        self.shrunk_at = float("-inf")
        self.failures = 0
        """Failed connections in a row."""
        self.deaths = 0
        """How often it has been found dead in a row; sets the time to the next probe."""
        self.dead = False

    def good(self) -> None:
        self.failures = self.deaths = 0
        self.dead = False
        if self.window < self.ceiling:
            self.window += 1
        elif self.window < self.top:
            self.goods += 1
            if self.goods >= self.window * self.window:
                self.window += 1
                self.ceiling += 1
                self.goods = 0

    def busy(self, started: float, now: float) -> None:
        """A complaint of the site about a delivery begun at `started`."""
        if self.window == 1:
            self.failures += 1
        elif started >= self.shrunk_at:
            self.window = self.ceiling = self.window // 2
            self.shrunk_at = now
            self.goods = 0

    def unreachable(self, started: float, now: float) -> None:
        """No host answered a delivery begun at `started`."""
        if self.window > 1 and started >= self.shrunk_at:
            self.window //= 2
            self.shrunk_at = now
        self.failures += 1

    def die(self, first: float, longest: float) -> float:
        """Marks it dead; how many seconds until the next probe."""
        self.dead = True
        self.window = 1
        self.deaths += 1
        # 2 ** 30 times any first wait is beyond any longest one.
        return min(longest, first * 2.0 ** min(self.deaths - 1, 30))

    def probe(self, dead_after: int) -> None:
        """The wait is over: one delivery may try, and one failure is enough to call it dead again."""
        self.dead = False
        self.window = 1
        self.failures = dead_after - 1
