"""Which destinations have mail on disk that is not in memory, and when to fetch it.

The queue keeps every recipient on disk with its due time; the scheduler holds the few that are about to be
delivered. This is the pure bookkeeping between them, apart for a destination's new and its deferred mail, so that
neither stands in the other's way (wish 47). Callers (only `flow` and its `loader`):

- `note(destination, lane, due)`: a recipient was left on disk (deferred, or the scheduler had no room for it);
- `take(now)`: the next destination and lane to load a slice for, or None; it is then `loading` until
- `loaded(...)`: the slice has come; what else is due and since when;
- `postpone(destination, lane, due, until)` instead, when the load was not made: no room in memory at present;
- `unblock(destination, lane)`: there is room again;
- `block_lane(lane, until)`, `unblock_lane(lane)`: the same for all destinations, so that what waits for memory costs
  nothing while it waits;
- `wake(destination, now)`: the operator made something due, wherever it stands.

Invariants: what was noted is taken again and again until a slice was complete, so nothing on disk is forgotten; a slice
that was not complete is followed by the one behind it (`after`), and the last of them by the first again when
something was noted meanwhile that may stand in front; only one load per destination and lane is under way.
For each destination and lane with mail on disk there are a due time and a heap entry, and a small object only while it is being
loaded, is blocked, or has more to tell: 240 bytes for one of a million that wait. No I/O, no clock; all times
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
    """One lane of a destination of which more is to be known than when it is due."""

    destination: str
    due: float
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

    @property
    def plain(self) -> bool:
        """Whether its due time says all."""
        return self.after is None and self.again == NEVER and not self.blocked_until and not self.behind


class Backlog:
    """See the module's description."""

    def __init__(self) -> None:
        self.sites = 0
        """How many destinations and lanes have mail on disk; 0 when all that is due is in memory, which callers on the
        hot path look at first."""
        self._new, self._deferred = _Waiting(Lane.NEW), _Waiting(Lane.DEFERRED)

    def __len__(self) -> int:
        return self.sites

    def __repr__(self) -> str:
        blocked = [w.lane.value for w in (self._new, self._deferred) if w.blocked_until]
        return f"<Backlog sites={self.sites} blocked={blocked}>"

    def note(self, destination: str, lane: Lane, due: float, *, overflow: int = 0) -> None:
        """A recipient of `destination`, due at `due`, is on disk only. `overflow`: so many were, because memory had no
        room for them, and those that come later shall wait behind them."""
        waiting = self._of(lane)
        site = waiting.sites.get(destination)
        if site is None:
            known = waiting.idle.get(destination)
            self.sites += known is None
            if not overflow:  # as nearly always
                if known is None or due < known:
                    waiting.rest(destination, due)
                return
            site = waiting.rouse(destination)
        site.behind += overflow
        if site.after is not None and due <= site.after.due:
            site.again = min(site.again, due)
        if due < site.due:
            site.due = due
            waiting.push(site)

    def has_overflow(self, destination: str) -> bool:
        """Whether new mail for this destination has to queue behind older new mail on disk.

        No longer once a load was asked for the last of it: else mail that keeps arriving would go by the disk for
        ever, after memory was full once.
        """
        site = self._new.sites.get(destination)
        return site is not None and site.behind > 0

    def take(self, now: float) -> LoadRequest | None:
        """The next destination and lane with mail that is due, in order of due time; None when there is none."""
        waiting = self._first()
        if waiting.at() > now:
            return None
        waiting.blocked_until = 0.0
        destination = heapq.heappop(waiting.heap)[1]
        site = waiting.sites.get(destination) or waiting.rouse(destination)
        site.loading = True
        site.due, site.blocked_until = NEVER, 0.0
        return LoadRequest(destination, waiting.lane, site.after)

    def asked(self, request: LoadRequest, limit: int) -> None:
        """The load was made, for so many recipients."""
        site = self._of(request.lane).sites[request.destination]
        site.behind = max(0, site.behind - limit)

    def loaded(
        self, request: LoadRequest, *, after: Position | None, complete: bool, next_due: float | None, now: float
    ) -> None:
        """The slice asked for has come. `after`: its last position; `complete`: nothing due is behind it;
        `next_due`: the earliest due time of what is not due yet."""
        site = self._of(request.lane).sites[request.destination]
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
        self._settle(request.lane, site)

    def postpone(self, destination: str, lane: Lane, due: float, until: float) -> None:
        """The load was not made, or failed: something is due since `due`, but it is not taken before `until`
        or `unblock`. The next load begins where this one would have."""
        site = self._of(lane).sites[destination]
        site.loading = False
        site.due = min(site.due, due)
        site.blocked_until = until
        self._settle(lane, site)

    def wake(self, destination: str, now: float) -> None:
        """Mail of this destination became due, at any place in its order, and shall not wait for room: the site may be up."""
        for lane in Lane:
            self.note(destination, lane, now)
            site = self._of(lane).sites.get(destination)
            if site is not None and (site.loading or site.after is not None):
                site.again = min(site.again, now)
            self.unblock(destination, lane)

    def unblock(self, destination: str, lane: Lane) -> None:
        """There is room again."""
        waiting = self._of(lane)
        site = waiting.sites.get(destination)
        if site is not None and site.blocked_until:
            site.blocked_until = 0.0
            if site.due != NEVER:
                waiting.push(site)

    def blocked(self, destination: str, lane: Lane) -> bool:
        """Whether it, or its whole lane, waits for room."""
        waiting = self._of(lane)
        site = waiting.sites.get(destination)
        return waiting.blocked_until > 0.0 or (site is not None and site.blocked_until > 0.0)

    def block_lane(self, lane: Lane, until: float) -> None:
        """No destination has room for mail of this lane: none is taken before `until` or `unblock_lane`."""
        self._of(lane).blocked_until = until

    def unblock_lane(self, lane: Lane) -> None:
        """Some destination has room again."""
        self._of(lane).blocked_until = 0.0

    def deadline(self) -> float | None:
        """When `take` will have something, if nothing else happens; None = never."""
        at = self._first().at()
        return at if at < NEVER else None

    def _of(self, lane: Lane) -> _Waiting:
        return self._new if lane is _NEW else self._deferred

    def _first(self) -> _Waiting:
        """The lane from which something may be taken first."""
        if not self._deferred.heap:
            return self._new
        return self._new if self._new.at() <= self._deferred.at() else self._deferred

    def _settle(self, lane: Lane, site: _Site) -> None:
        waiting = self._of(lane)
        if site.due == NEVER:
            del waiting.sites[site.destination]
            self.sites -= 1
        elif site.plain:
            del waiting.sites[site.destination]
            waiting.rest(site.destination, site.due)
        else:
            waiting.push(site)


