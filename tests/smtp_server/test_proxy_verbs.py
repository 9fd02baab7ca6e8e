"""XCLIENT and XFORWARD in the server core, and how their attributes are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.param_values import decode_xtext
from mailflow.smtp.profile import Offers
from mailflow.smtp.server import ServerCore
from mailflow.smtp.verbs_proxy import XCLIENT, XFORWARD, parse_attributes
from tests.smtp_server.fakes import Recorder, bring, profile, three_ways
from tests.smtp_server.test_server_core import ENVELOPE, HELLO, MAIL, codes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("NAME=spike.test ADDR=192.0.2.7", {"NAME": "spike.test", "ADDR": "192.0.2.7"}),
        ("name=x addr=IPV6:2001:DB8::1", {"NAME": "x", "ADDR": "2001:db8::1"}),
        ("ADDR=ipv6:::ffff:192.0.2.1", {"ADDR": "192.0.2.1"}),
        ("NAME=[UNAVAILABLE] ADDR=[tempunavail]", {"NAME": None, "ADDR": None}),
        (
            "HELO=a+2Bb LOGIN=jo+40x.test PORT=25 PROTO=esmtp",
            {"HELO": "a+b", "LOGIN": "jo@x.test", "PORT": "25", "PROTO": "ESMTP"},
        ),
        ("DESTADDR=127.0.0.1 DESTPORT=25", {"DESTADDR": "127.0.0.1", "DESTPORT": "25"}),
        ("LOGIN=m+C3+BCller", {"LOGIN": "müller"}),
        ("", {}),
        ("NAME", None),
        ("NAME=", None),
        ("FOO=x", None),
        ("NAME=a NAME=b", None),
        ("NAME=a+2", None),
        ("NAME=a+2b", None),
        ("NAME=a=b", None),
        ("NAME=a+0D+0AEHLO", None),
        ("HELO=a+0D+0AX-Evil:+20x", None),
        ("LOGIN=+FF", None),
        ("HELO=" + "x" * 256, None),
        ("ADDR=192.0.2.300", None),
        ("ADDR=IPV6:192.0.2.1", None),
        ("ADDR=spike.test", None),
        ("PORT=65536", None),
        ("PORT=-1", None),
        ("PORT=²", None),
        ("PROTO=HTTP", None),
        ("SOURCE=LOCAL", None),
    ],
)
def test_attributes(text, found):
    assert parse_attributes(text, XCLIENT) == found


def test_xforward_has_its_own_attributes():
    assert parse_attributes("SOURCE=local IDENT=4711.x", XFORWARD) == {"SOURCE": "LOCAL", "IDENT": "4711.x"}
    assert parse_attributes("LOGIN=x", XFORWARD) is None


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    for known in (XCLIENT, XFORWARD):
        found = parse_attributes(text, known)
        for value in (found or {}).values():
            assert value is None or (value.isprintable() and value)
    decode_xtext(text)


def test_xclient_begins_anew():
    lines, handler = three_ways(HELLO + b"XCLIENT ADDR=192.0.2.7 NAME=x.test\r\n" + MAIL)
    assert codes(lines)[1:] == ["220", "503 5.5.1"]
    assert ("xclient", {"ADDR": "192.0.2.7", "NAME": "x.test"}) in handler.events


def test_policy_may_take_its_time_with_the_new_client():
    core = ServerCore(profile(), handler := Recorder(("xclient",)))
    core.take()
    handler.pending = frozenset(("xclient", "connect"))
    core.feed(b"XCLIENT ADDR=192.0.2.7\r\n" + HELLO + MAIL)
    assert core.take() + bring(core, handler) == b"220 mx.test ESMTP mailflow\r\n250 mx.test\r\n250 2.1.0 Ok\r\n"


def test_a_login_is_forgotten():
    core = ServerCore(profile(offers=Offers(mechanisms=("PLAIN",))), Recorder())
    core.feed(b"EHLO x\r\nAUTH PLAIN bWU=\r\n")
    assert core.authenticated
    core.feed(b"XCLIENT ADDR=192.0.2.7\r\n")
    assert not core.authenticated


def test_xforward_goes_on():
    lines, handler = three_ways(HELLO + b"XFORWARD NAME=x.test SOURCE=REMOTE\r\n" + MAIL)
    assert codes(lines)[1:] == ["250 2.0.0", "250 2.1.0"]
    assert handler.events[1] == ("xforward", {"NAME": "x.test", "SOURCE": "REMOTE"})


@pytest.mark.parametrize("verb", [b"XCLIENT", b"XFORWARD"])
@pytest.mark.parametrize(
    ("before", "words", "last"),
    [(ENVELOPE, b" NAME=x", "503 5.5.1"), (HELLO, b"", "501 5.5.4"), (HELLO, b" X=y", "501 5.5.4")],
)
def test_refused(verb, before, words, last):
    lines, handler = three_ways(before + verb + words + b"\r\n")
    assert codes(lines)[-1] == last
    assert not {"xclient", "xforward"} & {e[0] for e in handler.events}


def test_the_policy_may_turn_the_new_client_away():
    lines, _ = three_ways(HELLO + b"XCLIENT NAME=x\r\n" + MAIL)
    assert codes(lines)[1:] == ["550 5.7.1", "250 2.1.0"]


@pytest.mark.parametrize("verb", [b"XCLIENT", b"XFORWARD"])
def test_strangers_may_not(verb):
    handler = Recorder()
    handler.gateway = False
    core = ServerCore(profile(), handler)
    core.take()
    core.feed(HELLO + verb + b" NAME=x ADDR=192.0.2.7\r\n")
    assert core.take() == b"250 mx.test\r\n550 5.7.0 Not authorized\r\n"
    assert len(handler.events) == 1


def test_further_lines_for_some():
    lines, _ = three_ways(b"EHLO x\r\n", offers=Offers(personal=True))
    assert lines[-2:] == ["250-CHUNKING", "250 XTEST"]
