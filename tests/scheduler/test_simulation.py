"""The scheduler in whole situations, in virtual time: what mute and slow sites do to the others."""

from __future__ import annotations

import time

import pytest

from bench.scheduler_sim import Simulation
from mailflow.scheduler import Feedback, Job, Lane, Scheduler, SchedulerSettings
from tests.scheduler.simulation import Site, World

GOOD = 1_000_000
"""Messages from this number on go to the good site."""


@pytest.mark.wish(57)
def test_forty_mute_sites_do_not_delay_a_good_one() -> None:
    """5,000 messages for 40 sites that never answer (30 s until the time limit), then 100 for a good one (10 ms)."""
    mute = Site(30.0, Feedback.DEAD)
    good = Site(0.010)
    world = World(Scheduler(SchedulerSettings()), lambda name: good if name == "smtp:good" else mute)
    for number in range(5000):
        world.arrive(number * 0.0001, number, f"smtp:mute{number % 40}")
    for number in range(100):
        world.arrive(1.0 + number * 0.0001, GOOD + number, "smtp:good")
    world.run(60.0)
    delays = [world.delay(GOOD + number) for number in range(100)]
    assert max(delays) < 0.1
    assert world.scheduler.running <= 40, "after the first 30 s all forty are known to be dead"


@pytest.mark.wish(57)
def test_a_thousand_slow_sites_do_not_starve_a_quiet_one() -> None:
    """1,000 sites take 60 s for each message and have 10 each; a good site gets one message every two seconds."""
    slow, good = Site(60.0), Site(0.050)
    world = World(Scheduler(SchedulerSettings()), lambda name: good if name == "smtp:good" else slow)
    for number in range(10_000):
        world.arrive(number * 0.0001, number, f"smtp:slow{number % 1000}")
    for number in range(100):
        world.arrive(2.0 + number * 2, GOOD + number, "smtp:good")
    world.run(900.0)
    delays = sorted(world.delay(GOOD + number) for number in range(100) if GOOD + number in world.delivered)
    assert len(delays) == 100
    assert delays[-1] < 0.1
    # The slow ones get all the slots that are open to them, 1,200 at a time: ten thousand messages in nine rounds.
    assert sum(number < GOOD for number in world.delivered) == 10_000


@pytest.mark.wish(57)
def test_more_slow_sites_than_slots_do_not_delay_one_known_to_be_quick() -> None:
    """5,000 sites that nothing is known of want every slot for minutes."""
    slow, good = Site(60.0), Site(0.050)
    world = World(Scheduler(SchedulerSettings()), lambda name: slow if "slow" in name else good)
    world.arrive(0.0, GOOD, "smtp:good")
    for number in range(10_000):
        world.arrive(1.0 + number * 0.0001, number, f"smtp:slow{number % 5000}")
    for number in range(1, 100):
        world.arrive(2.0 + number * 2, GOOD + number, "smtp:good")
    world.run(900.0)
    assert max(world.delay(GOOD + number) for number in range(100)) < 0.1
    assert sum(number < GOOD for number in world.delivered) == 10_000


@pytest.mark.wish(57)
def test_a_good_site_does_not_wait_behind_the_memory_of_slow_ones() -> None:
    """200,000 messages for 200 slow sites flood memory's room; a good site's mail is still admitted at once."""
    slow, good = Site(20.0), Site(0.010)
    world = World(Scheduler(SchedulerSettings(jobs=2000)), lambda name: good if name == "smtp:good" else slow)
    for number in range(20_000):
        world.arrive(0.0, number, f"smtp:slow{number % 200}")
    for number in range(50):
        world.arrive(5.0 + number, GOOD + number, "smtp:good")
    world.run(60.0)
    assert max(world.delay(GOOD + number) for number in range(50)) < 0.1
    assert world.most_waiting <= 2000


@pytest.mark.wish(47)
def test_new_mail_keeps_its_share_under_a_mountain_of_retries() -> None:
    """50,000 retries wait for the site that gets 3,000 new messages: four of five deliveries are new ones."""
    site = Site(0.1)
    world = World(Scheduler(SchedulerSettings()), lambda _: site)
    for number in range(50_000):
        world.arrive(0.0, number, "smtp:a", Lane.DEFERRED)
    for number in range(3000):
        world.arrive(1.0, GOOD + number, "smtp:a")
    world.run(1.0)
    begun = len(world.lanes)
    world.run(19.0)
    mixed = world.lanes[begun : begun + 3000]
    assert len(mixed) == 3000
    share = sum(lane is Lane.NEW for lane in mixed) / len(mixed)
    assert 0.79 < share < 0.81


@pytest.mark.wish(18)
def test_the_same_world_twice_is_the_same() -> None:
    def play() -> dict[int, float]:
        sites = [Site(0.1), Site(3.0), Site(0.5, Feedback.BUSY), Site(5.0, Feedback.DEAD), Site(0.2)]
        world = World(Scheduler(SchedulerSettings(slots=12)), lambda name: sites[int(name[-1])])
        for number in range(2000):
            world.arrive(number * 0.01, number, f"smtp:{number * 7 % 5}")
        world.run(500.0)
        return dict(world.delivered)

    first = play()
    assert first == play()
    assert len(first) == 1200


def cycle_cost(destinations: int, cycles: int) -> float:
    """Seconds of CPU for one add, next and report, while 5,000 jobs wait for as many of the destinations."""
    scheduler = Scheduler(SchedulerSettings(remembered=destinations))
    jobs = [Job(f"smtp:d{number * 7919 % destinations}.example", Lane.NEW, number, 1, None) for number in range(cycles)]
    for job in jobs[:5000]:
        scheduler.add(job, 0.0)
    begun = time.process_time()
    for job in jobs[5000:]:
        scheduler.add(job, 1.0)
        started = scheduler.next(1.0)
        assert started is not None
        scheduler.report(started, Feedback.GOOD, 1.0)
    return (time.process_time() - begun) / (cycles - 5000)


def test_the_cost_of_a_job_does_not_grow_with_the_destinations() -> None:
    """100,000 destinations, each remembered, against 100: memory is slower when there is more of it, the work is the
    same. A search through the destinations would cost a thousand times as much."""
    few, many = cycle_cost(100, 55_000), cycle_cost(100_000, 105_000)
    assert many < 6 * few


@pytest.mark.wish(18)
@pytest.mark.wish(57)
def test_heavy_tailed_mail_for_many_destinations_comes_out_fairly_and_in_the_same_order_twice() -> None:
    """The short form of `python -m bench.scheduler_sim`: everything comes out, the greedy get the same, orders agree."""
    first, second = (Simulation(20_000, 40_000, seed=5).run() for _ in range(2))
    assert first.order == second.order
    assert first.jain > 0.98
    assert first.most_waiting <= SchedulerSettings().jobs


@pytest.mark.slow
def test_a_million_destinations() -> None:
    few, many = cycle_cost(100, 55_000), cycle_cost(1_000_000, 1_005_000)
    assert many < 8 * few
