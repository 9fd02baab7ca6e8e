"""One destination's waiting jobs, in the order in which they go out.

Callers: the scheduler, which owns all `Destination` objects. Two lanes, new and deferred; while both have jobs,
`ratio` new ones go out for each deferred one (wish 47). Inside a lane jobs go in order of arrival (wish 18), except
that a message with many jobs lets those behind it pass after every `yield_after` of them: jobs of one message that
arrive one after another form a group, whose first job stands in the lane and carries the others (`Job.rest`).

Invariants: `waiting` is the number of jobs in both lanes, `retried` of those in the deferred one (the transport counts
them too); every job put in comes out of `take` or `drain` once.
What this module does not do: choose between destinations, know slots, or read a clock.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection
from enum import Enum
from operator import attrgetter
from typing import Any

from mailflow.scheduler.ring import Ring
from mailflow.scheduler.transport import Speed, Transport
from mailflow.scheduler.window import Window


class Lane(Enum):
    """Whether the recipients of a job are tried for the first time."""

    NEW = "new"
    DEFERRED = "deferred"


LOOK_BACK = 1000
"""How many younger messages a job that comes from disk may pass; more wait only after a restart."""

_NEW = Lane.NEW
"""A constant, because looking a member up in its Enum costs more than comparing it."""
_message_id = attrgetter("message_id")


class Job:
    """Some recipients of one message for one destination: one transaction. `payload` is the caller's own."""

    __slots__ = ("cost", "destination", "lane", "message_id", "payload", "rest", "site", "started", "streak")

    def __init__(self, destination: str, lane: Lane, message_id: int, cost: int, payload: Any) -> None:
        self.destination = destination
        self.lane = lane
        self.message_id = message_id
        self.cost = cost
        """Number of recipients."""
        self.payload = payload
        self.started = -1.0
        """When it was handed out; below zero before that."""
        self.site: Destination | None = None
        """Where it is running; set while it is handed out."""
        self.rest: deque[Job] | None = None
        """In a lane: the further jobs of the same message."""
        self.streak = 0
        """Jobs of its message that went out in a row before it."""

    def __repr__(self) -> str:
        return f"<Job {self.message_id} {self.destination} {self.lane.value} cost={self.cost}>"


class Destination(Window):
    """A destination: its lanes, its window, and where it stands in the scheduler's rings."""

    __slots__ = (
        "credit",
        "deferred",
        "idle_since",
        "mix",
        "name",
        "new",
        "next_at",
        "retried",
        "ring",
        "running",
        "speed",
        "transport",
        "turn",
        "waiting",
        "wake_at",
    )

    def __init__(self, name: str, transport: Transport) -> None:
        super().__init__(transport.initial_window, transport.max_window)
        self.name = name
        self.transport = transport
        self.new: deque[Job] | None = None
        self.deferred: deque[Job] | None = None
        """Lanes are made when needed and dropped when idle: an empty deque weighs more than all the rest."""
        self.mix = 0
        """New jobs taken while deferred ones waited."""
        self.waiting = 0
        self.retried = 0
        self.running = 0
        self.ring: Ring | None = None
        """The ring that it stands in, when a job of it may start."""
        self.turn = 0
        """Its place among all rings: lower goes first."""
        self.credit = 0
        """What is left of its turn, in recipients; below zero when the last job cost more than was left."""
        self.wake_at = 0.0
        """When it may start jobs again (dead or over its rate); 0 when it may now."""
        self.next_at = 0.0
        """Rate: when the next delivery is due if all are evenly spaced."""
        self.speed = Speed.UNKNOWN
        self.idle_since = 0.0

    def __repr__(self) -> str:
        state = " dead" if self.dead else ""
        return f"<Destination {self.name} waiting={self.waiting} running={self.running}/{self.window}{state}>"

    def put(self, job: Job, *, first: bool) -> None:
        """Takes a job in, at the front or at the back of its lane."""
        if job.lane is _NEW:
            lane = self.new
            if lane is None:
                lane = self.new = deque()
        else:
            lane = self.deferred
            if lane is None:
                lane = self.deferred = deque()
            self.retried += 1
            self.transport.retried += 1
        self.waiting += 1
        if not lane:
            lane.append(job)
        elif first:
            lane.appendleft(job)
        elif lane[-1].message_id == job.message_id:
            last = lane[-1]
            if last.rest is None:
                last.rest = deque()
            last.rest.append(job)
        else:
            lane.append(job)

    def insert(self, job: Job) -> None:
        """Takes a new job in that has waited on disk: in front of younger messages, as far as `LOOK_BACK`."""
        lane = self.new
        assert lane  # noqa: S101 - only called when the last one is younger
        # Between the few jobs that stand out of order it is as good a place as any; one after the other would be a thousand looks.
        at = bisect_right(lane, job.message_id, max(0, len(lane) - LOOK_BACK), key=_message_id)
        self.waiting += 1
        if at and lane[at - 1].message_id == job.message_id:
            elder = lane[at - 1]
            if elder.rest is None:
                elder.rest = deque()
            elder.rest.append(job)
        else:
            lane.insert(at, job)

    def take(self, ratio: int, yield_after: int) -> Job:
        """The next job. There must be one waiting."""
        new, deferred = self.new, self.deferred
        if not deferred:
            lane = new
        elif not new or self.mix >= ratio:
            lane = deferred
            self.mix = 0
            self.retried -= 1
            self.transport.retried -= 1
        else:
            lane = new
            self.mix += 1
        assert lane is not None  # noqa: S101 - `waiting` was checked by the caller
        self.waiting -= 1
        job = lane.popleft()
        if job.rest is not None:
            _promote(lane, job, yield_after)
        return job

    def drain(self, message_ids: Collection[int] | None = None) -> list[Job]:
        """All waiting jobs, or those of some messages, taken out in order."""
        taken: list[Job] = []
        for lane in (self.new, self.deferred):
            if lane:
                for head in list(lane):
                    if message_ids is None or head.message_id in message_ids:
                        taken.append(head)
                        taken.extend(head.rest or ())
                kept = [] if message_ids is None else [head for head in lane if head.message_id not in message_ids]
                lane.clear()
                lane.extend(kept)
        for job in taken:
            job.rest = None
            job.streak = 0
            if job.lane is not _NEW:
                self.retried -= 1
                self.transport.retried -= 1
        self.waiting -= len(taken)
        return taken


def _promote(lane: deque[Job], job: Job, yield_after: int) -> None:
    """The next job of the same message takes the place of `job`, or goes behind all others when it is time to yield."""
    rest, job.rest = job.rest, None
    assert rest  # noqa: S101 - a group without further jobs has rest None
    follower = rest.popleft()
    follower.rest = rest or None
    follower.streak = job.streak + 1
    job.streak = 0
    if follower.streak >= yield_after:
        follower.streak = 0
        lane.append(follower)
    else:
        lane.appendleft(follower)
