"""The switchboard: where does an address go?

Callers: ingress asks `Resolver.resolve` at RCPT TO, the flow for mail that enters by other ways, and
`mailflow resolve` prints its answer. The answer is a `Route` (transport, next hop, recipient, and why) or a
`Refusal` with the reply that the client hears. The order is fixed and the first match decides:

1. `[[route]]` entries, in the order of the configuration,
2. `[local]` domains: a known user's mailbox, or "no such user",
3. `[relay]` host, for all that is not ours,
4. the domain itself, by MX look-up at delivery time.

Everything here is synchronous and pure: no DNS, no files. One resolver serves ingress and routing alike, so that
both always agree on what is local. What it does not do: decide who may send where (`ingress/policy/`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mailflow.envelope import AddressKind, Route
from mailflow.route_settings import LocalSettings, RelaySettings, RouteSettings

CACHED_DOMAINS = 10_000
"""Domains whose answer is remembered; beyond it the memory starts afresh."""

_new = tuple.__new__  # makes a named tuple without its constructor, which takes twice as long


@dataclass(frozen=True, slots=True)
class Refusal:
    """An address that no mail is accepted for."""

    code: int
    status: str
    text: str
    why: str


def _no_origin(_key: str) -> str:
    return ""


class Resolver:
    """Answers where addresses go, for one configuration."""

    def __init__(
        self,
        local: LocalSettings,
        relay: RelaySettings,
        routes: Sequence[RouteSettings] = (),
        *,
        hostname: str,
        origin: Callable[[str], str] = _no_origin,
    ) -> None:
        """`origin` tells the place of a configuration key ("route[0].match" -> "mailflow.toml:14") for `Route.why`."""
        self._domains = frozenset(d.lower() for d in local.domains)
        self._ours = self._domains | {d.lower() for d in relay.domains}
        self._users = {u.lower(): u for u in local.users}
        self._postmaster = local.postmaster or next(iter(local.users), "")
        self._relay_host = str(relay.host) if relay.host else ""
        self._routes = [(r, f"route {i + 1} ({r.match})", f"route[{i}].match") for i, r in enumerate(routes)]
        self._addresses = any("@" in r.match for r in routes)
        self._origin = origin
        self._by_domain: dict[str, tuple[RouteSettings | None, str]] = {}
        self.origin_domain = local.domains[0].lower() if local.domains else hostname
        """The domain that completes an address without one."""

    def is_ours(self, address: str) -> bool:
        """Whether mail to this address is everybody's to send, be there such a user or not: it is local, or to be relayed."""
        route = self.resolve(address)
        return self._domain(address) in self._ours or (isinstance(route, Route) and route.kind != "remote")

    def resolve(self, address: str) -> Route | Refusal:
        """Where mail to `address` goes. An address without domain belongs to the first local domain."""
        local_part, at, domain = address.rpartition("@")
        if not at:
            local_part, domain = address, self.origin_domain
            address = f"{local_part}@{domain}"
        domain = domain.lower()
        known = None if self._addresses else self._by_domain.get(domain)
        route, why = known or self._match(address, domain)
        if route is not None:
            return self._routed(route, address, local_part, domain, why)
        if domain in self._domains:
            return self._mailbox(local_part, address, why)
        kind: AddressKind = "relay" if domain in self._ours else "remote"
        return _new(Route, ("smtp", self._relay_host or domain, address, why, kind))

    def _domain(self, address: str) -> str:
        return address.rpartition("@")[2].lower() if "@" in address else self.origin_domain

    def _match(self, address: str, domain: str) -> tuple[RouteSettings | None, str]:
        """The route that applies and the words for why; None where no route does."""
        if self._addresses:
            lowered = address.lower()
            for route, name, key in self._routes:
                if route.match == lowered or ("@" not in route.match and _covers(route.match, domain)):
                    return route, self._why(name, key)
        known = self._by_domain.get(domain)
        if known is None:
            if len(self._by_domain) >= CACHED_DOMAINS:
                self._by_domain.clear()
            known = self._by_domain[domain] = self._match_domain(domain)
        return known

    def _match_domain(self, domain: str) -> tuple[RouteSettings | None, str]:
        for route, name, key in self._routes:
            if _covers(route.match, domain):
                return route, self._why(name, key)
        if domain in self._domains:
            return None, self._why("local.domains", "local.domains")
        if self._relay_host:
            return None, self._why("relay.host", "relay.host")
        return None, "MX look-up of the domain"

    def _why(self, name: str, key: str) -> str:
        place = self._origin(key)
        return f"{name}, {place}" if place else name

    def _routed(self, route: RouteSettings, address: str, local_part: str, domain: str, why: str) -> Route | Refusal:
        if route.transport == "error":
            return Refusal(550, "5.1.2", route.next_hop or "Recipient address rejected", why)
        if route.transport == "local":
            return self._mailbox(local_part, address, why)
        kind: AddressKind = "relay" if domain in self._ours else "remote"
        return Route(route.transport, route.next_hop or domain, address, why, kind)

    def _mailbox(self, local_part: str, address: str, why: str) -> Route | Refusal:
        lowered = local_part.strip('"').lower()
        user = self._users.get(lowered)
        if user is None and lowered == "postmaster" and self._postmaster:
            user = self._postmaster
        if user is None:
            return Refusal(550, "5.1.1", "No such user", f"{why}; not in local.users")
        return Route("local", user, address, why, "local")


def _covers(pattern: str, domain: str) -> bool:
    """Whether a route's domain pattern applies: "*", the domain itself, or ".parent" for all its subdomains."""
    return pattern in ("*", domain) or (pattern[0] == "." and domain.endswith(pattern))
