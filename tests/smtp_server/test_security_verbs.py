"""STARTTLS and AUTH in the server core: order, what is forgotten, and that nothing sent in the clear is kept."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.profile import Offers
from mailflow.smtp.replies import TLS_UNAVAILABLE
from mailflow.smtp.server import ServerCore
from mailflow.smtp.verbs_security import AUTH_LINE_OCTETS, decode_base64
from tests.smtp_server.fakes import Recorder, bring, drive, profile, singly, three_ways
from tests.smtp_server.test_server_core import ENVELOPE, HELLO, MAIL, codes

EHLO = b"EHLO x\r\n"
PLAIN = Offers(mechanisms=("PLAIN", "LOGIN"))
ME, MORE, NO = b"bWU=", b"bW9yZQ==", b"bm8="


def before_tls(**changes):
    return {"secured": profile(offers=PLAIN), **changes}


def started(*, pending=(), flight=EHLO + b"STARTTLS\r\n", **changes):
    handler = Recorder(pending)
    core = ServerCore(profile(**before_tls(**changes)), handler)
    core.take()
    core.feed(flight)
    out = core.take() + bring(core, handler)
    return core, handler, out


def test_what_is_offered_changes_with_tls():
    core, _, out = started()
    assert b"STARTTLS\r\n" in out
    assert b"AUTH" not in out
    assert out.endswith(b"220 2.0.0 Ready to start TLS\r\n")
    assert core.upgrading
    core.secured()
    assert not core.upgrading
    core.feed(EHLO)
    out = core.take()
    assert b"250-AUTH PLAIN LOGIN\r\n" in out
    assert b"STARTTLS" not in out
    core.feed(b"STARTTLS\r\n")
    assert core.take() == b"503 5.5.1 TLS is active already\r\n"


def last_lines(data):
    return [line[:3] for line in data.decode().split("\r\n") if line[3:4] == " "]


def test_where_tls_is_required_nothing_but_it_is_possible():
    script = EHLO + MAIL + b"MAIL FROM:<>\r\nRSET\r\nDATA\r\nVRFY a\r\nNOOP\r\nHELO x\r\n" + MAIL + b"QUIT\r\n"
    lines, handler = three_ways(script, **before_tls(tls_first=True))
    assert codes([line for line in lines if line[3] == " "]) == [
        "250",
        *["530 5.7.0"] * 5,
        "250 2.0.0",
        "250",
        "530 5.7.0",
        "221 2.0.0",
    ]
    assert {event[0] for event in handler.events} <= {"hello", "said", "reset"}
    core, _, out = started(tls_first=True)
    assert out.endswith(b"220 2.0.0 Ready to start TLS\r\n")
    core.secured()
    core.feed(EHLO + MAIL)
    assert last_lines(core.take()) == ["250", "250"]


def test_tls_may_come_first_of_all():
    core = ServerCore(profile(), Recorder(), tls=True)
    core.feed(EHLO + b"STARTTLS\r\n")
    assert last_lines(core.take()) == ["220", "250", "503"]


def test_the_client_is_forgotten():
    core, _, _ = started()
    core.secured()
    core.feed(MAIL)
    assert core.take() == b"503 5.5.1 Send EHLO or HELO first\r\n"
    assert not core.extended


@pytest.mark.parametrize("pending", [(), ("starttls",)])
@pytest.mark.parametrize(
    "behind", [b"EHLO evil\r\nMAIL FROM:<evil@x>\r\n", b"MAIL FR", b"\r\n", b"AUTH PLAIN bWU=\r\n"]
)
def test_nothing_sent_in_the_clear_is_processed_behind_the_handshake(behind, pending):
    results = []
    for flight in ([EHLO + b"STARTTLS\r\n" + behind], singly(EHLO + b"STARTTLS\r\n" + behind)):
        handler = Recorder(pending)
        core = ServerCore(profile(**before_tls()), handler)
        core.take()
        out = b""
        for piece in flight:
            core.feed(piece)
            out += core.take() + bring(core, handler)
        assert core.dropped == len(behind)
        assert core.input == b""
        core.secured()
        core.feed(b"OM:<a@b>\r\n" + EHLO)
        results.append((out, core.take(), handler.events))
    assert results[0] == results[1]
    out, after, events = results[0]
    assert out.endswith(b"220 2.0.0 Ready to start TLS\r\n")
    assert after.startswith(b"500 5.5.2 Command not recognized\r\n250-mx.test\r\n")
    assert events == [("hello", "EHLO", "x"), ("starttls",), ("hello", "EHLO", "x")]


@pytest.mark.parametrize(
    ("commands", "last"),
    [
        (b"STARTTLS\r\n", "503 5.5.1"),
        (EHLO + b"STARTTLS now\r\n", "501 5.5.4"),
        (ENVELOPE + b"STARTTLS\r\n", "503 5.5.1"),
        (b"AUTH PLAIN\r\n", "503 5.5.1"),
        (EHLO + b"AUTH PLAIN bWU=\r\n", "538 5.7.1"),
        (EHLO + b"AUTH CRAM-MD5\r\n", "504 5.5.4"),
    ],
)
def test_out_of_place_before_tls(commands, last):
    assert codes(three_ways(commands, **before_tls())[0])[-1] == last


def test_refused_starttls_leaves_the_session_in_the_clear():
    core = ServerCore(profile(**before_tls()), handler := Recorder(("starttls",)))
    core.feed(EHLO + b"STARTTLS\r\nNOOP\r\n")
    core.take()
    handler.held = None
    core.resume(TLS_UNAVAILABLE)
    assert core.take() == b"454 4.7.0 TLS not available due to temporary reason\r\n250 2.0.0 Ok\r\n"
    assert not core.upgrading
    core.secured()
    assert core.extended


@pytest.mark.parametrize(
    ("commands", "last", "events"),
    [
        (b"AUTH plain bWU=\r\n", "235 2.7.0", [("auth", "PLAIN", b"me")]),
        (b"AUTH PLAIN =\r\n", "535 5.7.8", [("auth", "PLAIN", b"")]),
        (b"AUTH LOGIN\r\n" + ME + b"\r\n", "235 2.7.0", [("auth", "LOGIN", None), ("response", b"me")]),
        (
            b"AUTH LOGIN\r\n" + MORE + b"\r\n\r\n",
            "535 5.7.8",
            [("auth", "LOGIN", None), ("response", b"more"), ("response", b"")],
        ),
        (b"AUTH LOGIN\r\n*\r\n", "501 5.0.0", [("auth", "LOGIN", None), ("cancelled",)]),
        (b"AUTH LOGIN\r\n**\r\n", "501 5.5.2", [("auth", "LOGIN", None), ("cancelled",)]),
        (b"AUTH LOGIN\r\nbWV=\r\n", "501 5.5.2", [("auth", "LOGIN", None), ("cancelled",)]),
        (b"AUTH LOGIN\r\n=\r\n", "501 5.5.2", [("auth", "LOGIN", None), ("cancelled",)]),
        (b"AUTH PLAIN bWU\r\n", "501 5.5.2", []),
        (b"AUTH PLAIN bWU= bWU=\r\n", "501 5.5.2", []),
        (b"AUTH\r\n", "501 5.5.4", []),
        (b"AUTH X\r\n", "504 5.5.4", []),
        (b"AUTH PLAIN bWU=\r\nAUTH PLAIN bWU=\r\n", "503 5.5.1", [("auth", "PLAIN", b"me")]),
        (b"AUTH PLAIN bWU=\r\nEHLO y\r\nAUTH PLAIN bWU=\r\n", "503 5.5.1", [("auth", "PLAIN", b"me")]),
        (b"AUTH LOGIN\r\nNOOP \r\n", "501 5.5.2", [("auth", "LOGIN", None), ("cancelled",)]),
        (b"AUTH PLAIN bm8=\r\nNOOP\r\n", "250 2.0.0", [("auth", "PLAIN", b"no")]),
        (MAIL + b"AUTH PLAIN bWU=\r\n", "503 5.5.1", []),
    ],
)
def test_auth(commands, last, events):
    lines, handler = three_ways(EHLO + commands, trailing=b"", offers=PLAIN)
    assert codes(lines)[-1] == last
    assert [e for e in handler.events if e[0] in ("auth", "response", "cancelled")] == events


def test_auth_needs_ehlo_and_an_offer():
    assert codes(three_ways(HELLO + b"AUTH PLAIN bWU=\r\n", offers=PLAIN)[0])[-1] == "503 5.5.1"
    assert codes(three_ways(EHLO + b"AUTH PLAIN bWU=\r\n")[0])[-1] == "502 5.5.1"


def test_a_challenge_goes_out_in_base64():
    assert three_ways(EHLO + b"AUTH LOGIN\r\n", trailing=b"", offers=PLAIN)[0][-1] == "334 d2hvPw=="


@pytest.mark.parametrize("length", [AUTH_LINE_OCTETS - 3, AUTH_LINE_OCTETS - 2, AUTH_LINE_OCTETS - 1, 50_000])
def test_a_response_may_be_long_and_not_longer(length):
    data = EHLO + b"AUTH LOGIN\r\n" + b"x" * length + b"\r\nNOOP\r\n"
    expected = b"501 5.5.2 Not valid base64\r\n" if length <= AUTH_LINE_OCTETS - 2 else b"500 5.5.6 "
    for pieces in ([data], singly(data) if length < 20_000 else [data], [data[:9000], data[9000:]]):
        out, handler, core = drive(pieces, offers=PLAIN)
        last, after = out.rpartition(b"334 d2hvPw==\r\n")[2].split(b"\r\n")[:2]
        assert (last + b"\r\n").startswith(expected)
        assert after == b"250 2.0.0 Ok"
        assert core.input == b""
        assert len(handler.refusals) == 1


def test_an_endless_response_takes_no_memory():
    core = ServerCore(profile(offers=PLAIN), Recorder())
    core.feed(EHLO + b"AUTH LOGIN\r\n")
    for _ in range(100):
        core.feed(b"x" * 1000)
        assert len(core.input) <= AUTH_LINE_OCTETS


def test_guessing_ends_the_session():
    lines, _ = three_ways(EHLO + b"AUTH PLAIN bm8=\r\n" * 9, offers=PLAIN, errors=5)
    assert codes(lines)[-2:] == ["535 5.7.8", "421 4.7.0"]


def test_the_server_does_not_leave_within_a_handshake():
    core, _, _ = started()
    assert not core.between


@given(st.binary(max_size=30))
def test_base64_is_read_as_it_is_written(data):
    assert decode_base64(b64encode(data)) == data


@given(st.text("abcABC019+/=* -_", max_size=12).map(str.encode))
def test_nothing_else_is_base64(text):
    data = decode_base64(text)
    assert data is None or b64encode(data) == text