class _Waiting:
    """One lane of all destinations."""

    __slots__ = ("blocked_until", "heap", "idle", "lane", "sites")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.idle: dict[str, float] = {}
        """When the destinations are due that only wait."""
        self.sites: dict[str, _Site] = {}
        """The others."""
        self.heap: list[tuple[float, str]] = []
        """When to take which; an entry counts if its destination still waits for that time."""
        self.blocked_until = 0.0
        """No destination of this lane has room, until then."""

    def rest(self, destination: str, due: float) -> None:
        self.idle[destination] = due
        heapq.heappush(self.heap, (due, destination))

    def rouse(self, destination: str) -> _Site:
        site = self.sites[destination] = _Site(destination, self.idle.pop(destination, NEVER))
        return site

    def push(self, site: _Site) -> None:
        if not site.loading:
            heapq.heappush(self.heap, (site.wake_at(), site.destination))

    def at(self) -> float:
        """When the first is to be taken; NEVER when there is none. What does not count any more is dropped."""
        heap = self.heap
        while heap:
            at, destination = heap[0]
            site = self.sites.get(destination)
            due = self.idle.get(destination) if site is None else None if site.loading else site.wake_at()
            if due == at:
                return max(self.blocked_until, at)
            heapq.heappop(heap)
        return NEVER
