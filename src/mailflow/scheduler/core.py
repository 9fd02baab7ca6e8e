"""The scheduler itself: which job starts next.

Rules, in the order in which they are applied (reasons and figures in docs/scheduler.md):
1. slots: of the process, of the transport; the last ones for destinations with nothing under way (`transport.py`);
2. per destination: window and dead mark (`window.py`), rate;
3. deficit round robin: destinations that may start a job take turns of `QUANTUM` recipients;
4. inside a destination: lanes by ratio, order of arrival, huge messages yield (`destination.py`).

Invariants: no window and no slot limit is ever exceeded; when `next` returns None, every waiting job waits for a
report, for `deadline()`, or for a reserved slot; the same calls give the same answers. `add`, `next` and `report`
cost O(1), O(log n) for destinations that are dead or over their rate.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mailflow.scheduler.destination import Destination, Job, Lane
from mailflow.scheduler.settings import SchedulerSettings
from mailflow.scheduler.transport import BUSY, Speed, Transport
from mailflow.scheduler.window import Feedback

QUANTUM = 10
"""Recipients in one turn of a destination, and the most that one job counts for: a transaction of 50 recipients
holds its slot a few times as long as one of a single recipient, not 50 times."""
MEMORY_SHARE = 4
"""A destination may have as many jobs waiting as a fourth of the room that is left."""
FEW_JOBS = 10
"""A lane of a destination with less than this finds room where others do not."""
WORTH_A_SLICE, PLENTY = 100, 500
"""Jobs: where as many as the latter wait in a lane of a destination, more come only when there is room for the former."""
RETRIED_SHARE = 10
"""A tenth of memory is kept for deferred mail, however much new mail there is (wish 47)."""

# Members as constants: looking one up in its Enum costs more than comparing it.
_NEW, _GOOD, _QUICK, _SLOW = Lane.NEW, Feedback.GOOD, Speed.QUICK, Speed.SLOW


@dataclass(frozen=True, slots=True)
class DestinationView:
    """What status and metrics show of a destination."""

    destination: str
    waiting: int
    running: int
    window: int
    dead_until: float
    """When the next probe may be made, on the caller's clock; 0.0 for a destination that is not dead."""


