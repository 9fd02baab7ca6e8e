"""The server core: literal bytes in, events and bytes out; each case whole, byte by byte, with trailing bytes, pending."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp import replies
from mailflow.smtp.commands import NO_MAIL_PARAMS, NO_RCPT_PARAMS, MailParams, RcptParams
from mailflow.smtp.handler import State
from mailflow.smtp.server import ServerCore
from tests.smtp_server.fakes import Recorder, bring, drive, profile, singly, three_ways

HELLO = b"HELO client\r\n"
MAIL = b"MAIL FROM:<a@b>\r\n"
RCPT = b"RCPT TO:<c@d>\r\n"
ENVELOPE = HELLO + MAIL + RCPT
OK = ["250 mx.test", "250 2.1.0 Ok", "250 2.1.5 Ok"]
GO = "354 End data with <CR><LF>.<CR><LF>"


def codes(lines: list[str]) -> list[str]:
    return [line[:9] if line[3:4] == " " and line[4:5] in "245" and line[5:6] == "." else line[:3] for line in lines]


def test_a_whole_conversation() -> None:
    lines, handler = three_ways(
        b"EHLO client.test\r\nMAIL FROM:<a@b> SIZE=9 BODY=8BITMIME\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\nDATA\r\n"
        b"Subject: x\r\n\r\n..\r\n.\r\nQUIT\r\n"
    )
    assert lines == [
        "250-mx.test",
        "250-PIPELINING",
        "250-SIZE 100000",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-ENHANCEDSTATUSCODES",
        "250-DSN",
        "250 CHUNKING",
        "250 2.1.0 Ok",
        "250 2.1.5 Ok",
        GO,
        "250 2.0.0 Ok: queued",
        "221 2.0.0 Bye",
    ]
    assert handler.events == [
        ("hello", "EHLO", "client.test"),
        ("mail", "a@b", MailParams(9, "8BITMIME")),
        ("rcpt", "c@d", RcptParams("NEVER")),
        ("data",),
        ("end", b"Subject: x\r\n\r\n.\r\n"),
    ]
    assert handler.refusals == []


def test_several_messages_in_one_session() -> None:
    lines, handler = three_ways(HELLO + (MAIL + RCPT + b"DATA\r\n1\r\n.\r\n") * 2 + MAIL + RCPT + b"DATA\r\n.\r\n")
    assert handler.messages == [b"1\r\n", b"1\r\n", b""]
    assert lines[1:] == [*OK[1:], GO, "250 2.0.0 Ok: queued"] * 3


@pytest.mark.parametrize(
    ("commands", "last"),
    [
        # Order (RFC 5321 §4.1.4)
        (MAIL, "503 5.5.1"),
        (RCPT, "503 5.5.1"),
        (b"DATA\r\n", "503 5.5.1"),
        (HELLO + RCPT, "503 5.5.1"),
        (HELLO + b"DATA\r\n", "503 5.5.1"),
        (HELLO + MAIL + MAIL, "503 5.5.1"),
        (HELLO + MAIL + b"DATA\r\n", "554 5.5.1"),
        (HELLO + MAIL + b"RCPT TO:<nobody@d>\r\nDATA\r\n", "554 5.5.1"),
        (ENVELOPE + b"RSET\r\nDATA\r\n", "503 5.5.1"),
        (ENVELOPE + HELLO + b"DATA\r\n", "503 5.5.1"),
        (HELLO + b"MAIL FROM:<bad@x>\r\n" + RCPT, "503 5.5.1"),
        (b"NOOP\r\nRSET\r\nVRFY x\r\nHELP\r\n", "214 2.0.0"),
        # Syntax
        (b"HELO\r\n", "501 5.5.4"),
        (b"EHLO a b\r\n", "501 5.5.4"),
        (b"EHLO " + b"x" * 256 + b"\r\n", "501 5.5.4"),
        (HELLO + b"MAIL a@b\r\n", "501 5.5.4"),
        (HELLO + b"MAIL\r\n", "501 5.5.4"),
        (HELLO + b"MAIL FROM:\r\n", "501 5.1.7"),
        (HELLO + b"MAIL FROM:<a@b\r\n", "501 5.1.7"),
        (HELLO + b"MAIL FROM:<a@b> FOO=1\r\n", "555 5.5.4"),
        (HELLO + b"MAIL FROM:<a@b> SIZE=1 SIZE=1\r\n", "501 5.5.4"),
        (HELLO + b"MAIL FROM:<a@b> SIZE=100001\r\n", "552 5.3.4"),
        (HELLO + b"MAIL FROM:<a@b> SIZE=100000\r\n", "250 2.1.0"),
        (HELLO + MAIL + b"RCPT FROM:<a@b>\r\n", "501 5.5.4"),
        (HELLO + MAIL + b"RCPT TO:<>\r\n", "501 5.5.4"),
        (HELLO + MAIL + b"RCPT TO:<@>\r\n", "501 5.1.3"),
        (HELLO + MAIL + b"RCPT TO:<c@d> NOTIFY=X\r\n", "501 5.5.4"),
        (HELLO + MAIL + b"RCPT TO:<c@d> SIZE=1\r\n", "555 5.5.4"),
        (ENVELOPE + b"DATA now\r\n", "501 5.5.4"),
        (ENVELOPE + b"DATA \r\n", "354"),
        (b"RSET x\r\n", "501 5.5.4"),
        (b"QUIT now\r\n", "501 5.5.4"),
        (b"VRFY\r\n", "501 5.5.4"),
        (b"VRFY postmaster\r\n", "252 2.1.5"),
        (b"NOOP anything at all\r\n", "250 2.0.0"),
        (b"EXPN staff\r\n", "502 5.5.1"),
        (b"STARTTLS\r\n", "502 5.5.1"),
        (b"XYZZY\r\n", "500 5.5.2"),
        (b"\r\n", "500 5.5.2"),
        (b" NOOP\r\n", "500 5.5.2"),
        (b"helo client\r\nmail from:<a@b>\r\nrcpt to:<c@d>\r\ndata\r\n", "354"),
        # What no command may hold
        (b"NOOP \0\r\n", "500 5.5.2"),
        (b"\0\0\0\0\r\n", "500 5.5.2"),
        (b"NOOP\nNOOP\r\n", "500 5.5.2"),
        (b"NOOP\rNOOP\r\n", "500 5.5.2"),
        (b"NOOP\r\r\n", "500 5.5.2"),
        (b"NOOP \xff\xfe\r\n", "500 5.5.2"),
        (b"\x16\x03\x01\x02\x00\x01\xfc\r\n", "500 5.5.2"),
        # UTF-8 (RFC 6531 §3.5)
        (HELLO + "MAIL FROM:<jürgen@b>\r\n".encode(), "553 5.6.7"),
        (HELLO + "MAIL FROM:<jürgen@b> SMTPUTF8\r\n".encode(), "250 2.1.0"),
        (HELLO + MAIL + "RCPT TO:<jürgen@d>\r\n".encode(), "553 5.6.7"),
        (HELLO + MAIL + "RCPT TO:<c@d> ORCPT=utf-8;ü\r\n".encode(), "553 5.6.7"),
        (HELLO + b"MAIL FROM:<a@b> SMTPUTF8\r\n" + "RCPT TO:<jürgen@d>\r\n".encode(), "250 2.1.5"),
        (HELLO + b"MAIL FROM:<a@b> SMTPUTF8\r\nRSET\r\n" + MAIL + "RCPT TO:<ü@d>\r\n".encode(), "553 5.6.7"),
        (HELLO + b"MAIL FROM:<a\xff@b> SMTPUTF8\r\n", "500 5.5.2"),
        ("EHLO münchen.test\r\n".encode(), "501 5.5.4"),
        # Leniency
        (HELLO + b"MAIL FROM: <a@b>\r\n", "250 2.1.0"),
        (HELLO + b"MAIL FROM:a@b\r\n", "250 2.1.0"),
        (b"NOOP \r\n", "250 2.0.0"),
    ],
)
def test_last_answer(commands: bytes, last: str) -> None:
    lines, _ = three_ways(commands, trailing=b"" if last == "354" else b"NOO")
    assert codes(lines)[-1] == last
    assert len([line for line in lines if line[3] == " "]) == commands.count(b"\r\n")


@pytest.mark.parametrize("tail", [b"x", b"\r\n", b"NOOP\r\nMAIL FROM:<a@b>\r\n", b"\0" * 5000])
def test_nothing_is_answered_behind_quit(tail: bytes) -> None:
    lines, handler = three_ways(b"QUIT\r\n" + tail)
    assert lines == ["221 2.0.0 Bye"]
    assert handler.events == []


def test_quit_forgets_the_transaction() -> None:
    assert three_ways(ENVELOPE + b"QUIT\r\n")[1].messages == []


@pytest.mark.parametrize("length", [2047, 2048, 2049, 5000, 100_000])
@pytest.mark.parametrize("behind", [b"", b"NOOP\r\n"])
def test_long_line_is_refused_once_and_swallowed(length: int, behind: bytes) -> None:
    line = b"NOOP " + b"x" * (length - 5) + b"\r\n"
    data = line + behind
    for pieces in (
        [data],
        [data[i : i + 999] for i in range(0, len(data), 999)],
        singly(data) if length < 6000 else [data],
    ):
        out, _, core = drive(pieces, command_line=2048)
        first = b"500 5.5.2 Line too long\r\n" if length > 2048 else b"250 2.0.0 Ok\r\n"
        assert out.partition(b"\r\n")[2] == first + (b"250 2.0.0 Ok\r\n" if behind else b"")
        assert core.input == b""


def test_endless_line_takes_no_memory() -> None:
    core = ServerCore(profile(), Recorder())
    for _ in range(1000):
        core.feed(b"x" * 1000)
        assert len(core.input) <= 2048
    assert core.take().count(b"500 ") == 1


def test_long_line_made_of_carriage_returns() -> None:
    lines, _ = three_ways(b"\r" * 3000 + b"\nNOOP\r\n")
    assert codes(lines) == ["500 5.5.2", "250 2.0.0"]


def test_refused_message_is_swallowed_to_its_end() -> None:
    for body, status in [(b"a\nb", "554 5.6.0"), (b"x" * 100_001, "552 5.3.4"), (b"y" * 70_000, "554 5.6.0")]:
        handler_input = ENVELOPE + b"DATA\r\n" + body + b"\r\n.\r\n" + MAIL + RCPT + b"DATA\r\nok\r\n.\r\n"
        out, handler, _ = drive([handler_input])
        assert codes(out.decode().split("\r\n")[:-1])[4:] == [
            "354",
            status,
            "250 2.1.0",
            "250 2.1.5",
            "354",
            "250 2.0.0",
        ]
        assert handler.messages == [b"ok\r\n"]
        assert ("abort",) in handler.events


def test_message_that_becomes_too_big_is_given_up_at_once() -> None:
    core = ServerCore(profile(message_size=1000), handler := Recorder())
    core.feed(ENVELOPE + b"DATA\r\n")
    core.feed(b"x" * 98 + b"\r\n")
    assert ("abort",) not in handler.events
    core.feed((b"x" * 98 + b"\r\n") * 10)
    assert ("abort",) in handler.events
    assert core.state is State.DATA


@pytest.mark.parametrize("fake_end", [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r"])
def test_no_second_message_is_smuggled_in(fake_end: bytes) -> None:
    inner = b"MAIL FROM:<evil@x>\r\nRCPT TO:<victim@x>\r\nDATA\r\nevil\r\n"
    lines, handler = three_ways(ENVELOPE + b"DATA\r\nhello" + fake_end + inner + b".\r\nNOOP\r\n")
    assert handler.messages == []
    assert codes(lines) == ["250", "250 2.1.0", "250 2.1.5", "354", "554 5.6.0", "250 2.0.0"]
    lines, handler = three_ways(ENVELOPE + b"DATA\r\nhello" + fake_end + inner + b".\r\nNOOP\r\n", normalise=True)
    assert len(handler.messages) == 1
    assert codes(lines) == ["250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "250 2.0.0"]


def test_too_many_errors_end_the_session() -> None:
    lines, handler = three_ways(b"BAD\r\n" * 50, errors=20)
    assert len(lines) == 20
    assert lines[18:] == ["500 5.5.2 Command not recognized", "421 4.7.0 Too many errors"]
    assert len(handler.refusals) == 20


def test_an_accepted_message_forgives_errors() -> None:
    message = MAIL + RCPT + b"DATA\r\n.\r\n"
    lines, _ = three_ways(HELLO + (b"BAD\r\n" * 19 + message) * 3, errors=20)
    assert codes(lines).count("500 5.5.2") == 57
    assert "421" not in " ".join(lines)


def test_junk_commands_become_errors() -> None:
    lines, _ = three_ways(b"NOOP\r\nRSET\r\nVRFY x\r\nHELO x\r\n" * 100, junk_commands=10, errors=3)
    assert codes(lines)[10:] == ["450 4.7.0", "450 4.7.0", "421 4.7.0"]


def test_another_protocol_is_hung_up_on() -> None:
    lines, _ = three_ways(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@b>\r\n")
    assert codes(lines) == ["421 4.7.0"]


def test_a_421_of_the_handler_ends_the_session() -> None:
    core = ServerCore(profile(), handler := Recorder(pending=("end",)))
    core.feed(ENVELOPE + b"DATA\r\n.\r\nNOOP\r\n")
    core.take()
    core.resume(replies.SHUTTING_DOWN)
    assert core.take() == b"421 4.3.2 Shutting down\r\n"
    assert core.closing
    assert handler.refusals == [replies.SHUTTING_DOWN]


def test_input_waits_behind_a_pending_answer() -> None:
    core = ServerCore(profile(), handler := Recorder(pending=("end",)))
    core.feed(ENVELOPE + b"DATA\r\n1\r\n.\r\n" + MAIL)
    core.take()
    assert core.pending
    assert core.input == MAIL
    core.feed(RCPT + b"DATA\r\n2\r\n.\r\nNO")
    assert core.take() == b""
    assert handler.messages == [b"1\r\n"]
    out = bring(core, handler)
    assert out.decode().split("\r\n")[:-1] == ["250 2.0.0 Ok: queued", *OK[1:], GO, "250 2.0.0 Ok: queued"]
    assert handler.messages == [b"1\r\n", b"2\r\n"]
    assert core.input == b"NO"


def test_late_answer_of_a_closed_session_is_ignored() -> None:
    core = ServerCore(profile(), handler := Recorder(pending=("end",)))
    core.feed(ENVELOPE + b"DATA\r\n.\r\n")
    core.abandon()
    core.take()
    core.resume(replies.RESET_OK)
    core.feed(b"NOOP\r\n")
    assert core.take() == b""
    assert not core.pending
    assert handler.events[-1] == ("end", b"")


def test_one_flight_is_one_write() -> None:
    core = ServerCore(profile(), Recorder())
    core.take()
    core.feed(ENVELOPE + b"DATA\r\n")
    assert core.take().count(b"\r\n") == 4
    assert core.take() == b""


def test_failing_tells_the_client_once() -> None:
    core = ServerCore(profile(), handler := Recorder())
    core.feed(ENVELOPE + b"DATA\r\nhal")
    core.take()
    core.fail(replies.TIMED_OUT)
    core.fail(replies.SHUTTING_DOWN)
    assert core.take() == b"421 4.4.2 Timed out\r\n"
    assert handler.events[-1] == ("abort",)


def test_repr_shows_the_state() -> None:
    core = ServerCore(profile(), Recorder(pending=("end",)))
    core.feed(ENVELOPE + b"DATA\r\n.\r\nNO")
    assert repr(core) == "<ServerCore data pending waiting=2 errors=0>"


def test_params_of_ordinary_mail_are_shared() -> None:
    _, handler = three_ways(ENVELOPE)
    assert handler.events[1][2] is NO_MAIL_PARAMS
    assert handler.events[2][2] is NO_RCPT_PARAMS


LINES = [b"EHLO x\r\n", b"HELO x\r\n", MAIL, RCPT, b"DATA\r\n", b".\r\n", b"\r\n.\r\n", b"QUIT\r\n", b"RSET\r\n"]
LINES += [b"hello\r\n", b"NOOP\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<nobody@d>\r\n", b"x" * 70]
FRAGMENTS = st.sampled_from([*LINES, b"\r", b"\n", b".", b"\0", b"\xff", b" "])
REPLY = re.compile(rb"(?:[2345][0-9][0-9]-[^\r\n]*\r\n)*[2345][0-9][0-9] [^\r\n]*\r\n")


@given(st.lists(FRAGMENTS | st.binary(max_size=20), max_size=30), st.data())
def test_any_bytes_are_answered_well_and_alike_for_every_split(parts: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(parts)
    limits: dict[str, object] = {
        "command_line": 40,
        "message_size": 60,
        "data_line": 30,
        "junk_commands": 8,
        "errors": 6,
    }
    out, handler, core = drive([wire] if wire else [], **limits)
    assert b"".join(REPLY.findall(out)) == out
    assert len(core.input) <= 41
    lines = wire.count(b"\r\n")
    assert len(REPLY.findall(out)) <= 2 + lines  # a greeting, one for each line, one for a line too long
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True) if a != b]
    for pending in ((), ("mail", "rcpt", "end")):
        other_out, other, other_core = drive(pieces, pending=pending, **limits)
        assert other_out == out
        assert [e for e in other.events if e != ("abort",)] == [e for e in handler.events if e != ("abort",)]
        assert other_core.closing == core.closing


def test_memory_of_a_pipelining_client_is_bounded() -> None:
    """Ten thousand recipients in one read: one reply each, nothing kept."""
    core = ServerCore(profile(), handler := Recorder())
    core.take()
    core.feed(HELLO + MAIL + RCPT * 10_000)
    assert core.take().count(b"\r\n") == 10_002
    assert core.input == b""
    assert len(handler.events) == 10_002
