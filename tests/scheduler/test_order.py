"""The scheduler's rules one by one, with literal jobs and supplied time."""

from __future__ import annotations

import pytest

from mailflow.scheduler import DestinationView, Feedback, Job, Lane, Scheduler, SchedulerSettings


def make(**settings: object) -> Scheduler:
    return Scheduler(SchedulerSettings(**settings))


def add(
    scheduler: Scheduler, destination: str, *ids: int, lane: Lane = Lane.NEW, cost: int = 1, now: float = 0
) -> None:
    for number in ids:
        scheduler.add(Job(destination, lane, number, cost, None), now)


def start_all(scheduler: Scheduler, now: float = 0) -> list[Job]:
    jobs = []
    while (job := scheduler.next(now)) is not None:
        jobs.append(job)
    return jobs


def ids(jobs: list[Job]) -> list[int]:
    return [job.message_id for job in jobs]


def drain(scheduler: Scheduler, now: float = 0) -> list[Job]:
    """Everything, one job at a time."""
    jobs = []
    while (job := scheduler.next(now)) is not None:
        jobs.append(job)
        scheduler.report(job, Feedback.GOOD, now)
    return jobs


def view(scheduler: Scheduler, destination: str) -> DestinationView:
    return next(v for v in scheduler.view() if v.destination == destination)


# Order


@pytest.mark.wish(18)
def test_messages_of_a_destination_go_in_order_of_arrival() -> None:
    scheduler = make()
    add(scheduler, "smtp:a", 1, 2, 3, 4, 5, 6, 7)
    assert ids(drain(scheduler)) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.wish(18)
def test_destinations_take_turns() -> None:
    scheduler = make(slots=1, reserve=0)
    add(scheduler, "smtp:a", 1, 2)
    add(scheduler, "smtp:b", 3, 4)
    add(scheduler, "smtp:c", 5, 6)
    assert ids(drain(scheduler)) == [1, 3, 5, 2, 4, 6]


