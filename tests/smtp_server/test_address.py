"""Addresses in paths and alone: RFC 5321 §4.1.2, §4.1.3, §4.5.3.1; RFC 6531 §3.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.address import AddressError, local_part, parse_address, parse_path

LABEL63 = "d" * 63


@pytest.mark.parametrize(
    ("text", "address", "rest"),
    [
        ("<alice@example.test>", "alice@example.test", ""),
        ("<a@b>", "a@b", ""),
        ("<a.b+c-d_e@Example.TEST> SIZE=10 BODY=8BITMIME", "a.b+c-d_e@Example.TEST", "SIZE=10 BODY=8BITMIME"),
        ("<!#$%&'*/=?^_`{|}~@example.test>", "!#$%&'*/=?^_`{|}~@example.test", ""),
        (" <alice@example.test>", "alice@example.test", ""),
        ("alice@example.test", "alice@example.test", ""),
        ("alice@example.test SIZE=1", "alice@example.test", "SIZE=1"),
        ("<>", "", ""),
        ("<> RET=HDRS", "", "RET=HDRS"),
        ("<Postmaster>", "Postmaster", ""),
        ("<alice>", "alice", ""),
        ('<"a b"@example.test>', '"a b"@example.test', ""),
        ('<"a@b>c"@example.test> SIZE=1', '"a@b>c"@example.test', "SIZE=1"),
        ('<"a\\"b\\\\"@example.test>', '"a\\"b\\\\"@example.test', ""),
        ('<""@example.test>', '""@example.test', ""),
        ("<a@[127.0.0.1]>", "a@[127.0.0.1]", ""),
        ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", ""),
        ("<a@[ipv6:::ffff:192.0.2.1]>", "a@[ipv6:::ffff:192.0.2.1]", ""),
        ("<@relay.test:alice@example.test>", "alice@example.test", ""),
        ("<@a.test,@b.test:alice@example.test> SIZE=1", "alice@example.test", "SIZE=1"),
        ("<alice@my_host.test>", "alice@my_host.test", ""),
        ("<alice@example.test>  SIZE=1 ", "alice@example.test", "SIZE=1 "),
        ("<jürgen@exämple.test> SMTPUTF8", "jürgen@exämple.test", "SMTPUTF8"),
        ("<用户@例え.test>", "用户@例え.test", ""),
        (f"<{'l' * 64}@example.test>", f"{'l' * 64}@example.test", ""),
        (f"<a@{LABEL63}.test>", f"a@{LABEL63}.test", ""),
        (f"<a@{LABEL63}.{LABEL63}.{LABEL63}.{'d' * 60}>", f"a@{LABEL63}.{LABEL63}.{LABEL63}.{'d' * 60}", ""),
    ],
)
def test_path_is_accepted(text: str, address: str, rest: str) -> None:
    assert parse_path(text) == (address, rest)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "malformed local part"),
        ("<", "malformed local part"),
        ("<alice@example.test", "not closed"),
        ("<alice@example.test>SIZE=1", "behind"),
        ("<alice@example.test>>", "behind"),
        ("<alice@>", "malformed domain"),
        ("<@example.test>", "malformed source route"),
        ("<@a.test,b.test:alice@example.test>", "malformed source route"),
        ("<a..b@example.test>", "not closed"),
        ("<.a@example.test>", "malformed local part"),
        ("<a.@example.test>", "not closed"),
        ("<a@-example.test>", "malformed domain"),
        ("<a@example-.test>", "malformed domain"),
        ("<a@b..test>", "not closed"),
        ("<a@example.test.>", "not closed"),
        ("<a b@example.test>", "not closed"),
        ('<"a@example.test>', "malformed local part"),
        ('<"a"b@example.test>', "not closed"),
        ("<a@b@c>", "not closed"),
        ("<a@[127.0.0.256]>", "literal"),
        ("<a@[127.0.0.1>", "literal"),
        ("<a@[IPv6:fe80::1%eth0]>", "literal"),
        ("<a@[IPv6:127.0.0.1]>", "literal"),
        ("<a@[x400:abc]>", "literal"),
        ("<a\x85@example.test>", "not closed"),
        (f"<{'l' * 65}@example.test>", "local part too long"),
        (f"<{'ü' * 33}@example.test>", "local part too long"),
        (f"<a@{LABEL63}d.test>", "malformed domain"),
        (f"<a@{'.'.join([LABEL63] * 4)}>", "address too long"),
        (f"<a@{'.'.join([LABEL63] * 4)}.dd>", "domain too long"),
        (f"<@{'.'.join([LABEL63] * 4)},@b:a@b>", "path too long"),
    ],
)
def test_path_is_refused(text: str, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        parse_path(text)


def test_length_limits_hold_to_the_octet() -> None:
    domain = f"{LABEL63}.{LABEL63}.{LABEL63}.{'d' * 59}"
    longest = f"{'l' * 2}@{domain[: 254 - 3]}"
    assert parse_address(longest) == longest
    with pytest.raises(AddressError, match="address too long"):
        parse_address("l" + longest)


@pytest.mark.parametrize("text", ["<alice@example.test>", "alice@example.test ", "a@b, c@d", "", "@", "a@b>"])
def test_bare_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


@pytest.mark.parametrize(
    ("address", "local"),
    [("a.b@c", "a.b"), ('"a b"@c', "a b"), ('"a\\"@b"@c', 'a"@b'), ("postmaster", "postmaster"), ("", "")],
)
def test_local_part_is_unquoted(address: str, local: str) -> None:
    assert local_part(address) == local


@given(st.text(max_size=400))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    for parse in (parse_path, parse_address):
        try:
            result = parse(text)
        except AddressError:
            continue
        address = result[0] if isinstance(result, tuple) else result
        assert not address or parse_address(address) == address


LOCAL = st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\.[a-z0-9+-]{1,20}){0,2}", fullmatch=True) | st.from_regex(
    r'"([ !#-\[\]-~]|\\[ -~]){0,30}"', fullmatch=True
)
DOMAIN = st.from_regex(r"[A-Za-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,20}){0,4}", fullmatch=True)


@given(LOCAL, DOMAIN, st.sampled_from(["", " SIZE=1", " SIZE=1 BODY=7BIT"]))
def test_every_valid_address_comes_back_as_it_was(local: str, domain: str, rest: str) -> None:
    """But for quoting that it does not need."""
    address, words = parse_path(f"<{local}@{domain}>{rest}")
    assert words == rest[1:]
    assert local_part(address) == local_part(f"{local}@{domain}")
    assert address == f"{local}@{domain}" if not local.startswith('"') else len(address) <= len(local) + 1 + len(domain)
    assert parse_path(f"<{address}>") == (address, "")
    assert parse_address(f"{local}@{domain}") == address
