"""Which keys addresses, names and clients are looked up with, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.tables.keys import address_keys, client_keys, domain_keys, find, split_extension
from mailflow.tables.kinds import Cidr, Exact, Patterns

LABEL = st.text("abcxyz0189-", min_size=1, max_size=6)
DOMAIN = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
USER = st.text("abcDEF._", min_size=1, max_size=6)


@pytest.mark.wish(29)
def test_the_order_of_an_address_with_extension():
    assert address_keys("User+Ext@Mail.Example.org") == [
        "user+ext@mail.example.org",
        "user@mail.example.org",
        "mail.example.org",
        ".example.org",
        ".org",
        "+ext",
        "user+ext@",
        "user@",
    ]


def test_other_addresses():
    assert address_keys("") == ["<>"]
    assert address_keys("postmaster") == ["postmaster", "postmaster@"]
    assert address_keys("a+b@c.test", "") == ["a+b@c.test", "c.test", ".test", "a+b@"]
    assert address_keys("a-b@c.test", "-")[:2] == ["a-b@c.test", "a@c.test"]
    assert address_keys("+b@c.test") == ["+b@c.test", "c.test", ".test", "+b@"]
    assert address_keys('"a+b"@c.test') == ['"a+b"@c.test', "c.test", ".test", '"a+b"@']
    assert address_keys("u@[192.0.2.1]") == ["u@[192.0.2.1]", "[192.0.2.1]", "u@"]


@given(user=USER, extension=st.text("abc+", max_size=4), domain=DOMAIN)
def test_keys_go_from_the_exact_to_the_general(user, extension, domain):
    address = f"{user}+{extension}@{domain}" if extension else f"{user}@{domain}"
    keys = address_keys(address)
    assert keys[0] == address.lower()
    assert len(set(keys)) == len(keys)
    assert keys.index(f"{user}@{domain}".lower()) <= 1
    assert keys.index(domain) > keys.index(f"{user}@{domain}".lower())
    parents = [key for key in keys if key.startswith(".") and "@" not in key]
    assert parents == sorted(parents, key=len, reverse=True)
    assert all(f".{domain}".endswith(parent) for parent in parents)
    assert all(keys.index(parent) > keys.index(domain) for parent in parents)
    if extension:
        assert keys.index(f"+{extension}") > keys.index(domain)
    assert keys[-1] == f"{user}@".lower()


def test_names_and_clients():
    assert domain_keys("A.b.C.") == ["a.b.c", ".b.c", ".c"]
    assert domain_keys("") == []
    assert len(domain_keys("a." * 100 + "b")) == 1
    assert client_keys("192.0.2.7", "mx.example.org") == [
        "192.0.2.7",
        "192.0.2",
        "192.0",
        "192",
        "mx.example.org",
        ".example.org",
        ".org",
    ]
    assert client_keys("2001:DB8::1") == ["2001:db8::1"]
    assert client_keys("") == []


def test_split_extension():
    assert split_extension("user+a+b") == ("user", "a+b")
    assert split_extension("user+") == ("user", "")
    assert split_extension("+x") == ("+x", "")


def test_find_takes_the_first_key_and_looks_up_parts_only_in_tables_of_whole_keys():
    keys = address_keys("joe+x@sub.example.org")
    exact = Exact([(".example.org", "parent", 0), ("joe@sub.example.org", "user", 0), ("+x", "extension", 0)])
    assert find(exact, keys) == ("joe@sub.example.org", "user")
    assert find(Exact([("+x", "extension", 0)]), keys) == ("+x", "extension")
    assert find(Patterns([("^sub", "domain", 0)]), keys) is None  # no part of a key is given to a pattern
    assert find(Patterns([("^joe", "user", 0)]), keys) == ("joe+x@sub.example.org", "user")
    assert find(Cidr([("192.0.2.0/24", "net", 0)]), client_keys("192.0.2.9", "x.test")) == ("192.0.2.9", "net")
    assert find(Exact([("x" * 256, "long", 0)]), ["x" * 256]) is None