@pytest.mark.wish(57)
def test_a_turn_is_ten_recipients_and_a_large_transaction_is_a_whole_turn() -> None:
    scheduler = make(slots=100, reserve=0, initial_window=20)
    add(scheduler, "smtp:a", *range(100, 120))
    add(scheduler, "smtp:b", *range(200, 220), cost=50)
    order = "".join(str(i // 100) for i in ids(start_all(scheduler)))
    # First one job each, being quiet; then ten recipients against one job, in turns; b's rest when a's window is full.
    assert order.startswith("12" + "1" * 10 + "2" + "1" * 9 + "2")
    assert order.count("1") == order.count("2") == 20


def test_retried_jobs_cost_more_of_a_turn_than_new_ones() -> None:
    scheduler = make(slots=100, reserve=0, initial_window=20, new_to_deferred_ratio=5)
    add(scheduler, "smtp:a", *range(100, 120))
    add(scheduler, "smtp:b", *range(200, 220), lane=Lane.DEFERRED)
    order = "".join(str(i // 100) for i in ids(start_all(scheduler)))
    assert order.startswith("12" + "1" * 10 + "22")


def test_what_came_back_unattempted_goes_first() -> None:
    scheduler = make(initial_window=1)
    add(scheduler, "smtp:a", 1, 2)
    job = scheduler.next(0)
    assert job is not None
    scheduler.report(job, Feedback.UNATTEMPTED, 0)
    scheduler.add(job, 0, first=True)
    assert ids(drain(scheduler)) == [1, 2]


@pytest.mark.wish(57)
def test_a_message_with_many_jobs_yields_to_those_behind_it() -> None:
    scheduler = make(yield_after=3)
    add(scheduler, "smtp:a", *[1] * 8)
    add(scheduler, "smtp:a", 2, 3)
    assert ids(drain(scheduler)) == [1, 1, 1, 2, 3, 1, 1, 1, 1, 1]


def test_further_slices_of_a_large_message_join_the_group_only_at_its_end() -> None:
    scheduler = make(yield_after=2)
    add(scheduler, "smtp:a", 1, 1, 1, 1)
    add(scheduler, "smtp:a", 2)
    add(scheduler, "smtp:a", 1, 1)
    assert ids(drain(scheduler)) == [1, 1, 2, 1, 1, 1, 1]


@pytest.mark.wish(47)
def test_new_and_deferred_mail_go_by_the_ratio() -> None:
    scheduler = make(new_to_deferred_ratio=4, slots=1, reserve=0)
    add(scheduler, "smtp:a", *range(1000, 2000), lane=Lane.DEFERRED)
    add(scheduler, "smtp:a", *range(20))
    order = ids(drain(scheduler))
    assert order[:25] == [
        0,
        1,
        2,
        3,
        1000,
        4,
        5,
        6,
        7,
        1001,
        8,
        9,
        10,
        11,
        1002,
        12,
        13,
        14,
        15,
        1003,
        16,
        17,
        18,
        19,
        1004,
    ]
    assert order[25:] == list(range(1005, 2000))


# Windows


def test_the_window_starts_small_and_grows_by_one_for_each_good_delivery() -> None:
    scheduler = make(initial_window=2, max_window=4)
    add(scheduler, "smtp:a", *range(20))
    first = start_all(scheduler)
    assert len(first) == 2
    scheduler.report(first[0], Feedback.GOOD, 1)
    assert len(start_all(scheduler)) == 2
    scheduler.report(first[1], Feedback.GOOD, 1)
    assert len(start_all(scheduler)) == 2
    assert view(scheduler, "smtp:a").window == 4


def test_a_busy_site_halves_the_window_once_for_all_that_saw_it() -> None:
    scheduler = make(initial_window=16)
    add(scheduler, "smtp:a", *range(50))
    jobs = start_all(scheduler, 0)
    for job in jobs:
        scheduler.report(job, Feedback.BUSY, 1)
    assert view(scheduler, "smtp:a").window == 8
    assert len(start_all(scheduler, 2)) == 8


def test_after_a_complaint_the_window_grows_carefully() -> None:
    scheduler = make(initial_window=8)
    add(scheduler, "smtp:a", *range(100))
    job = scheduler.next(0)
    assert job is not None
    scheduler.report(job, Feedback.BUSY, 0)
    for _ in range(15):
        job = scheduler.next(1)
        assert job is not None
        scheduler.report(job, Feedback.GOOD, 1)
    assert view(scheduler, "smtp:a").window == 4
    job = scheduler.next(1)
    assert job is not None
    scheduler.report(job, Feedback.GOOD, 1)
    assert view(scheduler, "smtp:a").window == 5


@pytest.mark.parametrize("feedback", [Feedback.NEUTRAL, Feedback.UNATTEMPTED])
def test_failures_of_a_message_leave_the_window(feedback: Feedback) -> None:
    scheduler = make()
    add(scheduler, "smtp:a", *range(50))
    for job in start_all(scheduler):
        scheduler.report(job, feedback, 1)
    assert view(scheduler, "smtp:a") == DestinationView("smtp:a", 45, 0, 5, 0.0)


@pytest.mark.wish(1)
def test_each_mailbox_has_its_own_window_of_two() -> None:
    scheduler = make()
    add(scheduler, "local:stuck", *range(10))
    add(scheduler, "local:fine", *range(10, 13))
    assert sorted(ids(start_all(scheduler))) == [0, 1, 10, 11]


def test_a_transport_has_slots_of_its_own() -> None:
    scheduler = make(transport={"pipe": {"slots": 3}}, reserve=0)
    for user in range(10):
        add(scheduler, f"pipe:{user}", user)
    add(scheduler, "smtp:a", 100)
    assert sorted(ids(start_all(scheduler))) == [0, 1, 2, 100]


def test_a_job_is_reported_once() -> None:
    scheduler = make()
    add(scheduler, "smtp:a", 1)
    job = scheduler.next(0)
    assert job is not None
    scheduler.report(job, Feedback.GOOD, 0)
    with pytest.raises(ValueError, match="not under way"):
        scheduler.report(job, Feedback.GOOD, 0)


# Slots kept in reserve


def test_the_last_slots_are_for_those_that_have_none() -> None:
    scheduler = make(slots=10, reserve=0.4, initial_window=20)
    add(scheduler, "smtp:greedy", *range(100))
    assert len(start_all(scheduler)) == 6
    add(scheduler, "smtp:quiet", 200)
    assert ids(start_all(scheduler)) == [200]


def test_the_very_last_slots_are_for_those_that_were_quick() -> None:
    scheduler = make(slots=9, reserve=0.7, slow="10s")  # 3 for all, 2 for the quiet, 2 for the unknown, 2 for the quick
    for name, seconds in (("quick", 1), ("slow", 30)):
        add(scheduler, f"smtp:{name}", 1)
        job = scheduler.next(0)
        assert job is not None
        scheduler.report(job, Feedback.GOOD, seconds)
    for number in range(20):
        add(scheduler, f"smtp:new{number}", number, now=100)
    assert len(start_all(scheduler, 100)) == 7
    add(scheduler, "smtp:slow", 300, now=100)
    assert start_all(scheduler, 100) == []
    add(scheduler, "smtp:quick", 400, now=100)
    assert ids(start_all(scheduler, 100)) == [400]


# Dead sites


def fail(scheduler: Scheduler, now: float) -> None:
    job = scheduler.next(now)
    assert job is not None
    scheduler.report(job, Feedback.DEAD, now)


def test_a_site_is_dead_after_failures_in_a_row_and_its_probes_grow_rarer() -> None:
    scheduler = make(dead_after=3, probe=["1m", "3m"])
    add(scheduler, "smtp:mute", *range(100))
    for _ in range(3):
        assert not scheduler.is_dead("smtp:mute")
        fail(scheduler, 10)
    now, waits = 10.0, []
    for _ in range(4):
        assert scheduler.is_dead("smtp:mute")
        assert not scheduler.admits("smtp:mute")
        until = scheduler.deadline()
        assert until == scheduler.dead_until("smtp:mute") == view(scheduler, "smtp:mute").dead_until
        assert until is not None
        assert scheduler.next(until - 0.001) is None
        waits.append(until - now)
        now = until
        job = scheduler.next(now)
        assert job is not None
        assert scheduler.next(now) is None, "a probe is one delivery"
        scheduler.report(job, Feedback.DEAD, now)
    assert waits == [60, 120, 180, 180]


def test_a_good_probe_brings_it_back_with_slow_start() -> None:
    scheduler = make(dead_after=1, max_window=8)
    add(scheduler, "smtp:a", *range(100))
    fail(scheduler, 0)
    job = scheduler.next(60)
    assert job is not None
    assert not scheduler.is_dead("smtp:a")
    scheduler.report(job, Feedback.GOOD, 60)
    assert len(start_all(scheduler, 60)) == 2
    assert scheduler.deadline() is None


def test_failures_count_only_in_a_row() -> None:
    scheduler = make(dead_after=2)
    add(scheduler, "smtp:a", *range(10))
    for feedback in (Feedback.DEAD, Feedback.GOOD, Feedback.DEAD, Feedback.GOOD, Feedback.DEAD):
        job = scheduler.next(0)
        assert job is not None
        scheduler.report(job, feedback, 0)
    assert not scheduler.is_dead("smtp:a")


def test_a_site_that_is_busy_at_a_window_of_one_is_dead_in_the_end() -> None:
    scheduler = make(dead_after=3, initial_window=4)
    add(scheduler, "smtp:a", *range(10))
    for now in range(5):
        job = scheduler.next(now)
        assert job is not None, now
        scheduler.report(job, Feedback.BUSY, now)
    assert scheduler.is_dead("smtp:a")


def test_a_dead_site_without_jobs_is_probed_in_time_too() -> None:
    scheduler = make(dead_after=1)
    add(scheduler, "smtp:a", 1)
    fail(scheduler, 0)
    assert scheduler.is_dead("smtp:a")
    assert scheduler.deadline() == 60
    assert scheduler.next(60) is None
    assert not scheduler.is_dead("smtp:a")
    assert scheduler.admits("smtp:a")
    add(scheduler, "smtp:a", 2, 3, now=61)
    assert ids(start_all(scheduler, 61)) == [2]


def test_success_of_a_delivery_begun_earlier_revives() -> None:
    scheduler = make(dead_after=1)
    add(scheduler, "smtp:a", 1, 2, 3)
    one, two, three = start_all(scheduler)
    scheduler.report(one, Feedback.DEAD, 1)
    scheduler.report(two, Feedback.DEAD, 1)
    assert scheduler.dead_until("smtp:a") == 61
    scheduler.report(three, Feedback.GOOD, 2)
    assert not scheduler.is_dead("smtp:a")
    assert scheduler.deadline() is None


def test_wake_ends_a_dead_mark() -> None:
    scheduler = make(dead_after=1)
    add(scheduler, "smtp:a", 1, 2)
    fail(scheduler, 0)
    scheduler.wake("smtp:a", 5)
    scheduler.wake("smtp:unknown", 5)
    assert not scheduler.is_dead("smtp:a")
    assert ids(start_all(scheduler, 5)) == [2]


def test_withdraw_gives_everything_waiting_back_in_order() -> None:
    scheduler = make(dead_after=1, initial_window=1)
    add(scheduler, "smtp:a", 1, 2, 2, 2, 3)
    add(scheduler, "smtp:a", 9, lane=Lane.DEFERRED)
    fail(scheduler, 0)
    assert ids(scheduler.withdraw("smtp:a", 0)) == [2, 2, 2, 3, 9]
    assert len(scheduler) == 0
    assert scheduler.withdraw("smtp:a", 0) == scheduler.withdraw("smtp:never", 0) == []
    assert scheduler.is_dead("smtp:a")


def test_remove_takes_a_message_out_everywhere() -> None:
    scheduler = make()
    add(scheduler, "smtp:a", 1, 2, 2, 3)
    add(scheduler, "smtp:b", 2, 4)
    assert ids(scheduler.remove(2, 4, now=0)) == [2, 2, 2, 4]
    assert len(scheduler) == 2
    assert ids(drain(scheduler)) == [1, 3]


# Rate


def test_a_rate_spaces_deliveries_after_a_burst() -> None:
    scheduler = make(interval="10s", burst=2)
    add(scheduler, "smtp:a", *range(5))
    add(scheduler, "smtp:b", 100)
    times = {}
    now = 0.0
    while len(scheduler):
        for job in start_all(scheduler, now):
            times[job.message_id] = now
            scheduler.report(job, Feedback.GOOD, now)
        now = scheduler.deadline() or now
    assert times == {0: 0, 1: 0, 2: 10, 3: 20, 4: 30, 100: 0}


# Memory


@pytest.mark.wish(57)
def test_a_destination_s_share_of_memory_shrinks_and_a_new_one_finds_room() -> None:
    scheduler = make(jobs=20_000, destination_jobs=5000)
    counts = []
    for name in range(200):
        count = 0
        while scheduler.admits(f"smtp:{name}"):
            add(scheduler, f"smtp:{name}", count)
            count += 1
        counts.append(count)
    assert counts[0] == 3200
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 10
    for name in range(10_000):
        if scheduler.admits(f"smtp:late{name}"):
            add(scheduler, f"smtp:late{name}", name)
    assert len(scheduler) == 18_000
    for name in range(10_000):
        if scheduler.admits(f"smtp:late{name}", Lane.DEFERRED):
            add(scheduler, f"smtp:late{name}", name, lane=Lane.DEFERRED)
    assert len(scheduler) == 20_000, "the last tenth is kept for deferred mail"


@pytest.mark.wish(47)
def test_retried_mail_leaves_room_to_new_mail() -> None:
    scheduler = make(jobs=1000)
    for number in range(2000):
        if scheduler.admits(f"smtp:{number}", Lane.DEFERRED):
            add(scheduler, f"smtp:{number}", number, lane=Lane.DEFERRED)
    assert len(scheduler) == 600
    assert not scheduler.admits("smtp:x", Lane.DEFERRED)
    assert scheduler.admits("smtp:x", Lane.NEW)


@pytest.mark.wish(47)
def test_deferred_mail_finds_room_while_new_mail_fills_memory() -> None:
    scheduler = make(jobs=1000)
    for number in range(2000):
        name = f"smtp:{number % 40}"
        if scheduler.admits(name):
            add(scheduler, name, number)
    assert len(scheduler) > 700
    assert [scheduler.room(f"smtp:{n}", Lane.DEFERRED) for n in range(3)] == [10, 10, 10]
    for n in range(40):
        for number in range(scheduler.room(f"smtp:{n}", Lane.DEFERRED)):
            add(scheduler, f"smtp:{n}", 10_000 + number, lane=Lane.DEFERRED)
    assert not scheduler.admits("smtp:0", Lane.DEFERRED)
    order = [job.lane for job in drain(scheduler) if job.destination == "smtp:0"]
    assert order[:10] == [*[Lane.NEW] * 4, Lane.DEFERRED] * 2


@pytest.mark.wish(18)
def test_what_waited_on_disk_takes_its_place_in_order_of_arrival() -> None:
    scheduler = make(initial_window=1)
    add(scheduler, "smtp:a", 1, 2, 9, 10)
    for number in (3, 4, 4, 5):
        scheduler.restore(Job("smtp:a", Lane.NEW, number, 1, None), 0)
    scheduler.restore(Job("smtp:b", Lane.NEW, 7, 1, None), 0)
    assert [j.message_id for j in drain(scheduler) if j.destination == "smtp:a"] == [1, 2, 3, 4, 4, 5, 9, 10]


class CountedJob(Job):
    """Counts how often it is looked at."""

    looks = 0

    @property
    def message_id(self) -> int:  # type: ignore[override]
        CountedJob.looks += 1
        return self.number

    @message_id.setter
    def message_id(self, number: int) -> None:
        self.number = number


@pytest.mark.interpreted("a job of another class")
def test_the_place_of_what_waited_on_disk_is_found_with_few_looks() -> None:
    scheduler = make(destination_jobs=5000)
    for number in [*range(1000, 3000), *range(1000)]:
        scheduler.restore(CountedJob("smtp:a", Lane.NEW, number, 1, None), 0)
    assert CountedJob.looks < 3000 * 15, "and not a thousand for each"
    order = ids(drain(scheduler))
    assert len(order) == 3000
    assert order[-1000:] == list(range(2000, 3000)), "a thousand younger ones are passed"


def test_more_comes_from_disk_by_the_slice_where_plenty_waits() -> None:
    scheduler = make(destination_jobs=1010)
    assert scheduler.room_for_slice("smtp:a", Lane.NEW) == 1000, "a few are kept for what was deferred"
    add(scheduler, "smtp:a", *range(950))
    assert scheduler.room("smtp:a", Lane.NEW) == 50
    assert scheduler.room_for_slice("smtp:a", Lane.NEW) == 0
    assert scheduler.room_for_slice("smtp:a", Lane.DEFERRED) == scheduler.room("smtp:a", Lane.DEFERRED) > 0
    for _ in range(51):
        job = scheduler.next(0)
        assert job is not None
        scheduler.report(job, Feedback.GOOD, 0)
    assert scheduler.room_for_slice("smtp:a", Lane.NEW) == 101
    few = make(jobs=100, destination_jobs=60)
    add(few, "smtp:a", *range(10))
    assert few.room_for_slice("smtp:a", Lane.NEW) == few.room("smtp:a", Lane.NEW) > 0, (
        "where memory is small so are slices"
    )


def test_room_says_how_many_admits_would_let_in() -> None:
    scheduler = make(jobs=1000, destination_jobs=150)
    for name, taken in (("a", 0), ("b", 70), ("c", 149), ("d", 10)):
        add(scheduler, f"smtp:{name}", *range(taken))
        room, count = scheduler.room(f"smtp:{name}"), 0
        while scheduler.admits(f"smtp:{name}"):
            add(scheduler, f"smtp:{name}", count)
            count += 1
        assert abs(count - room) <= 1


def test_idle_destinations_are_forgotten_or_remembered_in_bounds() -> None:
    scheduler = make(remembered=3)
    for number in range(10):
        add(scheduler, f"smtp:{number}", number)
        job = scheduler.next(0)
        assert job is not None
        scheduler.report(job, Feedback.GOOD, 0)
    assert repr(scheduler) == "<Scheduler waiting=0 running=0 destinations=3>"
    add(scheduler, "smtp:fresh", 1)
    scheduler.remove(1, now=0)
    assert repr(scheduler) == "<Scheduler waiting=0 running=0 destinations=3>"


def test_what_is_known_is_kept_for_a_while() -> None:
    scheduler = make(memory="1h")
    for now, window in ((0, 6), (3600, 7), (9000, 6)):
        add(scheduler, "smtp:a", 1, now=now)
        job = scheduler.next(now)
        assert job is not None
        scheduler.report(job, Feedback.GOOD, now)
        add(scheduler, "smtp:a", 2, now=now)
        assert view(scheduler, "smtp:a").window == window
        scheduler.remove(2, now=now)


# Settings


def test_given_transports_keep_the_built_in_ones() -> None:
    settings = SchedulerSettings(transport={"smtp": {"max_window": 7}, "local": {"interval": "1s"}})
    assert settings.transport["smtp"].max_window == 7
    assert (settings.transport["local"].max_window, settings.transport["local"].interval) == (2, 1.0)
    assert SchedulerSettings().transport["local"].initial_window == 2
