"""The scheduler alone, in virtual time, with very many destinations: cost of a decision, fairness, order.

usage: python -m bench.scheduler_sim [--destinations N] [--messages N] [--short]

Messages arrive by a Poisson process; which destination a message is for follows Zipf's law (the destination of rank r gets
a share of 1/r), so some have a tenth of all mail and most have a message or two. Each delivery takes its
destination's own time. The load is 1.5 times what the slots can do in the first half and a half of it in the second: first
everybody is short, then everything must come out. Seeded: the same arguments give the same order, which the
checksum of all decisions shows.

Printed for each number of destinations: processor time of one decision (add, next and report together, without the
simulation around it; fastest of the slices of `SLICE` decisions, and the median of them), memory of the scheduler's objects,
and Jain's index of fairness, (sum x)^2 / (n sum x^2), over the deliveries that `GREEDY` destinations got while
all of them had mail waiting from the beginning: 1 when all got the same, 1/n when one got all.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import os
import time
import zlib
from array import array
from bisect import bisect
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from statistics import median

from bench.machine import memory_bytes
from mailflow.scheduler import Feedback, Job, Lane, Scheduler, SchedulerSettings

SLOTS = 200
SECONDS = (0.05, 0.2, 1.0, 5.0)
"""How long deliveries take, by destination: most are quick."""
WEIGHTS = (60, 25, 10, 5)
SLICE = 20_000
GREEDY = 20
"""Destinations that have mail waiting from the beginning, a fifth of all messages, and are equally quick."""


@dataclass
class Outcome:
    """One simulation."""

    destinations: int
    messages: int
    slices_us: list[float]
    jain: float
    order: int
    memory_mib: float
    virtual_seconds: float
    most_waiting: int


class Simulation:
    """The world around one scheduler. Mail without room waits on "disk", for each destination, as it does with the flow."""

    def __init__(self, destinations: int, messages: int, seed: int) -> None:
        self.random = Random(seed)
        self.scheduler = Scheduler(SchedulerSettings(slots=SLOTS, remembered=destinations))
        self.names = [f"smtp:d{number}.example" for number in range(destinations)]
        self.seconds = self.random.choices(SECONDS, WEIGHTS, k=destinations)
        self.shares = array("d", accumulate(1 / rank for rank in range(1, destinations + 1)))
        self.messages = messages
        greedy = min(GREEDY, destinations)
        self.disk: dict[int, int] = dict.fromkeys(range(greedy), messages // 5 // greedy)
        self.seconds[:greedy] = [0.2] * greedy
        self.given = sum(self.disk.values())
        self.jain = 0.0
        self.target = self.disk[0] * 9 // 10
        """Deliveries of a greedy destination after which the fairness of all of them is taken."""
        self.running: list[tuple[float, int, Job]] = []
        self.sequence = self.order = self.most_waiting = 0
        self.served: Counter[int] = Counter()
        self.spent = 0.0
        self.decided = 0
        self.slices: list[float] = []

    def run(self) -> Outcome:
        gc.collect()
        before = memory_bytes(os.getpid())
        mean_seconds = sum(s * w for s, w in zip(SECONDS, WEIGHTS, strict=True)) / sum(WEIGHTS)
        rate, now = SLOTS * 0.6 / mean_seconds, 0.0
        arriving = self.messages - self.given
        for rank in list(self.disk):
            self.load(rank, now)
        for number in range(arriving):
            now += self.random.expovariate(rate * (1.5 if number < arriving // 2 else 0.5))
            self.finish(now)
            self.arrive(number, now)
            self.start(now)
        while self.running:
            now = self.running[0][0]
            self.finish(now)
            self.start(now)
        memory = (memory_bytes(os.getpid()) - before) / 2**20
        assert sum(self.served.values()) == self.messages, "everything came out"
        return Outcome(
            len(self.names), self.messages, self.slices, self.jain, self.order, memory, now, self.most_waiting
        )

    def arrive(self, number: int, now: float) -> None:
        rank = bisect(self.shares, self.random.random() * self.shares[-1])
        name = self.names[rank]
        if self.disk.get(rank, 0) or not self.scheduler.admits(name):
            self.disk[rank] = self.disk.get(rank, 0) + 1
        else:
            self.add(rank, number, now)

    def add(self, rank: int, number: int, now: float) -> None:
        job = Job(self.names[rank], Lane.NEW, number, 1, rank)
        begun = time.perf_counter()
        self.scheduler.add(job, now)
        self.spent += time.perf_counter() - begun

    def start(self, now: float) -> None:
        while True:
            begun = time.perf_counter()
            job = self.scheduler.next(now)
            self.spent += time.perf_counter() - begun
            if job is None:
                return
            self.sequence += 1
            self.order = zlib.crc32(job.payload.to_bytes(4), self.order)
            heapq.heappush(self.running, (now + self.seconds[job.payload], self.sequence, job))

    def finish(self, until: float) -> None:
        while self.running and self.running[0][0] <= until:
            now, _, job = heapq.heappop(self.running)
            begun = time.perf_counter()
            self.scheduler.report(job, Feedback.GOOD, now)
            self.spent += time.perf_counter() - begun
            self.count(job.payload)
            self.load(job.payload, now)
            self.start(now)

    def count(self, rank: int) -> None:
        self.served[rank] += 1
        if rank < GREEDY and self.served[rank] == self.target:
            self.jain = self.jain or self.fairness()
        self.decided += 1
        self.most_waiting = max(self.most_waiting, len(self.scheduler))
        if self.decided % SLICE == 0:
            self.slices.append(self.spent / SLICE * 1e6)
            self.spent = 0.0

    def load(self, rank: int, now: float) -> None:
        waiting = self.disk.get(rank, 0)
        if waiting:
            room = min(waiting, 200, self.scheduler.room(self.names[rank]))
            for _ in range(room):
                self.add(rank, self.decided, now)
            if waiting > room:
                self.disk[rank] = waiting - room
            else:
                del self.disk[rank]

    def fairness(self) -> float:
        """Jain's index over the deliveries that the greedy destinations got."""
        got = [self.served[rank] for rank in range(min(GREEDY, len(self.names)))]
        return sum(got) ** 2 / (len(got) * sum(x * x for x in got)) if any(got) else 0.0


def show(outcome: Outcome) -> str:
    """A line of the table."""
    fastest, middle = min(outcome.slices_us), median(outcome.slices_us)
    return (
        f"| {outcome.destinations:,} | {outcome.messages:,} | {fastest:.2f} | {middle:.2f} | {outcome.jain:.3f} |"
        f" {outcome.most_waiting:,} | {outcome.memory_mib:.0f} | {outcome.order:08x} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scheduler_sim", description=__doc__.partition("\n")[0])
    parser.add_argument("--destinations", default="1000,10000,100000,1000000")
    parser.add_argument("--messages", type=int, default=1_000_000, help="for each but the last number")
    parser.add_argument("--most", type=int, default=10_000_000, help="for the last number")
    parser.add_argument("--short", action="store_true", help="1,000 and 100,000 destinations, 200,000 messages")
    chosen = parser.parse_args()
    sizes = [1000, 100_000] if chosen.short else [int(word) for word in chosen.destinations.split(",")]
    print("| destinations | messages | µs per decision, fastest | median | Jain | most waiting | memory MiB | order |")
    print("|--:|--:|--:|--:|--:|--:|--:|---|")
    for size in sizes:
        last = chosen.most if size == sizes[-1] else chosen.messages
        print(show(Simulation(size, 200_000 if chosen.short else last, seed=1).run()), flush=True)


if __name__ == "__main__":
    main()
