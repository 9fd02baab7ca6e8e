"""What the core notices of clients that do not behave, and what it does with the sentence."""

from __future__ import annotations

import pytest

from mailflow.smtp.handler import Offence
from mailflow.smtp.reply import reply
from mailflow.smtp.server import ServerCore
from tests.smtp_server.fakes import Recorder, bring, drive, profile

EHLO = b"EHLO client.test\r\n"
GO_AWAY = reply(421, "4.7.0", "Go away")


def offences(*pieces: bytes, pending: tuple[str, ...] = ()) -> list[tuple[Offence, bytes]]:
    """What was noticed besides the questions whether something is SMTP."""
    handler = drive(pieces, pending=pending)[1]
    return [pair for pair in handler.offences if pair[0] is not Offence.STRANGE]


def strange(*pieces: bytes) -> list[bytes]:
    """What the handler was asked about."""
    return [data for offence, data in drive(pieces)[1].offences if offence is Offence.STRANGE]


@pytest.mark.parametrize(
    ("pieces", "verbs"),
    [
        ([EHLO, b"RSET\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<nobody@x>\r\nDATA\r\n"], []),
        ([EHLO, b"RSET\r\nRSET\r\nQUIT\r\n"], []),
        ([EHLO + b"RSET\r\n"], [b"EHLO"]),
        ([EHLO + b"R"], [b"EHLO"]),
        ([EHLO, b"noop\r\nRSET\r\n"], [b"noop"]),
        ([EHLO, b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nx\r\n.\r\n"], [b"DATA"]),
        ([EHLO, b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n", b"x\r\n.\r\nRSET\r\nMAIL FROM:<a@x>\r\n"], []),
        ([EHLO, b"VRFY x\r\nEXPN y\r\nRSET\r\n"], [b"VRFY", b"EXPN"]),
        ([b"HELO x\r\n", b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n"], [b"MAIL"]),
        ([b"HELO x\r\n", b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<b@x>\r\n"], []),
        ([b"HELO x\r\n", b"MAIL FR", b"OM:<a@x>\r\n"], []),
    ],
)
def test_groups_of_commands(pieces: list[bytes], verbs: list[bytes]) -> None:
    assert offences(*pieces) == [(Offence.AHEAD, verb) for verb in verbs]


@pytest.mark.parametrize(
    ("pending", "before", "then", "ahead"),
    [
        ("connect", b"", b"EHLO client.test\r\n", Offence.EARLY),
        ("hello", EHLO, b"RSET\r\n", Offence.AHEAD),
        ("mail", EHLO + b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<b@x>\r\n", None),
        ("data", EHLO + b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n", b"x\r\n.\r\n", Offence.AHEAD),
        ("end", EHLO + b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nx\r\n.\r\n", b"RSET\r\n", None),
        ("end", b"HELO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nx\r\n.\r\n", b"RSET\r\n", Offence.AHEAD),
        ("mail", b"HELO x\r\nMAIL FROM:<a@x>\r\n", b"RCPT TO:<b@x>\r\n", Offence.AHEAD),
    ],
)
def test_talking_while_an_answer_is_pending(pending: str, before: bytes, then: bytes, ahead: Offence | None) -> None:
    handler = Recorder([pending])
    core = ServerCore(profile(), handler)
    core.feed(before)
    assert core.pending
    handler.offences.clear()
    core.feed(then[:3])
    core.feed(then[3:])
    assert [offence for offence, _ in handler.offences] == ([ahead] if ahead else [])
    bring(core, handler)
    assert not core.input


@pytest.mark.parametrize(
    ("pieces", "deaf"),
    [
        ([EHLO, b"MAIL FROM:<bad@x>\r\n", b"RCPT TO:<b@x>\r\n"], 1),
        ([EHLO, b"MAIL FROM:<bad@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"], 0),
        ([EHLO, b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<nobody@x>\r\n", b"DATA\r\n", b"DATA\r\n"], 2),
        ([EHLO, b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<nobody@x>\r\nDATA\r\n"], 0),
        ([EHLO, b"DATA\r\n"], 0),
        ([b"EHLO\r\n", b"MAIL FROM:<a@x>\r\n"], 1),
    ],
)
def test_going_on_after_an_error_that_was_heard(pieces: list[bytes], deaf: int) -> None:
    assert [offence for offence, _ in offences(*pieces)] == [Offence.DEAF] * deaf


@pytest.mark.parametrize(
    ("pieces", "asked"),
    [
        ([EHLO], []),
        ([b"GET / HTTP/1.1\r\n"], [b"GET / HTTP/1.1\r\n"]),
        ([b"\x16\x03\x01", b"\x02"], [b"\x16\x03\x01", b"\x16\x03\x01\x02"]),
        ([EHLO, b"\x16\x03\x01"], [b"\x16\x03\x01"]),
        ([EHLO, b"NONSENSE\r\n"], [b"NONSENSE\r\n"]),
        ([EHLO, b"MAIL FROM:<a\0@x>\r\n"], [b"MAIL FROM:<a\0@x>\r\n"]),
        ([EHLO, b"MAIL FROM:<a@x>\r\n", b"RCPT TO:<b@x>\r\n", b"DATA\r\n", b"\0\x01"], []),
    ],
)
def test_what_may_be_no_smtp_is_asked_about(pieces: list[bytes], asked: list[bytes]) -> None:
    assert strange(*pieces) == asked


def test_the_handler_sees_the_beginning_only() -> None:
    assert [len(data) for data in strange(b"\x01" * 5000)] == [256]


@pytest.mark.parametrize(
    ("offence", "pieces", "out"),
    [
        (Offence.EARLY, [b"EHLO client.test\r\n"], b"421 4.7.0 Go away\r\n"),
        (Offence.STRANGE, [b"\x16\x03\x01"], b"220 mx.test ESMTP mailflow\r\n421 4.7.0 Go away\r\n"),
        (Offence.STRANGE, [b"GET / HTTP/1.1\r\n"], b"220 mx.test ESMTP mailflow\r\n421 4.7.0 Go away\r\n"),
        (Offence.STRANGE, [b"GET / HTTP/1.1\r\nA: b\r\n"], b"220 mx.test ESMTP mailflow\r\n421 4.7.0 Go away\r\n"),
        (Offence.AHEAD, [b"HELO x\r\nQUIT\r\n"], b"220 mx.test ESMTP mailflow\r\n421 4.7.0 Go away\r\n"),
        (
            Offence.DEAF,
            [b"NONSENSE\r\n", b"MAIL FROM:<a@x>\r\n", b"QUIT\r\n"],
            b"220 mx.test ESMTP mailflow\r\n500 5.5.2 Command not recognized\r\n421 4.7.0 Go away\r\n",
        ),
    ],
)
def test_a_sentence_ends_the_session(offence: Offence, pieces: list[bytes], out: bytes) -> None:
    handler = Recorder(["connect"] if offence is Offence.EARLY else [])
    handler.sentence[offence] = GO_AWAY
    core = ServerCore(profile(), handler)
    found = core.take()
    for piece in pieces:
        core.feed(piece)
        found += core.take()
    assert found == out
    assert core.closing
    assert not core.pending
    assert handler.events == []


def test_fewer_errors_may_be_tolerated() -> None:
    class Impatient(Recorder):
        def tolerates(self, limit: int) -> int:
            return limit // 10

    handler = Impatient()
    core = ServerCore(profile(errors=20, junk_commands=100), handler)
    core.feed(b"NONSENSE\r\nNONSENSE\r\nNOOP\r\n")
    assert core.take().decode().splitlines()[1:] == ["500 5.5.2 Command not recognized", "421 4.7.0 Too many errors"]
    handler = Impatient()
    core = ServerCore(profile(errors=100, junk_commands=100), handler)
    core.feed(b"NOOP\r\n" * 11)
    assert [line[:3] for line in core.take().decode().splitlines()] == ["220", *["250"] * 10, "450"]


@pytest.mark.parametrize(
    ("piece", "unfinished"),
    [(b"", None), (b"EHL", b"EHL"), (EHLO, None), (b"X" * 9000, b""), (b"X" * 9000 + b"\r\n", None)],
)
def test_the_beginning_of_a_line(piece: bytes, unfinished: bytes | None) -> None:
    core = ServerCore(profile(), Recorder())
    core.feed(piece)
    assert core.unfinished == unfinished
