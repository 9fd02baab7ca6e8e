"""The SMTP agent's door: finds the site of a delivery, owns what all sites share, and closes it all.

The flow calls `start` (with an idle connection at hand the message leaves before it returns) and `close`. See `site.py`
for who gets which connection. Every delivery gets exactly one `done`, also when `close` breaks it off.

Bounds: sites exist only while they have work or connections; connections to one destination, idle connections in all, and
waiting jobs have their limits in the settings and in `site.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from mailflow.delivery.request import Delivery, Done, Fact, Stage, Trouble
from mailflow.delivery.settings import SmtpSettings
from mailflow.delivery.smtp.connect import Connector
from mailflow.delivery.smtp.hosts import HostFinder
from mailflow.delivery.smtp.job import Job
from mailflow.delivery.smtp.site import UNATTEMPTED, Site
from mailflow.delivery.smtp.timers import Sweep
from mailflow.net.dns import Resolver
from mailflow.net.sockets import is_local
from mailflow.setting import Endpoint, parse_endpoint

MAX_TICK = 1.0
"""Seconds between two looks at the time limits; less when a limit is shorter."""
MIN_TICK = 0.005
"""Seconds; limits below four times this are kept less exactly."""

T = TypeVar("T")


class SmtpAgent:
    """Delivers to other hosts over SMTP. Made and used within one event loop."""

    def __init__(
        self,
        settings: SmtpSettings,
        resolver: Resolver,
        hostname: str,
        *,
        own: Callable[[], Collection[Endpoint]] = tuple,
        rng: random.Random | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`hostname` is our own; `own` gives the addresses we listen on, to notice mail that comes back to us;
        `rng` chooses among hosts of the same preference; `now` is wall-clock time, for the records.
        """
        self.settings = settings
        self.now = now
        self.idle = 0
        self._own = own
        self._sweep = Sweep(_tick(settings))
        finder = HostFinder(settings, resolver, hostname, self._is_own, rng or random.Random())  # noqa: S311
        self.connector = Connector(settings, finder, hostname, self._sweep, now)
        self._sites: dict[str, Site] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._opening: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._quiet: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<SmtpAgent sites={len(self._sites)} connections={len(self._sweep)} idle={self.idle} tasks={len(self._tasks)}>"

    def start(self, delivery: Delivery, done: Done) -> None:
        """Begins the delivery; `done(delivery)` is called once, with a fact for each recipient."""
        job = Job(delivery, done)
        site = self._sites.get(delivery.next_hop)
        if site is None and not self._closing:
            site = self._new_site(delivery.next_hop)
        if self._closing:
            asyncio.get_running_loop().call_soon(job.fail, UNATTEMPTED)
        elif site is None:
            fact = Fact(Stage.RESOLVE, None, Trouble.NO_HOST, None, "the next hop is not a host")
            asyncio.get_running_loop().call_soon(job.fail, fact)
        else:
            site.submit(job)

    async def close(self, grace: float) -> None:
        """Lets messages under way end for at most `grace` seconds, then breaks them off."""
        self._closing = True
        for site in list(self._sites.values()):
            site.close()
        for task in self._opening:
            task.cancel()
        try:
            async with asyncio.timeout(grace):
                await self._until_quiet()
        except TimeoutError:
            for connection in self._sweep:
                connection.hang_up()
            await self._until_quiet()

    # What sites ask

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs work for a message under way; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def spawn_opening(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs work that opens a connection; `close` breaks it off."""
        task = self.spawn(work)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task

    def quieter(self) -> None:
        """A connection was closed, or a task ended."""
        if self._quiet is not None and not self._quiet.done() and self._is_quiet():
            self._quiet.set_result(None)

    def forget(self, site: Site) -> None:
        """Nothing seems to be left of the site: not at once, as a job that lost its connection may be on its way back."""
        asyncio.get_running_loop().call_soon(self._forget, site)

    def _forget(self, site: Site) -> None:
        if site.empty and self._sites.get(site.next_hop) is site:
            del self._sites[site.next_hop]
            self.quieter()

    def _new_site(self, next_hop: str) -> Site | None:
        try:
            endpoint = parse_endpoint(next_hop)
        except ValueError:
            return None
        site = self._sites[next_hop] = Site(next_hop, endpoint, self)
        return site

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self.quieter()

    def _is_quiet(self) -> bool:
        return not self._tasks and not self._sites and not len(self._sweep)

    async def _until_quiet(self) -> None:
        """Waits until no task runs, no site has work, and every socket is closed."""
        while not self._is_quiet():
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    def _is_own(self, address: str, port: int) -> bool:
        """Whether one of our listeners answers at this address and port."""
        for endpoint in self._own():
            everywhere = endpoint.host in ("0.0.0.0", "::")
            if endpoint.port == port and (endpoint.host == address or (everywhere and is_local(address))):
                return True
        return False


def _tick(settings: SmtpSettings) -> float:
    """Fine enough for the shortest time limit."""
    limits = (
        settings.greeting_timeout,
        settings.hello_timeout,
        settings.mail_timeout,
        settings.rcpt_timeout,
        settings.data_timeout,
        settings.block_timeout,
        settings.dot_timeout,
        settings.quit_timeout,
        settings.idle,
    )
    return max(MIN_TICK, min(MAX_TICK, min(limits) / 4))
