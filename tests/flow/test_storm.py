"""Many recipients, little memory, moody hosts, an operator who interferes: each recipient gets exactly one end.

Random but repeatable. After the storm nothing may be left anywhere: no job, no slot, no memory, no row.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from mailflow.delivery.request import Delivery, Fact
from mailflow.queue import Selection
from mailflow.store.reader import list_messages
from tests.fakes.agent import DOWN, LATER, NEVER, RETURNED, TAKEN, FakeAgent
from tests.flow.bench_of_parts import Bench
from tests.flow.test_flow import play

MOODS = [TAKEN] * 10 + [LATER] * 4 + [NEVER] + [RETURNED] + [DOWN] * 4
SITES = 25
NARROW = {"jobs": 80, "destination_jobs": 15, "initial_window": 2, "max_window": 4, "probe": (20.0, 40.0)}


class Moody(FakeAgent):
    """Answers by chance, and notes who was taken or failed for good."""

    def __init__(self, rng: Random) -> None:
        super().__init__(None)
        self.rng = rng
        self.calm = False
        self.ended: list[tuple[str, str]] = []

    def finish(self) -> None:
        waiting, self.open = self.open, []
        self.rng.shuffle(waiting)
        for delivery, done in waiting[: 1 + len(waiting) // 2]:
            delivery.facts = [self.mood(delivery, r.address) for r in delivery.recipients]
            done(delivery)
        self.open = waiting[1 + len(waiting) // 2 :] + self.open

    def mood(self, delivery: Delivery, address: str) -> Fact:
        fact = TAKEN if self.calm or address.endswith("@here.example") else self.rng.choice(MOODS)
        if fact is TAKEN or fact is NEVER:
            self.ended.append((delivery.message.queue_id, address))
        return fact


@pytest.mark.parametrize("seed", range(4))
def test_each_recipient_has_exactly_one_end(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    agent = Moody(rng)

    async def story(b: Bench) -> None:
        sent = 0
        for _ in range(6):
            await b.submit(*(f"u{n}@d{rng.randrange(SITES)}.example" for n in range(sent, sent + 150)))
            sent += 150
            for n in range(60):
                agent.finish()
                await asyncio.sleep(0)
                if n % 10 == 0:
                    await interfere(b)
        agent.calm = True
        for c in await b.queue.release(Selection(everything=True)):
            for destination in c.destinations:
                b.flow.wake(destination, probe=True)
        for n in range(SITES):
            b.flow.wake(f"smtp:d{n}.example", probe=True)
        async with asyncio.timeout(30):
            while (await b.queue.counts()).recipients or b.flow.active:  # the loop hears of a commit after the disk
                agent.finish()
                b.step(rng.choice((0.0, 1.0, 5.0)))
                await asyncio.sleep(0)
        far = [end for end in agent.ended if not end[1].endswith("@here.example")]
        assert len(far) == len(set(far)) == sent
        assert (b.flow.active, len(b.scheduler), b.scheduler.running, b.budget.used) == (0, 0, 0, 0)

    async def interfere(b: Bench) -> None:
        b.step(rng.choice((0.0, 3.0, 15.0)))
        some = [m.id for m in list_messages(tmp_path / "spool", limit=20) if rng.random() < 0.3]
        if some and rng.random() < 0.5:
            changed = await b.queue.hold(Selection(ids=tuple(some)))
            b.flow.withdraw(changed)
        elif some:
            for c in await b.queue.release(Selection(ids=tuple(some))):
                for destination in c.destinations:
                    b.flow.wake(destination, probe=False)
        else:
            for c in await b.queue.flush(Selection(everything=True)):
                for destination in c.destinations:
                    b.flow.wake(destination, probe=True)

    play(tmp_path / "spool", story, agent, scheduler=NARROW, content_memory=2000, recipients_per_delivery=7)
