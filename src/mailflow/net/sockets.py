"""Addresses as text, and TCP connections to them.

Callers give addresses, never names: names are `dns.py`'s duty. OS errors are mapped here to
`ConnectError`, whose `kind` is one of our own words; the exception's text never travels further.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from mailflow.errors import MailflowError

P = TypeVar("P", bound=asyncio.BaseProtocol)


class ConnectKind(Enum):
    """Why there is no connection."""

    REFUSED = "connection refused"
    UNREACHABLE = "host or network unreachable"
    TIMEOUT = "connection timed out"


class ConnectError(MailflowError):
    """A TCP connection could not be made."""

    def __init__(self, kind: ConnectKind) -> None:
        self.kind = kind
        super().__init__(kind.value)


def is_address(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address (no brackets, no port)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_ipv6(address: str) -> bool:
    """Whether an address (not a name) is IPv6."""
    return ":" in address


def is_local(address: str) -> bool:
    """Whether the address belongs to this machine: the kernel lets only such ones be bound."""
    family = socket.AF_INET6 if is_ipv6(address) else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


async def connect(factory: Callable[[], P], address: str, port: int, seconds: float) -> P:
    """A TCP connection to a numeric address, with a protocol made by `factory`.

    Waits at most `seconds`; raises `ConnectError`.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            _, protocol = await loop.create_connection(factory, address, port)
    except TimeoutError:
        raise ConnectError(ConnectKind.TIMEOUT) from None
    except OSError as error:
        raise ConnectError(_kind(error)) from None
    return protocol


def _kind(error: OSError) -> ConnectKind:
    if error.errno == errno.ECONNREFUSED:
        return ConnectKind.REFUSED
    return ConnectKind.TIMEOUT if error.errno == errno.ETIMEDOUT else ConnectKind.UNREACHABLE
