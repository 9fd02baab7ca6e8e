"""A world in virtual time around the scheduler: sites with a way to answer, a queue on disk, nothing real.

`World.run` plays what the flow does: messages arrive, those that `admits` lets in become jobs, the others wait on
"disk" per destination and are loaded when there is room; each started job ends after its site's time with its
site's feedback; a dead site's jobs are withdrawn and come back when their retry is due.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mailflow.scheduler import Feedback, Job, Lane, Scheduler


@dataclass
class Site:
    """How a destination answers: after how many seconds, and how."""

    seconds: float
    feedback: Feedback = Feedback.GOOD


@dataclass
class World:
    scheduler: Scheduler
    site: Callable[[str], Site]
    retry: float = 300.0
    disk: dict[tuple[str, Lane], deque[int]] = field(default_factory=dict)
    arrived: dict[int, float] = field(default_factory=dict)
    delivered: dict[int, float] = field(default_factory=dict)
    lanes: list[Lane] = field(default_factory=list)
    events: list[tuple[float, int, str, object]] = field(default_factory=list)
    sequence: int = 0
    most_waiting: int = 0
    ticking: float = -1.0

    def at(self, time: float, what: str, value: object) -> None:
        self.sequence += 1
        heapq.heappush(self.events, (time, self.sequence, what, value))

    def arrive(self, time: float, message: int, destination: str, lane: Lane = Lane.NEW) -> None:
        self.arrived[message] = time
        self.at(time, "arrive", (message, destination, lane))

    def delay(self, message: int) -> float:
        return self.delivered[message] - self.arrived[message]

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            now, _, what, value = heapq.heappop(self.events)
            if what == "arrive":
                message, destination, lane = value  # type: ignore[misc]
                self.disk.setdefault((destination, lane), deque()).append(message)
                self.load(destination, now)
            elif what == "end":
                self.end(value, now)  # type: ignore[arg-type]
            self.start(now)

    def load(self, destination: str, now: float) -> None:
        for lane in Lane:
            waiting = self.disk.get((destination, lane))
            while waiting and self.scheduler.admits(destination, lane):
                self.scheduler.add(Job(destination, lane, waiting.popleft(), 1, None), now)
        self.most_waiting = max(self.most_waiting, len(self.scheduler))

    def start(self, now: float) -> None:
        while (job := self.scheduler.next(now)) is not None:
            self.lanes.append(job.lane)
            self.at(now + self.site(job.destination).seconds, "end", job)
        deadline = self.scheduler.deadline()
        if deadline is not None and deadline != self.ticking:
            self.ticking = deadline
            self.at(deadline, "tick", None)

    def end(self, job: Job, now: float) -> None:
        feedback = self.site(job.destination).feedback
        self.scheduler.report(job, feedback, now)
        if feedback is Feedback.GOOD:
            self.delivered[job.message_id] = now
        else:
            self.later(job, now)
        if self.scheduler.is_dead(job.destination):
            for withdrawn in self.scheduler.withdraw(job.destination, now):
                self.later(withdrawn, now)
        else:
            self.load(job.destination, now)

    def later(self, job: Job, now: float) -> None:
        self.at(now + self.retry, "arrive", (job.message_id, job.destination, Lane.DEFERRED))