class Scheduler:
    """Orders the jobs of all destinations. Synchronous; `now` is any clock that does not go back."""

    __slots__ = (
        "_idle",
        "_kept_for_lane",
        "_last",
        "_plenty",
        "_ratio",
        "_ready",
        "_sites",
        "_sleepers",
        "_sleeps",
        "_slow",
        "_transports",
        "_turns",
        "_waiting",
        "_yield_after",
        "running",
        "settings",
    )

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self._ratio, self._yield_after, self._slow = settings.new_to_deferred_ratio, settings.yield_after, settings.slow
        self.running = 0
        """Jobs handed out and not yet reported."""
        self._waiting = 0
        self._sites: dict[str, Destination] = {}
        self._idle: OrderedDict[Destination, None] = OrderedDict()
        """Destinations without jobs whose state is worth remembering, longest idle first."""
        self._transports: dict[str, Transport] = {}
        self._turns = 0
        self._ready = 0
        """Destinations in rings."""
        self._last: Destination | None = None
        """The last one that entered a ring."""
        self._kept_for_lane = min(FEW_JOBS, settings.destination_jobs // 2)
        """Of a destination's jobs, what either lane leaves to the other."""
        self._plenty = min(settings.jobs // 10, settings.destination_jobs - self._kept_for_lane)
        """While fewer jobs than this wait, there is room for more of any destination, by all the rules of `room`."""
        self._sleepers: list[tuple[float, int, Destination]] = []
        """A heap of destinations that may go on at a certain time; an entry counts if its time is still `wake_at`."""
        self._sleeps = 0

    def __len__(self) -> int:
        """Jobs waiting."""
        return self._waiting

    def __repr__(self) -> str:
        return f"<Scheduler waiting={self._waiting} running={self.running} destinations={len(self._sites)}>"

    # What may come in

    def room(self, destination: str, lane: Lane = Lane.NEW) -> int:
        """How many more jobs of this destination memory has room for (wish 57). None while it is dead.

        Each lane of a destination may fill a share of what is left, so shares shrink as memory fills. The last fifth is
        only for lanes that have few jobs, the fifth before it only for new mail; a tenth is kept for deferred mail.
        """
        site = self._sites.get(destination)
        waiting = own = 0
        if site is not None:
            if site.dead:
                return 0
            waiting = site.waiting
            own = waiting - site.retried if lane is _NEW else site.retried
        free = self.settings.jobs - self._waiting
        fifth = self.settings.jobs // 5
        more = _share(free - (fifth if lane is _NEW else 2 * fifth), own)
        if more <= 0 and own < FEW_JOBS:
            more = min(FEW_JOBS - own, self._last_room(lane, free, own))
        for_other = max(0, self._kept_for_lane - (waiting - own))
        return max(0, min(more, self.settings.destination_jobs - waiting - for_other))

    def room_for_slice(self, destination: str, lane: Lane) -> int:
        """As `room`, but none while plenty waits and only a few more fit: a slice from disk costs as much as a dozen jobs."""
        room = self.room(destination, lane)
        if room >= WORTH_A_SLICE or not room:
            return room
        site = self._sites.get(destination)
        own = 0 if site is None else site.waiting - site.retried if lane is _NEW else site.retried
        return room if own < PLENTY else 0

    def full(self, lane: Lane) -> bool:
        """Whether no destination at all has room for more jobs of this lane: one that has none yet finds the most."""
        return self.room("", lane) == 0

    def admits(self, destination: str, lane: Lane = Lane.NEW) -> bool:
        """Whether memory has room for another job of this destination."""
        if self._waiting < self._plenty:  # as nearly always, and a message asks this once
            site = self._sites.get(destination)
            return site is None or not site.dead
        return self.room(destination, lane) > 0

    def add(self, job: Job, now: float, *, first: bool = False) -> None:
        """Takes a job in, at the back of its lane; `first`: at the front, because it was handed out and came back
        unattempted. Never refuses: those who load from disk ask for room before."""
        site = self._sites.get(job.destination)
        if site is None:
            site = self._sites[job.destination] = Destination(job.destination, self._transport(job.destination))
        elif not site.waiting and not site.running:
            self._idle.pop(site, None)
            if now - site.idle_since > self.settings.memory and not site.dead:
                site = self._sites[job.destination] = Destination(site.name, site.transport)
        site.put(job, first=first)
        self._waiting += 1
        if site.ring is None and site.running < site.window and not site.wake_at:
            self._enter(site)

    def restore(self, job: Job, now: float) -> None:
        """Takes a new job in that has waited on disk, in front of those of its destination that arrived later."""
        site = self._sites.get(job.destination)
        if site is None or not site.new or site.new[-1].message_id <= job.message_id:
            self.add(job, now)
        else:
            site.insert(job)
            self._waiting += 1

    # What goes out

    def next(self, now: float) -> Job | None:
        """The job to start now, None when there is none. It holds a slot until it is reported."""
        if self._sleepers and self._sleepers[0][0] <= now:
            self._awaken(now)
        while self._ready:
            site = self._only() if self._ready == 1 else self._first()
            if site is None:
                return None
            if not site.transport.interval or self._paced(site, now):
                return self._start(site, now)
        return None

    def report(self, job: Job, feedback: Feedback, now: float) -> None:
        """Gives the slot of a job back and says how it went. Exactly once for each job handed out."""
        site = job.site
        if site is None:
            raise ValueError(f"{job!r} is not under way")
        job.site = None
        site.running -= 1
        site.transport.running -= 1
        self.running -= 1
        if feedback is _GOOD:
            if site.dead:
                site.wake_at = 0.0  # begun before its site was found dead, and did succeed
            if site.window < site.top or site.failures or site.deaths:
                site.good()
            site.speed = _QUICK if now - job.started < self._slow else _SLOW
        elif feedback is not Feedback.UNATTEMPTED:
            self._judge(site, feedback, job.started, now)
        if site.waiting:
            if site.running < site.window and not site.wake_at:
                if site.ring is None:
                    self._enter(site)
                elif not site.running:
                    self._leave(site)
                    self._enter(site)
            elif site.ring is not None:
                self._leave(site)
        elif not site.running:
            self._forget(site, now)

    def deadline(self) -> float | None:
        """When `next` may have something again though nothing is added or reported; None if never."""
        sleepers = self._sleepers
        while sleepers and sleepers[0][2].wake_at != sleepers[0][0]:
            heapq.heappop(sleepers)
        return sleepers[0][0] if sleepers else None

    # What the operator and the queue ask

    def is_dead(self, destination: str) -> bool:
        """Whether its hosts did not answer lately, and no probe is due yet."""
        site = self._sites.get(destination)
        return site is not None and site.dead

    def waiting(self, destination: str) -> int:
        """Jobs of this destination that wait."""
        site = self._sites.get(destination)
        return site.waiting if site is not None else 0

    def dead_until(self, destination: str) -> float:
        """When the next probe of a dead destination is due; 0.0 when it is not dead."""
        site = self._sites.get(destination)
        return site.wake_at if site is not None and site.dead else 0.0

    def withdraw(self, destination: str, now: float) -> list[Job]:
        """Takes all waiting jobs of a destination out, in order."""
        site = self._sites.get(destination)
        return self._drain(site, None, now) if site is not None and site.waiting else []

    def remove(self, *message_ids: int, now: float) -> list[Job]:
        """Takes all waiting jobs of some messages out. Looks at every waiting job once, however many ids are given."""
        wanted = frozenset(message_ids)
        sites = [site for site in self._sites.values() if site.waiting]
        return [job for site in sites for job in self._drain(site, wanted, now)]

    def wake(self, destination: str, now: float) -> None:
        """The operator or the site itself says that it is up (flush, ETRN): it is not dead, the next job may go."""
        site = self._sites.get(destination)
        if site is None:
            return
        site.deaths = site.failures = 0
        if site.dead:
            site.probe(self.settings.dead_after)
            site.wake_at = 0.0
            if site.waiting and site.running < site.window:
                self._enter(site)
            elif not site.waiting and not site.running:
                self._forget(site, now)

    def view(self) -> Iterator[DestinationView]:
        """All destinations that have jobs or are dead."""
        for site in self._sites.values():
            if site.waiting or site.running or site.dead:
                dead_until = site.wake_at if site.dead else 0.0
                yield DestinationView(site.name, site.waiting, site.running, site.window, dead_until)

    # Inside

    def _last_room(self, lane: Lane, free: int, own: int) -> int:
        """Room for a lane with few jobs when memory is nearly full: neither new nor deferred mail finds it all taken."""
        retried = sum(transport.retried for transport in self._transports.values())
        kept = self.settings.jobs // RETRIED_SHARE - retried
        return _share(free - max(0, kept), own) if lane is _NEW else min(free, kept)

    def _transport(self, destination: str) -> Transport:
        name = destination.partition(":")[0]
        transport = self._transports.get(name)
        if transport is None:
            transport = self._transports[name] = Transport(name, self.settings)
        return transport

    def _first(self) -> Destination | None:
        """The destination whose turn it is, among those for which a slot is open."""
        running = self.running
        best: Destination | None = None
        for transport in self._transports.values():
            own = transport.running
            for ring in transport.rings:
                if ring and own < ring.own_limit and running < ring.all_limit:
                    site = next(iter(ring))
                    if best is None or site.turn < best.turn:
                        best = site
        return best

    def _only(self) -> Destination | None:
        """What `_first` says when one destination is ready: it does not matter which ring it stands in."""
        site = self._last
        ring = site.ring if site is not None else None
        if ring is None:  # it has left again, and the one that is ready entered before it
            return self._first()
        if self.running < ring.all_limit and ring.transport.running < ring.own_limit:
            return site
        return None

    def _start(self, site: Destination, now: float) -> Job:
        job = site.take(self._ratio, self._yield_after)
        job.site = site
        job.started = now
        cost = job.cost if job.lane is _NEW else job.cost * self._ratio
        site.credit -= min(cost, QUANTUM)
        site.running = running = site.running + 1
        site.transport.running += 1
        self.running += 1
        self._waiting -= 1
        if not site.waiting or running >= site.window:
            self._leave(site)
        elif running == 1 or site.credit <= 0:
            # A quiet destination's turn is one job: the rest is for the ring that may not touch the reserve.
            self._leave(site)
            self._enter(site)
        return job

    def _paced(self, site: Destination, now: float) -> bool:
        """Whether the destination's rate lets a delivery begin now, which is then counted; else it waits for its time.

        The virtual form of a token bucket: one time per destination, no ticking.
        """
        transport = site.transport
        if now < site.next_at - transport.allowance:
            self._leave(site)
            self._sleep(site, site.next_at - transport.allowance)
            return False
        site.next_at = max(now, site.next_at) + transport.interval
        return True

    def _enter(self, site: Destination) -> None:
        """Puts a destination at the back of its ring, with a new turn."""
        site.turn = self._turns = self._turns + 1
        site.credit = QUANTUM if site.credit >= 0 else QUANTUM + site.credit
        ring = site.ring = site.transport.rings[BUSY if site.running else site.speed]
        ring[site] = None
        self._ready += 1
        self._last = site

    def _leave(self, site: Destination) -> None:
        if site.ring is not None:
            del site.ring[site]
            site.ring = None
            self._ready -= 1

    def _sleep(self, site: Destination, until: float) -> None:
        self._sleeps += 1
        site.wake_at = until
        heapq.heappush(self._sleepers, (until, self._sleeps, site))

    def _awaken(self, now: float) -> None:
        sleepers = self._sleepers
        while sleepers and sleepers[0][0] <= now:
            at, _, site = heapq.heappop(sleepers)
            if site.wake_at != at:
                continue
            site.wake_at = 0.0
            if site.dead:
                site.probe(self.settings.dead_after)
            if site.waiting and site.running < site.window:
                self._enter(site)

    def _judge(self, site: Destination, feedback: Feedback, started: float, now: float) -> None:
        """What a delivery that did not succeed says about its site."""
        if feedback is Feedback.NEUTRAL:
            if now - started >= self.settings.slow:
                site.speed = Speed.SLOW
            return
        site.speed = Speed.SLOW
        if site.dead:
            return
        if feedback is Feedback.BUSY:
            site.busy(started, now)
        else:
            site.unreachable(started, now)
        if site.failures >= self.settings.dead_after:
            self._leave(site)
            self._sleep(site, now + site.die(*self.settings.probe))

    def _drain(self, site: Destination, message_ids: Collection[int] | None, now: float) -> list[Job]:
        jobs = site.drain(message_ids)
        self._waiting -= len(jobs)
        if not site.waiting:
            self._leave(site)
            if not site.running:
                self._forget(site, now)
        return jobs

    def _forget(self, site: Destination, now: float) -> None:
        """A destination without jobs: forgotten at once if it says nothing, else when room or time runs out."""
        site.new = site.deferred = None
        site.mix = site.credit = 0
        initial = site.speed is Speed.UNKNOWN and not site.dead and not site.failures
        if initial and site.next_at <= now and site.window == site.transport.initial_window:
            del self._sites[site.name]
            site.wake_at = 0.0
            return
        site.idle_since = now
        self._idle[site] = None
        if len(self._idle) > self.settings.remembered:
            oldest, _ = self._idle.popitem(last=False)
            oldest.wake_at = 0.0
            del self._sites[oldest.name]


def _share(free: int, waiting: int) -> int:
    """How many more jobs fit until those of one destination are a fourth of what is free then, rounded up."""
    return (free - MEMORY_SHARE * waiting + MEMORY_SHARE) // (MEMORY_SHARE + 1)
