"""What holds after any sequence of calls: checked against a plain list of what was put in."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mailflow.scheduler import Feedback, Job, Lane, Scheduler, SchedulerSettings

DESTINATIONS = ["smtp:a", "smtp:b", "smtp:c", "local:u", "local:v", "pipe:p"]
SETTINGS = st.builds(
    SchedulerSettings,
    slots=st.integers(1, 12),
    reserve=st.sampled_from([0.0, 0.2, 0.6]),
    initial_window=st.integers(1, 4),
    max_window=st.integers(1, 6),
    new_to_deferred_ratio=st.integers(1, 4),
    yield_after=st.integers(1, 3),
    jobs=st.integers(1, 40),
    destination_jobs=st.integers(1, 20),
    dead_after=st.integers(1, 3),
    remembered=st.integers(0, 3),
    interval=st.sampled_from(["0s", "3s"]),
    burst=st.integers(1, 3),
    transport=st.sampled_from([{}, {"pipe": {"slots": 1}, "local": {"interval": "5s"}}]),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Two schedulers that are told the same must answer the same; one model says what may still come out."""

    @initialize(given=SETTINGS)
    def begin(self, given: SchedulerSettings) -> None:
        self.settings = given
        self.scheduler, self.twin = Scheduler(given), Scheduler(given)
        self.now = 0.0
        self.number = 0
        self.waiting: dict[int, Job] = {}
        self.running: list[tuple[Job, Job]] = []

    def put(self, destination: str, lane: Lane, message: int, cost: int) -> None:
        self.number += 1
        job, double = (Job(destination, lane, message, cost, self.number) for _ in range(2))
        self.scheduler.add(job, self.now)
        self.twin.add(double, self.now)
        self.waiting[self.number] = job

    @rule(
        destination=st.sampled_from(DESTINATIONS),
        lane=st.sampled_from(Lane),
        cost=st.integers(1, 60),
        jobs=st.integers(1, 8),
        same=st.booleans(),
    )
    def add(self, destination: str, lane: Lane, cost: int, jobs: int, same: bool) -> None:
        first = self.number + 1
        for _ in range(jobs):
            room = self.scheduler.room(destination, lane)
            assert self.scheduler.admits(destination, lane) == (room > 0)
            if room:
                self.put(destination, lane, first if same else self.number + 1, cost)
                assert len(self.scheduler) <= self.settings.jobs

    @rule(limit=st.integers(1, 20))
    def start(self, limit: int) -> None:
        for _ in range(limit):
            job, double = self.scheduler.next(self.now), self.twin.next(self.now)
            if job is None or double is None:
                assert job is double
                break
            assert job.payload == double.payload, "the same calls give the same order"
            assert self.waiting.pop(job.payload) is job, "a job comes out once"
            assert not self.scheduler.is_dead(job.destination)
            self.running.append((job, double))

    @rule(which=st.integers(0, 100), feedback=st.sampled_from(Feedback))
    def report(self, which: int, feedback: Feedback) -> None:
        if not self.running:
            return
        job, double = self.running.pop(which % len(self.running))
        self.scheduler.report(job, feedback, self.now)
        self.twin.report(double, feedback, self.now)
        if feedback is Feedback.UNATTEMPTED:
            self.scheduler.add(job, self.now, first=True)
            self.twin.add(double, self.now, first=True)
            self.waiting[job.payload] = job

    @rule(seconds=st.sampled_from([0.5, 5, 60, 4000]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(destination=st.sampled_from(DESTINATIONS))
    def withdraw(self, destination: str) -> None:
        expected = [number for number, job in self.waiting.items() if job.destination == destination]
        taken = self.scheduler.withdraw(destination, self.now)
        self.twin.withdraw(destination, self.now)
        assert sorted(job.payload for job in taken) == sorted(expected)
        for number in expected:
            del self.waiting[number]

    @rule(which=st.integers(0, 100))
    def remove(self, which: int) -> None:
        ids = sorted({job.message_id for job in self.waiting.values()})
        chosen = ids[which % len(ids)] if ids else 0
        expected = [number for number, job in self.waiting.items() if job.message_id == chosen]
        taken = self.scheduler.remove(chosen, now=self.now)
        self.twin.remove(chosen, now=self.now)
        assert sorted(job.payload for job in taken) == sorted(expected)
        for number in expected:
            del self.waiting[number]

    @rule(destination=st.sampled_from(DESTINATIONS))
    def wake(self, destination: str) -> None:
        self.scheduler.wake(destination, self.now)
        self.twin.wake(destination, self.now)

    @invariant()
    def limits_are_kept(self) -> None:
        assert self.scheduler.running == len(self.running) <= self.settings.slots
        assert len(self.scheduler) == len(self.waiting)
        for view in self.scheduler.view():
            assert view.waiting == sum(job.destination == view.destination for job in self.waiting.values())
            assert view.running == sum(job.destination == view.destination for job, _ in self.running)
            top = min(2, 2) if view.destination.startswith("local:") else self.settings.max_window
            assert 1 <= view.window <= top
        for name, transport in self.settings.transport.items():
            running = sum(job.destination.startswith(name + ":") for job, _ in self.running)
            assert running <= (transport.slots or self.settings.slots)

    @invariant()
    def when_a_lane_is_full_no_destination_has_room(self) -> None:
        for lane in Lane:
            if self.scheduler.full(lane):
                assert not any(self.scheduler.room(d, lane) for d in DESTINATIONS)

    @invariant()
    def never_above_the_window_when_starting(self) -> None:
        before = {view.destination: view for view in self.scheduler.view()}
        job, double = self.scheduler.next(self.now), self.twin.next(self.now)
        if job is None or double is None:
            assert job is double
            self.work_is_conserved()
            return
        view = before[job.destination]
        assert view.running < max(view.window, 1)
        assert self.waiting.pop(job.payload) is job
        self.running.append((job, double))

    def work_is_conserved(self) -> None:
        """Nothing started: then each waiting job waits for a slot, its window, a probe, or its rate."""
        open_slots = self.settings.slots - max(int(self.settings.slots * self.settings.reserve), 0)
        if self.scheduler.running >= open_slots:
            return
        deadline = self.scheduler.deadline()
        for view in self.scheduler.view():
            own = self.settings.transport.get(view.destination.partition(":")[0])
            if view.waiting and view.running < view.window and not (own and own.slots) and not view.dead_until:
                assert deadline is not None, f"{view} could start"

    def teardown(self) -> None:
        """No starvation: when everything goes well from here on, everything comes out."""
        if not hasattr(self, "scheduler"):
            return
        while self.waiting or self.running:
            for job, double in self.running:
                self.scheduler.report(job, Feedback.GOOD, self.now)
                self.twin.report(double, Feedback.GOOD, self.now)
            self.running.clear()
            self.start(limit=1000)
            if not self.running and self.waiting:
                deadline = self.scheduler.deadline()
                assert deadline is not None, self.scheduler
                self.now = max(self.now, deadline)
        assert len(self.scheduler) == self.scheduler.running == 0


SchedulerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestInvariants = SchedulerMachine.TestCase
