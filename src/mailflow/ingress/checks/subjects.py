"""What is asked of DNS lists: the names that stand for an address or a domain. Pure; RFC 5782 §2.1, §2.4 and §3.

Not asked for: addresses that only mean something at home (private, loopback, link-local, …), and address literals
and single words where a domain is wanted (lists of domains answer addresses with error codes). Nor is what cannot be a
host name: name servers answer it with errors, and a client could make a list look broken with it.
"""

from __future__ import annotations

import ipaddress
import re

_NAME = re.compile(r"(?:[a-z0-9_-]|[^\x00-\x7f])+(?:\.(?:[a-z0-9_-]|[^\x00-\x7f])+)+")
"""Letters, digits, hyphens, underscores; beyond ASCII the name service's own rules decide (RFC 5891)."""


def plain_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as it counts: without zone, IPv4 in IPv6 as IPv4; None for what is none."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def of_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """The part of the name in front of the zone: octets or nibbles, the last one first."""
    parts = address.exploded.split(".") if address.version == 4 else list(address.exploded.replace(":", ""))
    return ".".join(reversed(parts))


def of_client(address: str) -> str:
    """The same for a client; "" when lists can know nothing about it."""
    parsed = plain_address(address)
    return of_address(parsed) if parsed is not None and _is_public(parsed) else ""


def of_domain(domain: str) -> str:
    """The part of the name in front of the zone for a list of domains; "" for what is no complete domain."""
    name = domain.rstrip(".").lower()
    return name if _NAME.fullmatch(name) and plain_address(name) is None else ""


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    # not is_global: it is False for the documentation networks, which tests and examples live in
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or any(address in network for network in _PRIVATE if network.version == address.version)
    )


_PRIVATE = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
]
"""RFC 1918, RFC 6598, RFC 4193."""
