"""Keys of clients and networks, beside the standard library's arithmetic."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.abuse.networks import Keys, NetworkList, number
from mailflow.setting import parse_network

KEYS = Keys(24, 56)


@given(st.ip_addresses(), st.ip_addresses())
def test_keys_are_equal_where_the_networks_are(one: ipaddress.IPv4Address, two: ipaddress.IPv4Address) -> None:
    def network(address: ipaddress.IPv4Address, ipv6_prefix: int, ipv4_prefix: int) -> object:
        address = getattr(address, "ipv4_mapped", None) or address
        return ipaddress.ip_network((address, ipv4_prefix if address.version == 4 else ipv6_prefix), strict=False)

    assert (KEYS.network(str(one)) == KEYS.network(str(two))) == (network(one, 56, 24) == network(two, 56, 24))
    assert (KEYS.client(str(one)) == KEYS.client(str(two))) == (network(one, 64, 32) == network(two, 64, 32))


@pytest.mark.parametrize(
    ("one", "two", "client", "network"),
    [
        ("192.0.2.1", "192.0.2.1", True, True),
        ("192.0.2.1", "::ffff:192.0.2.1", True, True),
        ("192.0.2.1", "192.0.2.200", False, True),
        ("192.0.2.1", "192.0.3.1", False, False),
        ("2001:db8::1", "2001:db8::ffff:1", True, True),
        ("2001:db8::1", "2001:db8:0:1::1", False, True),
        ("2001:db8::1", "2001:db8:0:100::1", False, False),
        ("fe80::1%eth0", "fe80::1%eth1", True, True),
        ("0.0.0.0", "::", False, False),
    ],
)
def test_keys(one: str, two: str, client: bool, network: bool) -> None:
    assert (KEYS.client(one) == KEYS.client(two)) is client
    assert (KEYS.network(one) == KEYS.network(two)) is network


@pytest.mark.parametrize("text", ["", "unix", "mail.example", "1.2.3.4.5", "::g", "a\0b", "ü"])
def test_what_is_no_address_has_no_key(text: str) -> None:
    assert number(text) is None
    assert KEYS.client(text) is KEYS.network(text) is None
    assert text not in NetworkList([parse_network("0.0.0.0/0"), parse_network("::/0")])


@given(st.ip_addresses())
def test_a_list_of_networks_finds_what_the_standard_library_finds(address: ipaddress.IPv4Address) -> None:
    networks = [parse_network(text) for text in ("10.0.0.0/8", "128.0.0.0/1", "2001:db8::/32", "8000::/1", "::1")]
    plain = getattr(address, "ipv4_mapped", None) or address
    assert (str(address) in NetworkList(networks)) is any(plain in network for network in networks)


def test_every_address_is_in_all_of_them() -> None:
    every = NetworkList([parse_network("0.0.0.0/0")])
    assert "192.0.2.1" in every
    assert "::ffff:192.0.2.1" in every
    assert "2001:db8::1" not in every
    assert "2001:db8::1" in NetworkList([parse_network("::/0")])
    assert "192.0.2.1" not in NetworkList([])
