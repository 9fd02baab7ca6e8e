"""Locks against guessing: who has failed often is not listened to for a while, each time for longer. Pure: `now` is given.

Counted are failures by client network (an IPv4 address, an IPv6 /64: an attacker has all of one), and by login, where the
failures may come from millions of addresses. A login's lock does not bind a network that has shown this login's password
before, so that a stranger's guesses do not lock the owner out. A failure is forgotten after `Limits.memory`.

Memory is bounded: beyond `Limits.entries` of each kind what was touched least recently goes.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mailflow.setting import Network

IPV6_PREFIX = 64
MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """The figures, in seconds and counts."""

    failures: int = 5
    """A client's failures that cost nothing yet."""
    login_failures: int = 20
    """The same for a login, from anywhere."""
    first: float = 30.0
    """The first lock; each further failure doubles it."""
    longest: float = 3600.0
    memory: float = 86400.0
    entries: int = 100_000
    exempt: Sequence[Network] = ()
    """Clients that are never locked and count for no login."""


class _Failures(NamedTuple):
    """What is known of a client or login that has failed."""

    times: int
    last: float
    """When it failed last."""
    login: str
    """The login of all these failures; "" when there were several."""


class Lockouts:
    """Who has failed, how often, and until when it is locked."""

    __slots__ = ("_clients", "_known", "_limits", "_logins")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._clients: OrderedDict[str, _Failures] = OrderedDict()
        self._logins: OrderedDict[str, _Failures] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Network and login, where the password was right."""

    def __repr__(self) -> str:
        return f"<Lockouts clients={len(self._clients)} logins={len(self._logins)}>"

    def client_lock(self, client: str, now: float) -> float:
        """Seconds until this client is listened to again; 0 when it is not locked.

        Clients of a UNIX socket ("") are all one, a webmail perhaps, and never locked.
        """
        limits = self._limits
        return self._left(self._clients.get(network_of(client)), limits.failures, now) if client else 0.0

    def login_lock(self, client: str, login: str, now: float) -> float:
        """Seconds until this client may try this login again; 0 when it may."""
        login = login.lower()
        left = self._left(self._logins.get(login), self._limits.login_failures, now)
        return 0.0 if left and (self._is_exempt(client) or (network_of(client), login) in self._known) else left

    def failed(self, client: str, login: str, now: float) -> None:
        """A password was wrong. `login` is "" when it did not come so far."""
        if self._is_exempt(client):
            return
        network, login = network_of(client), login.lower()
        self._count(self._clients, network, login, now)
        if login and (network, login) not in self._known:
            self._count(self._logins, login, login, now)

    def passed(self, client: str, login: str) -> None:
        """A password was right: the client's failures with this login are forgotten, the login's count for others only.

        Failures with other logins stay: who has one password could else guess at all others.
        """
        network, login = network_of(client), login.lower()
        failed = self._clients.get(network)
        if failed is not None and failed.login == login:
            del self._clients[network]
        self._known[network, login] = None
        self._known.move_to_end((network, login))
        if len(self._known) > self._limits.entries:
            self._known.popitem(last=False)

    def _count(self, table: OrderedDict[str, _Failures], key: str, login: str, now: float) -> None:
        old = table.get(key)
        if old is None or now - old.last >= self._limits.memory:
            table[key] = _Failures(1, now, login)
        else:
            table[key] = _Failures(old.times + 1, now, login if login == old.login else "")
        table.move_to_end(key)
        if len(table) > self._limits.entries:
            table.popitem(last=False)

    def _left(self, entry: _Failures | None, free: int, now: float) -> float:
        limits = self._limits
        if entry is None or entry.times < free or now - entry.last >= limits.memory:
            return 0.0
        doublings = min(entry.times - free, MOST_DOUBLINGS)
        return max(0.0, entry.last + min(limits.longest, limits.first * 2.0**doublings) - now)

    def _is_exempt(self, client: str) -> bool:
        if not self._limits.exempt:
            return False
        try:
            address = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._limits.exempt)


def network_of(client: str) -> str:
    """What a client is counted as: its IPv4 address or its IPv6 /64. What is no address counts as itself."""
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
