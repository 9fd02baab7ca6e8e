"""The names of clients: PTR record, and an address record of that name that leads back (wish 27, RFC 8499 "FCrDNS").

A session begins a look-up when its client connects and waits for it only where something needs the name: a rule, and
DATA, whose Received: header says it. All sessions of one address share one look-up, and its outcome is
remembered, be it a name or none. So a client whose name servers never answer delays itself, by `wait` seconds at most,
and nobody else: look-ups run beside each other, up to `LOOKUPS` of them; a client beyond that has no name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from mailflow.net.cache import TtlCache
from mailflow.net.dns import DnsError, DnsTemporary
from mailflow.tables.kinds import address_of

LOOKUPS = 4000
"""Look-ups of client names under way at one time."""
CACHED_NAMES = 20_000
"""Clients whose name is remembered."""
NAMES = 5
"""PTR records of one address that are verified; the first that leads back counts."""
KNOWN_SECONDS = 600.0
"""How long a name is remembered."""
UNKNOWN_SECONDS = 60.0
"""How long it is remembered that there is none, or that nobody answered."""

Whose = Literal["strangers", "all", "none"]


@dataclass(frozen=True, slots=True)
class ClientName:
    """What the name service says about an address."""

    name: str = ""
    """The verified name; "" when there is none."""
    reverse: str = ""
    """Without a verified one: the name that the PTR record gives."""


class Names(Protocol):
    """The name service (`net.dns.Resolver`)."""

    async def pointers(self, address: str) -> list[str]: ...
    async def addresses(self, host: str) -> list[str]: ...


class ClientNames:
    """Finds the names of clients. Used from one event loop."""

    def __init__(
        self,
        dns: Names,
        whose: Whose,
        wait: float,
        *,
        now: Callable[[], float] = time.monotonic,
        lookups: int = LOOKUPS,
    ) -> None:
        """`whose` names are looked up at once, when a client connects; `wait`: seconds that a session waits for one."""
        self._dns = dns
        self._whose = whose
        self._wait = wait
        self._lookups = lookups
        self._known: TtlCache[str, ClientName] = TtlCache(CACHED_NAMES, now)
        self._running: dict[str, asyncio.Task[ClientName]] = {}

    def __repr__(self) -> str:
        return f"<ClientNames known={len(self._known)} running={len(self._running)}>"

    def wants(self, address: str, *, trusted: bool) -> bool:
        """Whether the name of a client that has just connected is to be looked up at once."""
        if self._whose == "none" or (trusted and self._whose == "strangers"):
            return False
        return not address.startswith("127.") and address not in ("", "::1")

    def look(self, address: str) -> ClientName | asyncio.Future[ClientName]:
        """The client's name, or the look-up that will tell it. Does not raise; nor does the look-up."""
        known = self._known.get(address)
        if known is not None:
            return known
        running = self._running.get(address)
        if running is not None:
            return running
        if len(self._running) >= self._lookups or address_of(address) is None:
            return ClientName()
        task = self._running[address] = asyncio.get_running_loop().create_task(self._find(address))
        task.add_done_callback(lambda _: self._running.pop(address, None))
        return task

    async def wait(self, address: str, naming: asyncio.Future[ClientName]) -> bool:
        """Waits for a look-up, but not longer than a session may. False: the client has no name, until the look-up ends."""
        _, late = await asyncio.wait({naming}, timeout=self._wait)
        if late:
            self._known.put(address, ClientName(), UNKNOWN_SECONDS)
        return not late

    async def close(self) -> None:
        """Ends all look-ups."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _find(self, address: str) -> ClientName:
        found = ClientName()
        try:
            for name in (await self._dns.pointers(address))[:NAMES]:
                if not found.reverse:
                    found = ClientName(reverse=name)
                if await self._leads_back(name, address):
                    found = ClientName(name)
                    break
        except DnsError:
            pass
        self._known.put(address, found, KNOWN_SECONDS if found.name else UNKNOWN_SECONDS)
        return found

    async def _leads_back(self, name: str, address: str) -> bool:
        wanted = address_of(address)
        try:
            return any(address_of(each) == wanted for each in await self._dns.addresses(name))
        except DnsTemporary:
            raise
        except DnsError:
            return False
