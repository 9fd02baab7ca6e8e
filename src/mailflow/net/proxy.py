"""The PROXY protocol, versions 1 and 2: what a balancer says about the client before the client speaks.

Pure: `parse_proxy` takes all bytes of a connection so far and returns a `ProxyHeader`, None when more have to come, or
raises `ProxyError`. Source: haproxy's doc/proxy-protocol.txt (2020/03/05), sections 2.1 and 2.2.

Who may speak it is not decided here: the listener reads a header from its trusted balancers and from nobody else.
TLVs are not looked at, but for the checksum (PP2_TYPE_CRC32C), which must be right where it is given.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from mailflow.errors import MailflowError

V1_BYTES = 107
"""Longest header of version 1, CR LF counted (section 2.1)."""
V2_BYTES = 2048
"""Longest header of version 2, addresses and TLVs counted: 16 bytes, 216 of addresses, and room for a few TLVs."""

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEAD = 16
_LOCAL, _PROXY = 0, 1
_INET, _INET6, _UNIX = 1, 2, 3
_ADDRESS_BYTES = {_INET: 12, _INET6: 36, _UNIX: 216}
_CRC32C = 0x03
_V1 = re.compile(rb"PROXY (?:UNKNOWN(?: [ -~]*)?|(TCP[46]) (\S+) (\S+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4}))\r\n")


class ProxyError(MailflowError):
    """What came is no PROXY header, or a damaged one."""


class ProxyHeader(NamedTuple):
    """What the header says."""

    size: int
    """Bytes it took; what follows is the client's."""
    address: str = ""
    """The client's IP address; "" when the header names none (LOCAL, UNKNOWN, a UNIX socket)."""
    port: int = 0
    local: bool = False
    """The balancer speaks for itself, as with a health check: the connection's own addresses count."""


def parse_proxy(data: bytes, limit: int = V2_BYTES) -> ProxyHeader | None:
    """Reads the header at the beginning of `data`; None when more bytes are needed.

    `limit`: bytes that a version 2 header may have. Raises `ProxyError` as soon as it can no longer be one.
    """
    head = data[: len(_SIGNATURE)]
    if head == _SIGNATURE:
        return _parse_v2(data, limit)
    if _SIGNATURE.startswith(head) or b"PROXY ".startswith(head[:6]) or head[:6] == b"PROXY ":
        return None if _SIGNATURE.startswith(head) else _parse_v1(data)
    raise ProxyError("no PROXY header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n", 0, V1_BYTES)
    if end < 0:
        if len(data) >= V1_BYTES:
            raise ProxyError("the PROXY line is too long")
        return None
    match = _V1.fullmatch(data[: end + 1])
    if not match:
        raise ProxyError("the PROXY line is malformed")
    family, source, target, port, target_port = match.groups()
    if family is None:
        return ProxyHeader(end + 1, local=True)  # "the receiver must ignore anything presented before the CRLF"
    version = 4 if family == b"TCP4" else 6
    _address(target.decode("latin-1"), version)
    if int(port) > 65535 or int(target_port) > 65535:
        raise ProxyError("the PROXY line has a port out of range")
    return ProxyHeader(end + 1, _address(source.decode("latin-1"), version), int(port))


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ProxyError("the PROXY header has a malformed address") from None
    if address.version != version or "%" in text:
        raise ProxyError("the PROXY header has an address of another family")
    return plain_address(address)


def plain_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As text; an IPv4 address that came mapped into IPv6 is what it is."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _parse_v2(data: bytes, limit: int) -> ProxyHeader | None:
    if len(data) < _V2_HEAD:
        return None
    version, command = data[12] >> 4, data[12] & 15
    family = data[13] >> 4
    size = _V2_HEAD + int.from_bytes(data[14:16], "big")
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise ProxyError("the PROXY header has an unknown version or command")
    if size > limit:
        raise ProxyError("the PROXY header is too long")
    addresses = _ADDRESS_BYTES.get(family, 0)
    if command == _PROXY and size < _V2_HEAD + addresses:
        raise ProxyError("the PROXY header is too short for its addresses")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxyHeader(size, local=True)  # "must accept this connection … and discard the protocol block"
    header = data[:size]
    _check(header, _V2_HEAD + addresses)
    if family == _INET:
        return ProxyHeader(size, str(ipaddress.IPv4Address(header[16:20])), int.from_bytes(header[24:26], "big"))
    if family == _INET6:
        address = plain_address(ipaddress.IPv6Address(header[16:32]))
        return ProxyHeader(size, address, int.from_bytes(header[48:50], "big"))
    return ProxyHeader(size, local=family != _UNIX)


def _check(header: bytes, start: int) -> None:
    """Reads the TLVs and compares the checksum, if there is one (section 2.2.3)."""
    while start < len(header):
        end = start + 3 + int.from_bytes(header[start + 1 : start + 3], "big")
        if start + 3 > len(header) or end > len(header):
            raise ProxyError("the PROXY header has a damaged TLV")
        if header[start] == _CRC32C:
            blank = header[: start + 3] + bytes(end - start - 3) + header[end:]
            if header[start + 3 : end] != crc32c(blank).to_bytes(4, "big"):
                raise ProxyError("the PROXY header's checksum is wrong")
        start = end


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The checksum of RFC 4960, appendix B (Castagnoli's polynomial, reflected)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF
