"""PROXY headers, whole, byte by byte and with something behind them; and what is none."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.net.proxy import V1_BYTES, V2_BYTES, ProxyError, ProxyHeader, crc32c, parse_proxy

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(command: int, family: int, block: bytes, version: int = 2) -> bytes:
    return SIGNATURE + bytes([version << 4 | command, family]) + len(block).to_bytes(2, "big") + block


def inet(source: str, port: int, tlvs: bytes = b"") -> bytes:
    address = ipaddress.ip_address(source).packed
    block = address + bytes(len(address)) + port.to_bytes(2, "big") + b"\x00\x19" + tlvs
    return v2(1, 0x11 if len(address) == 4 else 0x21, block)


def with_checksum(source: str, port: int) -> bytes:
    header = inet(source, port, b"\x03\x00\x04\x00\x00\x00\x00" + b"\x04\x00\x02ab")
    at = header.rindex(b"\x03\x00\x04") + 3
    return header[:at] + crc32c(header).to_bytes(4, "big") + header[at + 4 :]


GOOD = {
    b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 25\r\n": ("192.0.2.1", 40000, False),
    b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n": ("2001:db8::1", 1, False),
    b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 25\r\n": ("192.0.2.1", 1, False),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": ("255.255.255.255", 65535, False),
    b"PROXY UNKNOWN\r\n": ("", 0, True),
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n": ("", 0, True),
    inet("192.0.2.1", 40000): ("192.0.2.1", 40000, False),
    inet("2001:db8::1", 40000): ("2001:db8::1", 40000, False),
    inet("::ffff:192.0.2.7", 9): ("192.0.2.7", 9, False),
    inet("192.0.2.1", 40000, b"\x04\x00\x03abc"): ("192.0.2.1", 40000, False),
    with_checksum("192.0.2.1", 40000): ("192.0.2.1", 40000, False),
    v2(0, 0, b""): ("", 0, True),
    v2(0, 0x11, b"what a balancer likes"): ("", 0, True),
    v2(1, 0, b""): ("", 0, True),
    v2(1, 0x31, bytes(216)): ("", 0, False),
}

BAD = [
    b"EHLO client.test\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 40000\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 25\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 70000\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 040 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 +40 25\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 1 25\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.1 1 25\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 25\r\n",
    b"PROXY TCP4 192.0.2.01 198.51.100.1 1 25\r\n",
    b"PROXY  TCP4 192.0.2.1 198.51.100.1 1 25\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.1 1 25\r\n",
    b"PROXY UNKNOWN" + b" x" * 60 + b"\r\n",
    b"PROXY " + b"x" * V1_BYTES,
    b"\x16\x03\x01\x02\x00\x01",
    SIGNATURE + b"\x11\x11\x00\x00",
    SIGNATURE + b"\x22\x11\x00\x00",
    v2(1, 0x11, bytes(11)),
    v2(1, 0x21, bytes(35)),
    v2(1, 0x31, bytes(215)),
    SIGNATURE + b"\x21\x11\xff\xff",
    inet("192.0.2.1", 1, b"\x04\x00\x04abc"),
    inet("192.0.2.1", 1, b"\x04\x00"),
    inet("192.0.2.1", 1, b"\x03\x00\x04abcd"),
    inet("192.0.2.1", 1, b"\x03\x00\x00"),
]


@pytest.mark.parametrize("header", GOOD)
@pytest.mark.parametrize("behind", [b"", b"EHLO client.test\r\n", SIGNATURE])
def test_a_header_is_read_to_its_last_byte(header: bytes, behind: bytes) -> None:
    assert parse_proxy(header + behind) == ProxyHeader(len(header), *GOOD[header])


@pytest.mark.parametrize("header", GOOD)
def test_half_a_header_is_waited_for(header: bytes) -> None:
    assert [parse_proxy(header[:end]) for end in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyError):
        parse_proxy(data)


def test_the_checksum_is_the_castagnoli_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@given(
    st.binary(max_size=64) | st.binary(max_size=64).map(lambda b: SIGNATURE + b) | st.binary().map(b"PROXY ".__add__)
)
def test_any_bytes_end_within_the_bound(data: bytes) -> None:
    """More input never helps beyond the longest header: it has been read, or refused."""
    try:
        header = parse_proxy(data + bytes(V2_BYTES))
    except ProxyError:
        return
    assert header is not None
    assert header.size <= V2_BYTES
