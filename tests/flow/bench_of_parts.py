"""A flow on a real queue with fake agents and a clock that the test moves: what the flow tests work on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mailflow.bounce import BounceSettings
from mailflow.bouncing import Bouncing
from mailflow.budget import Budget
from mailflow.cleanup import Cleaner
from mailflow.envelope import InboundEnvelope, Options, Peer, Recipient
from mailflow.flow import Flow
from mailflow.flow_parts import FlowParts
from mailflow.journal import Journal
from mailflow.observe.log import EventLog
from mailflow.observe.settings import LogSettings
from mailflow.queue import Queue, QueueSettings
from mailflow.receipt import Receipts
from mailflow.rewrite import Resolver
from mailflow.route_settings import LocalSettings, RelaySettings
from mailflow.scheduler import Scheduler, SchedulerSettings
from mailflow.settle import RetryPolicy
from mailflow.smtp.reply import Reply
from tests.fakes.agent import FakeAgent

MESSAGE = b"Subject: test\r\n\r\nText\r\n"


class Bench:
    """The parts, and the few things that tests do with them."""

    def __init__(self, queue: Queue, agent: FakeAgent, log: EventLog, skew: list[float], parts: dict[str, object]):
        self.queue, self.agent, self.skew = queue, agent, skew
        loop = asyncio.get_running_loop()
        start = loop.time()
        self.now = lambda: 1_800_000_000.0 + loop.time() - start + skew[0]
        self.resolver = Resolver(
            LocalSettings(domains=["here.example"], users=["alice", "bob"]), RelaySettings(), hostname="mx.here.example"
        )
        cleaner = Cleaner("mx.here.example")
        self.scheduler = Scheduler(SchedulerSettings(**parts.pop("scheduler", {})))
        self.receipts = Receipts()
        self.budget = Budget(parts.pop("content_memory", 10**6))
        values = {
            "queue": queue,
            "scheduler": self.scheduler,
            "agents": {"smtp": agent, "local": agent},
            "cleaner": cleaner,
            "bouncing": Bouncing(
                BounceSettings(),
                hostname="mx.here.example",
                queue=queue,
                resolver=self.resolver,
                cleaner=cleaner,
                log=log,
                now=self.now,
            ),
            "journal": Journal(log, attempts=False),
            "policy": RetryPolicy(10.0, 100.0, 1000.0, 1000.0),
            "budget": self.budget,
            "threshold": 100_000,
            "origin_domain": self.resolver.origin_domain,
            "recipients_per_delivery": 50,
            "now": self.now,
            "clock": lambda: loop.time() + skew[0],
            "reported": self.receipts.reported,
        }
        self.flow = Flow(FlowParts(**{**values, **parts}))

    async def submit(
        self, *recipients: str, sender: str = "alice@here.example", content: bytes = MESSAGE, **more: object
    ) -> Reply:
        """Hands a message in as a trusted client does; returns what the client hears. `more`: of its `InboundEnvelope`."""
        accepted = [Recipient(0, a, self.resolver.resolve(a).destination) for a in recipients]
        incoming = self.flow.begin(InboundEnvelope(Peer(), sender, accepted, Options(), trusted=True, **more))
        if isinstance(incoming, Reply):
            return incoming
        self.receipt = self.receipts.open(incoming.queue_id, list(recipients))
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        for start in range(0, len(content), 30_000):
            incoming.write(content[start : start + 30_000])
        incoming.finish(answer.set_result)
        return await answer

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for something that the flow's own callbacks bring about."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    async def empty(self) -> None:
        """Waits until nothing is in the queue."""
        async with asyncio.timeout(10):
            while (await self.queue.counts()).recipients:
                await asyncio.sleep(0.001)

    def step(self, seconds: float) -> None:
        """Time passes."""
        self.skew[0] += seconds
        self.flow.pump()

    async def crash(self) -> None:
        """The process is gone: nothing is told to anybody. (The queue is closed only to free its threads and lock.)"""
        self.agent.open.clear()
        self.queue.on_commit = None
        await self.flow.close(0.0)
        await self.queue.close()


@asynccontextmanager
async def bench(spool: Path, agent: FakeAgent | None = None, **parts: object) -> AsyncIterator[Bench]:
    """A flow on the queue below `spool`, started; `parts` replace settings."""
    log = EventLog(LogSettings(to=str(spool.parent / "log")))
    skew = [float(parts.pop("skew", 0.0))]
    queue = await Queue.open(spool, QueueSettings(reserve=0))
    made = Bench(queue, agent or FakeAgent(), log, skew, parts)
    try:
        await made.flow.start()
        yield made
    finally:
        await made.flow.close(0.0)
        await queue.close()
        log.close()
