"""Name service for mail: mail hosts of a domain, addresses of a host. The only importer of aiodns.

Callers await `mail_hosts` and `addresses`; answers come from a bounded cache while their TTL lasts, and look-ups for the
same name at the same time are one. Failures are the three that mail distinguishes: `NoSuchDomain` (permanent),
`NullMx` (permanent, on purpose), `DnsTemporary` (ask again later).

Invariants: names are asked as they are, never with a search domain behind them; a look-up that one caller gives up
goes on for the others; `close` leaves no task and no thread's callback behind. Not done here: choosing
among hosts, MX policy, /etc/hosts (but "localhost" is always this machine, RFC 6761 §6.3).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import aiodns
import idna
import pycares

from mailflow.errors import MailflowError
from mailflow.net.cache import TtlCache
from mailflow.net.settings import DnsSettings
from mailflow.net.sockets import is_address, is_ipv6

MAX_LOOKUPS = 200
"""Questions to name servers at one time, where not told otherwise; more of them wait."""
MIN_TTL = 1.0
"""Seconds; also a TTL of 0 serves the deliveries that start together."""
_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")


class DnsError(MailflowError):
    """A name could not be looked up."""


class NoSuchDomain(DnsError):
    """The name does not exist, or has neither mail hosts nor addresses: permanent (RFC 5321 §5.1)."""


class NullMx(DnsError):
    """The domain says that it takes no mail (RFC 7505)."""


class DnsTemporary(DnsError):
    """No name server gave a usable answer in time."""


@dataclass(frozen=True, slots=True)
class MailHost:
    """One host that takes mail for a domain; the lowest preference comes first."""

    name: str
    preference: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question brought: the records, and how long they hold, in seconds."""

    records: tuple[Any, ...]
    ttl: float


