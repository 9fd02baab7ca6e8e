"""Which answers of a list mean "listed", and what lists are asked for."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.checks.answers import any_of, is_error, parse_filter, usable
from mailflow.ingress.checks.subjects import of_client, of_domain, plain_address
from mailflow.ingress.checks.words import REPLY_TEXT_LIMIT, clean

LOOPBACK = st.integers(0, 2**24 - 1).map(lambda n: str(ipaddress.IPv4Address(127 * 2**24 + n)))


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("127.0.0.2", ["127.0.0.2"], ["127.0.0.3", "127.0.1.2"]),
        ("127.0.0.[2..11]", ["127.0.0.2", "127.0.0.11"], ["127.0.0.12", "127.0.1.2"]),
        ("127.0.[0..255].[1;3;5..9]", ["127.0.4.1", "127.0.255.7"], ["127.0.4.2", "127.1.4.1", "127.0.4.10"]),
        ("127.0.0.0/24", ["127.0.0.9"], ["127.0.1.9"]),
        ("127.0.0.2/32", ["127.0.0.2"], ["127.0.0.3"]),
    ],
)
def test_filters(text, yes, no):
    accepts = parse_filter(text)
    assert all(map(accepts, yes))
    assert not any(map(accepts, no))


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0", "127.0.0.[", "127.0.0.[3..2]", "127.0.0.256", "127.0.0.1/24", "127.0.0.*", "::1", "1.2.3.4.5"],
)
def test_what_is_no_filter_is_an_error_that_says_what_would_be(text):
    with pytest.raises(ValueError, match=r"accepted: "):
        parse_filter(text)


@given(st.integers(0, 255), st.integers(0, 255), LOOPBACK)
def test_a_range_is_what_lies_in_it(low, high, answer):
    low, high = sorted((low, high))
    assert parse_filter(f"127.[0..255].[0..255].[{low}..{high}]")(answer) == (low <= int(answer.split(".")[3]) <= high)


def test_no_filter_accepts_all_and_several_what_one_accepts():
    assert any_of([])("127.3.4.5")
    accepts = any_of(["127.0.0.2", "127.0.0.[4..5]"])
    assert [n for n in range(10) if accepts(f"127.0.0.{n}")] == [2, 4, 5]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("127.0.0.2", True),
        ("127.0.0.255", True),
        ("127.255.254.255", True),
        ("127.0.0.1", False),
        ("127.255.255.254", False),
        ("127.255.255.1", False),
        ("192.0.2.2", False),
        ("128.0.0.2", False),
    ],
)
def test_errors_and_foreign_answers_are_no_listing(answer, expected):
    assert usable(answer) is expected
    assert is_error(answer) == answer.startswith("127.255.255.")


# RFC 5782 §2.1 and §2.4
def test_names_of_addresses():
    assert of_client("192.0.2.99") == "99.2.0.192"
    assert of_client("::ffff:192.0.2.99") == "99.2.0.192"
    nibbles = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2"
    assert of_client("2001:db8:1:2:3:4:567:89ab") == nibbles


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.1.1",
        "fe80::1%eth0",
        "fd00::1",
        "0.0.0.0",
        "::ffff:10.0.0.1",
        "ff02::1",
        "",
        "unix",
    ],
)
def test_nothing_is_asked_about_addresses_that_mean_something_at_home_only(address):
    assert of_client(address) == ""


@given(st.ip_addresses(v=4))
def test_the_name_of_an_address_leads_back_to_it(address):
    name = of_client(str(address))
    assert name == "" or ipaddress.IPv4Address(".".join(reversed(name.split(".")))) == address


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("Example.COM.", "example.com"),
        ("localhost", ""),
        ("[192.0.2.1]", ""),
        ("192.0.2.1", ""),
        ("", ""),
        ("[IPv6:2001:db8::1]", ""),
        ("bücher.example", "bücher.example"),
        ("a..example", ""),
        ("a b.example", ""),
        ("a\0.example", ""),
        ("*.example", ""),
    ],
)
def test_names_of_domains(domain, expected):
    assert of_domain(domain) == expected


def test_what_is_no_address_is_none():
    assert plain_address("mail.example") is None


@given(st.text(max_size=3000))
def test_foreign_text_is_cleaned(text):
    cleaned = clean(text)
    assert cleaned.isascii()
    assert cleaned.isprintable()
    assert len(cleaned) <= REPLY_TEXT_LIMIT
    assert clean(cleaned) == cleaned


def test_foreign_text_stays_on_its_line():
    assert clean("no\r\n250 ok\tnow\x00\x1b[1m ö") == "no 250 ok now??[1m ?"
