"""Are the lists in order? Asked in the background, as RFC 5782 §5 has it.

A list of addresses must hold 127.0.0.2 and must not hold 127.0.0.1; a list of domains must hold "test" and must not hold
"invalid". A zone that fails the second half lists everybody, as lists that were given up have done: it is left out until a later
test finds it mended. One that fails the first half is reported, no more: not all lists keep to it. A list that does not
answer is left as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mailflow.ingress.checks.answers import is_error
from mailflow.ingress.checks.dnsbl import Dnsbl, List, Lookups, Zone
from mailflow.net.dns import DnsError

_POINTS = {"client": ("2.0.0.127", "1.0.0.127"), "helo": ("test", "invalid"), "sender": ("test", "invalid")}
"""By kind: what must be listed, and what must not."""


class SelfTest:
    """The regular test of all lists."""

    def __init__(self, dnsbl: Dnsbl, dns: Lookups, interval: float, warn: Callable[[str], None]) -> None:
        """`interval`: seconds between two tests. `warn` is told what is found, once for each change."""
        self._dnsbl, self._dns, self._interval, self._warn = dnsbl, dns, interval, warn
        self._said: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tests now and then, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Tests no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def run(self) -> None:
        """Tests every list once, one after the other."""
        for name, zone in self._dnsbl.zones.items():
            try:
                trouble = await self._test(zone)
            except DnsError:
                continue
            if trouble != self._said.get(name, ""):
                self._said[name] = trouble
                self._warn(f"{name} {trouble or 'is in order again'}")

    async def _run(self) -> None:
        while True:
            await self.run()
            await asyncio.sleep(self._interval)

    async def _test(self, zone: Zone) -> str:
        """What is wrong with a zone, "" for nothing. Raises DnsError."""
        lists = [entry for entry in self._dnsbl.lists if entry.zone is zone]
        zone.lists_everybody = bool([entry for entry in lists if entry.holds(await self._ask(entry, must=False))])
        if zone.lists_everybody:
            return "lists what no list may hold (RFC 5782 section 5): it is left out"
        answers = [answer for entry in lists for answer in await self._ask(entry, must=True)]
        if any(map(is_error, answers)):
            return f"refuses to answer this server's questions ({answers[0]})"
        return "" if answers else "does not hold its test entry: is the zone right?"

    async def _ask(self, entry: List, *, must: bool) -> tuple[str, ...]:
        point = _POINTS[entry.kind][0 if must else 1]
        return await self._dns.records(f"{point}.{entry.zone.name}", "A")