class Resolver:
    """Looks names up for one server process. Used from one event loop, within which it is made."""

    def __init__(
        self, settings: DnsSettings, *, now: Callable[[], float] = time.monotonic, lookups: int = MAX_LOOKUPS
    ) -> None:
        """`lookups`: questions to name servers at one time; more of them wait."""
        self._settings = settings
        self._cache: TtlCache[tuple[str, str], Answer | DnsError] = TtlCache(settings.cache_size, now)
        self._running: dict[tuple[str, str], asyncio.Task[Answer]] = {}
        self._slots = asyncio.Semaphore(lookups)
        self._aiodns: aiodns.DNSResolver | None = None
        self._closed = False
        self.questions = 0
        """Questions put to the name service so far, for metrics. c-ares keeps answers too, no longer than their TTL."""

    def __repr__(self) -> str:
        return f"<Resolver cached={len(self._cache)} running={len(self._running)}>"

    async def mail_hosts(self, domain: str) -> list[MailHost]:
        """The hosts that take mail for a domain, by preference (RFC 5321 §5.1).

        Without MX records it is the domain itself, with preference 0; whether that has addresses `addresses` tells.
        Raises `NoSuchDomain`, `NullMx`, `DnsTemporary`.
        """
        name = to_ascii(domain)
        answer = await self._ask(name, "MX")
        if not answer.records:
            return [MailHost(name, 0)]
        hosts = [MailHost(host, preference) for preference, host in sorted(answer.records) if host]
        if not hosts:
            raise NullMx(domain)
        return hosts

    async def addresses(self, host: str) -> list[str]:
        """The addresses of a host, IPv6 first; an address is its own answer. Raises `NoSuchDomain`, `DnsTemporary`."""
        if is_address(host):
            return [host]
        name = to_ascii(host)
        if name == "localhost" or name.endswith(".localhost"):
            return ["::1", "127.0.0.1"]
        results = await asyncio.gather(self._ask(name, "AAAA"), self._ask(name, "A"), return_exceptions=True)
        found = [address for result in results if isinstance(result, Answer) for address in result.records]
        if found:
            return sorted(found, key=lambda address: not is_ipv6(address))
        errors = [result for result in results if isinstance(result, BaseException)]
        # one family that does not answer leaves open whether there is an address
        for error in sorted(errors, key=lambda error: isinstance(error, NoSuchDomain)):
            raise error
        raise NoSuchDomain(host)

    async def records(self, name: str, kind: Literal["A", "TXT"]) -> tuple[str, ...]:
        """The records of one kind as they are, for lists in the DNS: none when the name does not exist or has no such one.

        TXT records are decoded as UTF-8, what is not that replaced. Raises `DnsTemporary`.
        """
        try:
            return (await self._ask(to_ascii(name), kind)).records
        except NoSuchDomain:
            return ()

    def known(self, name: str, kind: Literal["A", "TXT"]) -> tuple[str, ...] | None:
        """The same at once, for a name in the form of `to_ascii`: None when it has to be asked for."""
        found = self._cache.get((name, kind))
        if isinstance(found, Answer):
            return found.records
        return () if isinstance(found, NoSuchDomain) else None

    async def pointers(self, address: str) -> list[str]:
        """The names that the PTR records of an IP address give, none of them verified, each a possible host name.

        Raises `NoSuchDomain`, `DnsTemporary`, and ValueError when it is no address.
        """
        answer = await self._ask(ipaddress.ip_address(address.partition("%")[0]).reverse_pointer, "PTR")
        return [name for name in answer.records if is_host_name(name)]

    async def close(self) -> None:
        """Ends all look-ups; those who wait for one get `DnsTemporary`."""
        self._closed = True
        if self._aiodns is not None:
            await self._aiodns.close()
        while self._running:
            await asyncio.wait(self._running.values())

    async def _ask(self, name: str, kind: str) -> Answer:
        key = (name, kind)
        known = self._cache.get(key)
        if known is None:
            if self._closed:
                raise DnsTemporary(name)
            task = self._running.get(key)
            if task is None:
                task = self._running[key] = asyncio.get_running_loop().create_task(self._look_up(name, kind))
                task.add_done_callback(lambda done: self._finished(key, done))
            # shielded: who gives up must not take the answer from the others
            return await asyncio.shield(task)
        if isinstance(known, DnsError):
            raise type(known)(name)
        return known

    def _finished(self, key: tuple[str, str], task: asyncio.Task[Answer]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # retrieved here, as those who waited for it may all have given up

    async def _look_up(self, name: str, kind: str) -> Answer:
        """Asks the name servers and remembers what they said; a temporary failure is not remembered."""
        settings = self._settings
        try:
            async with self._slots:
                result = await self._query(name, kind)
        except aiodns.error.DNSError as error:
            code = error.args[0]
            if code == aiodns.error.ARES_ENODATA:
                empty = Answer((), settings.negative_ttl)
                self._cache.put((name, kind), empty, empty.ttl)
                return empty
            if code not in (aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_EBADNAME):
                raise DnsTemporary(name) from None
            missing = NoSuchDomain(name)
            self._cache.put((name, kind), missing, settings.negative_ttl)
            raise missing from None
        answer = _read(result, kind, settings)
        self._cache.put((name, kind), answer, answer.ttl)
        return answer

    def _query(self, name: str, kind: str) -> Awaitable[pycares.DNSResult]:
        if self._closed:
            raise DnsTemporary(name)
        if self._aiodns is None:
            settings = self._settings
            servers = [_server(endpoint.host, endpoint.port) for endpoint in settings.nameservers]
            self._aiodns = aiodns.DNSResolver(
                servers or None,
                loop=asyncio.get_running_loop(),
                timeout=settings.timeout,
                tries=settings.tries,
                flags=pycares.ARES_FLAG_NOSEARCH,
            )
        self.questions += 1
        return self._aiodns.query_dns(name, kind)


def to_ascii(name: str) -> str:
    """A domain name as the DNS knows it: lower case, no dot at the end, U-labels as A-labels (RFC 5891).

    Raises `NoSuchDomain` for what cannot be a name.
    """
    name = name.rstrip(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise NoSuchDomain(name) from None
    if not 0 < len(name) <= 253 or not all(0 < len(label) <= 63 for label in name.split(".")) or not name.isprintable():
        raise NoSuchDomain(name)
    return name


def is_host_name(name: str) -> bool:
    """Whether a name is one that a host may have: letters, digits, hyphens and underscores, no address."""
    return len(name) <= 253 and _HOST_NAME.fullmatch(name) is not None and not is_address(name)


def _server(host: str, port: int) -> str:
    """As c-ares wants it: IPv6 in brackets where a port follows."""
    if not port:
        return host
    return f"[{host}]:{port}" if is_ipv6(host) else f"{host}:{port}"


_TYPES = {
    "MX": pycares.QUERY_TYPE_MX,
    "A": pycares.QUERY_TYPE_A,
    "AAAA": pycares.QUERY_TYPE_AAAA,
    "TXT": pycares.QUERY_TYPE_TXT,
    "PTR": pycares.QUERY_TYPE_PTR,
}


def _read(result: pycares.DNSResult, kind: str, settings: DnsSettings) -> Answer:
    """The records of the asked type; the chain of CNAMEs before them counts for the TTL."""
    data: list[Any] = [record.data for record in result.answer if record.type == _TYPES[kind]]
    records: tuple[Any, ...]
    if kind == "MX":
        records = tuple((record.priority, record.exchange.rstrip(".").lower()) for record in data)
    elif kind == "TXT":
        records = tuple(record.data.decode("utf-8", "replace") for record in data)
    elif kind == "PTR":
        records = tuple(record.dname.rstrip(".").lower() for record in data)
    else:
        records = tuple(record.addr for record in data)
    if not records:
        return Answer((), settings.negative_ttl)
    ttl = min(record.ttl for record in result.answer)
    return Answer(records, min(max(float(ttl), MIN_TTL), settings.max_ttl))
