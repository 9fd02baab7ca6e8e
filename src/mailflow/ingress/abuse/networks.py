"""Clients and their networks as small keys, and lists of networks to look them up in. Pure: no name is ever resolved.

A key is an int: the address's first bits. IPv4 keys are positive and IPv6 keys negative, so the two never meet.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Network

from mailflow.setting import Network

IPV4_BITS = 32
IPV6_BITS = 128
IPV6_CLIENT_PREFIX = 64
"""One IPv6 client is a network of this length: its host chooses the rest of its address at will (RFC 4291 §2.5.1)."""
_MAPPED = 0xFFFF << IPV4_BITS
"""The first 96 bits of an IPv4-mapped address, "::ffff:192.0.2.1" (RFC 4291 §2.5.5.2)."""


def number(address: str) -> int | None:
    """An IP address as a number, negative (-1 - n) for IPv6; None for what is no IP address (a UNIX socket)."""
    try:
        if ":" not in address:
            return int.from_bytes(socket.inet_aton(address), "big") if address else None
        value = int.from_bytes(socket.inet_pton(socket.AF_INET6, address.partition("%")[0]), "big")
    except (OSError, ValueError):  # ValueError: a NUL, or text that is not ASCII
        return None
    return value ^ _MAPPED if value >> IPV4_BITS == _MAPPED >> IPV4_BITS else -1 - value


class Keys:
    """Makes the keys that clients and their networks are counted under."""

    __slots__ = ("_ipv4", "_ipv6")

    def __init__(self, ipv4_prefix: int, ipv6_prefix: int) -> None:
        """Prefix lengths of the networks, in bits."""
        self._ipv4 = IPV4_BITS - ipv4_prefix
        self._ipv6 = IPV6_BITS - ipv6_prefix

    def client(self, address: str) -> int | None:
        """The key of one client; None for what is no IP address."""
        value = number(address)
        return value if value is None or value >= 0 else value >> IPV6_BITS - IPV6_CLIENT_PREFIX

    def network(self, address: str) -> int | None:
        """The key of the client's network; None for what is no IP address."""
        value = number(address)
        return value if value is None else value >> (self._ipv4 if value >= 0 else self._ipv6)


class NetworkList:
    """Tells whether an address lies in one of some networks."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(self._bits(network) for network in networks)

    @staticmethod
    def _bits(network: Network) -> tuple[int, int]:
        value, free = int(network.network_address), network.max_prefixlen - network.prefixlen
        return free, (value if isinstance(network, IPv4Network) else -1 - value) >> free

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        value = number(address)
        if value is None:
            return False
        return any(value >> free == bits and (value >= 0) == (bits >= 0) for free, bits in self._networks)
