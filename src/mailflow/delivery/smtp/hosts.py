"""Which hosts take mail for a next hop, in which order they are tried (RFC 5321 §5.1).

`candidates` looks names up and gives at most `settings.addresses` addresses: mail hosts by preference, hosts of the same
preference in random order, each host's addresses with the preferred IP version first and then in turn, so that a
dead IPv6 network does not use up all tries. If we are among the mail hosts ourselves, only those better than us are
left; if there are none, the mail loops.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import groupby, zip_longest
from typing import NamedTuple

from mailflow.delivery.request import Fact, Stage, Trouble
from mailflow.delivery.settings import SmtpSettings
from mailflow.errors import MailflowError
from mailflow.net.dns import DnsTemporary, MailHost, NoSuchDomain, NullMx, Resolver
from mailflow.net.sockets import is_address, is_ipv6
from mailflow.setting import Endpoint

MAX_MAIL_HOSTS = 20
"""Mail hosts of a domain that are looked at; the largest known have some ten."""


class Host(NamedTuple):
    """One address of a mail host."""

    name: str
    address: str
    port: int

    @property
    def key(self) -> str:
        return f"{self.address}:{self.port}"


class NoHost(MailflowError):
    """There is nobody to connect to; `fact` says why."""

    def __init__(self, trouble: Trouble, detail: str = "") -> None:
        self.fact = Fact(Stage.RESOLVE, None, trouble, None, detail)
        super().__init__(trouble.value)


class HostFinder:
    """Finds the hosts of a next hop."""

    __slots__ = ("_hostname", "_is_own", "_resolver", "_rng", "_settings")

    def __init__(
        self,
        settings: SmtpSettings,
        resolver: Resolver,
        hostname: str,
        is_own: Callable[[str, int], bool],
        rng: random.Random,
    ) -> None:
        """`is_own` tells whether an address and port are our own listener's."""
        self._settings = settings
        self._resolver = resolver
        self._hostname = hostname.lower()
        self._is_own = is_own
        self._rng = rng

    async def candidates(self, next_hop: Endpoint) -> list[Host]:
        """The addresses to try, in order; at least one. Raises `NoHost`."""
        port = next_hop.port or self._settings.port
        try:
            if next_hop.literal or is_address(next_hop.host):
                mail_hosts = [MailHost(next_hop.host, 0)]
            else:
                mail_hosts = await self._resolver.mail_hosts(next_hop.host)
        except NullMx:
            raise NoHost(Trouble.NULL_MX) from None
        except NoSuchDomain:
            raise NoHost(Trouble.NO_HOST, next_hop.host) from None
        except DnsTemporary:
            raise NoHost(Trouble.DNS_FAILURE, next_hop.host) from None
        found, failed = await self._addresses(mail_hosts[:MAX_MAIL_HOSTS])
        found = self._better_than_us(found, port, literal=next_hop.literal)
        hosts = [
            Host(host.name, address, port)
            for host in self._ordered(list(found))
            for address in self._chosen(found[host])
        ]
        if not hosts:
            raise NoHost(Trouble.DNS_FAILURE if failed else Trouble.NO_HOST, next_hop.host)
        return hosts[: self._settings.addresses]

    async def _addresses(self, hosts: list[MailHost]) -> tuple[dict[MailHost, list[str]], bool]:
        """Each host's addresses, and whether some look-up failed for now."""
        if len(hosts) == 1 and is_address(hosts[0].name):  # no tasks where nothing is to be looked up
            return {hosts[0]: [hosts[0].name]}, False
        results = await asyncio.gather(*(self._resolver.addresses(host.name) for host in hosts), return_exceptions=True)
        found, failed = {}, False
        for host, result in zip(hosts, results, strict=True):
            if isinstance(result, DnsTemporary):
                failed = True
            elif isinstance(result, NoSuchDomain):
                continue  # a mail host without address is the domain's mistake; the others may do (RFC 5321 §5.1)
            elif isinstance(result, BaseException):
                raise result
            else:
                found[host] = result
        return found, failed

    def _better_than_us(
        self, found: dict[MailHost, list[str]], port: int, *, literal: bool
    ) -> dict[MailHost, list[str]]:
        """RFC 5321 §5.1: if the list names ourselves, all hosts of our preference and worse are not to be used."""
        ours = [
            host.preference
            for host, addresses in found.items()
            if (host.name == self._hostname and not literal) or any(self._is_own(a, port) for a in addresses)
        ]
        if not ours:
            return found
        better = {host: addresses for host, addresses in found.items() if host.preference < min(ours)}
        if not better:
            raise NoHost(Trouble.LOOP)
        return better

    def _ordered(self, hosts: list[MailHost]) -> list[MailHost]:
        result: list[MailHost] = []
        for _, group in groupby(sorted(hosts, key=lambda host: host.preference), key=lambda host: host.preference):
            equals = list(group)
            self._rng.shuffle(equals)
            result += equals
        return result

    def _chosen(self, addresses: list[str]) -> list[str]:
        """A host's addresses in the order of the setting, the IP versions in turn."""
        six = [address for address in addresses if is_ipv6(address)]
        four = [address for address in addresses if not is_ipv6(address)]
        match self._settings.ip:
            case "ipv6-only":
                return six
            case "ipv4-only":
                return four
            case "ipv6-first":
                pairs = zip_longest(six, four)
            case "ipv4-first":
                pairs = zip_longest(four, six)
        return [address for pair in pairs for address in pair if address]
