"""Which destinations have mail on disk that is not in memory, and when to fetch it.

The queue keeps every recipient on disk with its due time; the scheduler holds the few that are about to be
delivered. This is the pure bookkeeping between them, apart for a destination's new and its deferred mail, so that
neither stands in the other's way (wish 47). Callers (only `flow` and its `loader`):

- `note(destination, lane, due)`: a recipient was left on disk (deferred, or the scheduler had no room for it);
- `take(now)`: the next destination and lane to load a slice for, or None; it is then `loading` until
- `loaded(...)`: the slice has come; what else is due and since when;
- `postpone(destination, lane, due, until)` instead, when the load was not made: no room in memory at present;
- `unblock(destination, lane)`: there is room again;
- `wake(destination, now)`: the operator made something due, wherever it stands.

Invariants: what was noted is taken again and again until a slice was complete, so nothing on disk is forgotten; a slice
that was not complete is followed by the one behind it (`after`), and the last of them by the first again when
something was noted meanwhile that may stand in front; only one load per destination and lane is under way.
One small object per destination and lane with mail on disk, a heap entry for each change. No I/O, no clock; all times
are the queue's (`queuetime.py`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mailflow.scheduler import Lane

if TYPE_CHECKING:
    from mailflow.queue import Position

NEVER = float("inf")
_NEW = Lane.NEW


class LoadRequest(NamedTuple):
    """What to ask the queue for."""

    destination: str
    lane: Lane
    after: Position | None
    """The position behind which the slice begins; None = from the start."""


@dataclass(slots=True)
class _Site:
    """One lane of one destination."""

    destination: str
    lane: Lane
    due: float = NEVER
    """The earliest due time known of what is on disk only."""
    after: Position | None = None
    again: float = NEVER
    """The earliest due time of what was noted while slices went on, and may stand in front of the next one."""
    loading: bool = False
    blocked_until: float = 0.0
    behind: int = 0
    """Recipients on disk that no load under way has been asked for: later mail goes behind them."""

    def wake_at(self) -> float:
        return max(self.due, self.blocked_until)


class Backlog:
    """See the module's description."""

    def __init__(self) -> None:
        self.sites: dict[tuple[str, Lane], _Site] = {}
        """Empty when all that is due is in memory, which callers on the hot path look at first."""
        self._heap: list[tuple[float, int, _Site]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self.sites)

    def __repr__(self) -> str:
        loading = sum(s.loading for s in self.sites.values())
        return f"<Backlog sites={len(self.sites)} loading={loading}>"

    def note(self, destination: str, lane: Lane, due: float, *, overflow: int = 0) -> None:
        """A recipient of `destination`, due at `due`, is on disk only. `overflow`: so many were, because memory had no
        room for them, and those that come later shall wait behind them."""
        site = self.sites.get((destination, lane))
        if site is None:
            site = self.sites[destination, lane] = _Site(destination, lane)
        site.behind += overflow
        if site.after is not None and due <= site.after.due:
            site.again = min(site.again, due)
        if due < site.due:
            site.due = due
            self._push(site)

    def has_overflow(self, destination: str) -> bool:
        """Whether new mail for this destination has to queue behind older new mail on disk.

        No longer once a load was asked for the last of it: else mail that keeps arriving would go by the disk for
        ever, after memory was full once.
        """
        site = self.sites.get((destination, _NEW))
        return site is not None and site.behind > 0

    def take(self, now: float) -> LoadRequest | None:
        """The next destination and lane with mail that is due, in order of due time; None when there is none."""
        while self._heap and self._heap[0][0] <= now:
            at, _, site = heapq.heappop(self._heap)
            if site.loading or at != site.wake_at() or self.sites.get((site.destination, site.lane)) is not site:
                continue
            site.loading = True
            site.due = NEVER
            return LoadRequest(site.destination, site.lane, site.after)
        return None

    def asked(self, request: LoadRequest, limit: int) -> None:
        """The load was made, for so many recipients."""
        site = self.sites[request.destination, request.lane]
        site.behind = max(0, site.behind - limit)

    def loaded(
        self, request: LoadRequest, *, after: Position | None, complete: bool, next_due: float | None, now: float
    ) -> None:
        """The slice asked for has come. `after`: its last position; `complete`: nothing due is behind it;
        `next_due`: the earliest due time of what is not due yet."""
        site = self.sites[request.destination, request.lane]
        site.loading = False
        if complete:
            site.after = None
            site.due, site.again = min(site.due, site.again), NEVER
        else:
            site.after = after
            if after is None or site.due <= after.due:
                site.again = min(site.again, site.due)
            site.due = min(site.due, now)
        if next_due is not None:
            site.due = min(site.due, next_due)
        self._settle(site)

    def postpone(self, destination: str, lane: Lane, due: float, until: float) -> None:
        """The load was not made, or failed: something is due since `due`, but it is not taken before `until`
        or `unblock`. The next load begins where this one would have."""
        site = self.sites[destination, lane]
        site.loading = False
        site.due = min(site.due, due)
        site.blocked_until = until
        self._settle(site)

    def wake(self, destination: str, now: float) -> None:
        """Mail of this destination became due, at any place in its order, and shall not wait for room: the site may be up."""
        for lane in Lane:
            self.note(destination, lane, now)
            site = self.sites[destination, lane]
            if site.loading or site.after is not None:
                site.again = min(site.again, now)
            self.unblock(destination, lane)

    def unblock(self, destination: str, lane: Lane) -> None:
        """There is room again."""
        site = self.sites.get((destination, lane))
        if site is not None and site.blocked_until:
            site.blocked_until = 0.0
            if site.due != NEVER:
                self._push(site)

    def deadline(self) -> float | None:
        """When `take` will have something, if nothing else happens; None = never."""
        while self._heap:
            at, _, site = self._heap[0]
            known = self.sites.get((site.destination, site.lane)) is site
            if known and not site.loading and at == site.wake_at():
                return at
            heapq.heappop(self._heap)
        return None

    def _settle(self, site: _Site) -> None:
        if site.due == NEVER:
            del self.sites[site.destination, site.lane]
        else:
            self._push(site)

    def _push(self, site: _Site) -> None:
        if not site.loading:
            self._sequence += 1
            heapq.heappush(self._heap, (site.wake_at(), self._sequence, site))
