"""VRFY, EXPN, HELP, ETRN, and protocol errors that are taken for passing ones, in the server core."""

from __future__ import annotations

import pytest

from mailflow.smtp import replies
from mailflow.smtp.profile import Offers
from mailflow.smtp.replies import softened
from mailflow.smtp.reply import reply
from tests.smtp_server.fakes import profile, three_ways
from tests.smtp_server.test_server_core import ENVELOPE, HELLO, MAIL, RCPT, codes


@pytest.mark.parametrize(
    ("policy", "said", "answer"),
    [
        ("unknown", b"VRFY alice@d", "252 2.1.5 Cannot VRFY user, but will accept message and attempt delivery"),
        ("unknown", b"VRFY", "501 5.5.4 Syntax: VRFY address"),
        ("off", b"VRFY alice@d", "502 5.5.1 Command not implemented"),
        ("off", b"VRFY", "502 5.5.1 Command not implemented"),
        ("known", b"VRFY alice@d", "250 2.1.5 <alice@d>"),
        ("known", b"VRFY <alice@d>", "250 2.1.5 <alice@d>"),
        ("known", b"VRFY alice@d SMTPUTF8", "250 2.1.5 <alice@d>"),
        ("known", b"VRFY nobody@d", "550 5.1.1 No such user"),
        ("known", b"VRFY Alice Liddell", "252 2.1.5 Cannot VRFY user, but will accept message and attempt delivery"),
        ("known", b"EXPN staff", "502 5.5.1 Command not implemented"),
    ],
)
def test_vrfy(policy, said, answer):
    assert three_ways(HELLO + said + b"\r\n", offers=Offers(vrfy=policy))[0][-1] == answer


def test_vrfy_of_known_addresses_needs_a_name():
    assert codes(three_ways(b"VRFY a@b\r\n", offers=Offers(vrfy="known"))[0]) == ["503 5.5.1"]


def test_guessing_addresses_comes_to_an_end():
    lines, _ = three_ways(HELLO + b"VRFY nobody@d\r\n" * 30, offers=Offers(vrfy="known"), junk_commands=5, errors=9)
    assert codes(lines)[-1] == "421 4.7.0"


@pytest.mark.parametrize(
    ("settings", "verbs"),
    [
        ({}, "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"),
        (
            {"offers": Offers(chunking=False, vrfy="off", etrn=True)},
            "EHLO HELO MAIL RCPT DATA RSET NOOP ETRN HELP QUIT",
        ),
        ({"offers": Offers(mechanisms=("PLAIN",))}, "EHLO HELO AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"),
        ({"secured": profile()}, "EHLO HELO STARTTLS MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT"),
    ],
)
def test_help_lists_what_is_offered(settings, verbs):
    assert three_ways(b"HELP\r\n", **settings)[0] == [f"214-2.0.0 {verbs}", "214 2.0.0 See RFC 5321"]


@pytest.mark.parametrize(
    ("said", "answer", "node"),
    [
        (b"ETRN x.test", "250 2.0.0", "x.test"),
        (b"etrn @x.test", "250 2.0.0", "@x.test"),
        (b"ETRN #smtp", "250 2.0.0", "#smtp"),
        (b"ETRN [192.0.2.1]", "250 2.0.0", "[192.0.2.1]"),
        (b"ETRN", "501 5.5.4", None),
        (b"ETRN a b", "501 5.5.4", None),
        (b"ETRN *", "501 5.5.4", None),
        (b"ETRN %", "501 5.5.4", None),
        (b"ETRN @", "501 5.5.4", None),
        (b"ETRN " + b"x" * 300, "501 5.5.4", None),
    ],
)
def test_etrn(said, answer, node):
    lines, handler = three_ways(HELLO + said + b"\r\n", offers=Offers(etrn=True))
    assert codes(lines)[-1] == answer
    assert [e[1] for e in handler.events if e[0] == "etrn"] == [node] * (node is not None)


@pytest.mark.parametrize(
    ("commands", "last", "etrn"),
    [(b"", "503 5.5.1", True), (ENVELOPE, "503 5.5.1", True), (HELLO, "502 5.5.1", False)],
)
def test_etrn_out_of_place(commands, last, etrn):
    assert codes(three_ways(commands + b"ETRN x.test\r\n", offers=Offers(etrn=etrn))[0])[-1] == last


# Protocol errors that pass


@pytest.mark.wish(35)
@pytest.mark.parametrize(
    ("commands", "hard", "soft"),
    [
        (b"BOO\r\n", "500 5.5.2", "450 4.5.2"),
        (MAIL, "503 5.5.1", "450 4.5.1"),
        (b"EHLO\r\n", "501 5.5.4", "450 4.5.4"),
        (HELLO + MAIL + b"DATA\r\n", "554 5.5.1", "454 4.5.1"),
        (HELLO + b"MAIL FROM:<a@b> FOO=1\r\n", "555 5.5.4", "455 4.5.4"),
        (b"EXPN x\r\n", "502 5.5.1", "450 4.5.1"),
        # What is no error in the protocol stays what it is
        (HELLO + MAIL + b"RCPT TO:<nobody@d>\r\n", "550 5.1.1", "550 5.1.1"),
        (HELLO + b"MAIL FROM:<a@b> SIZE=999999\r\n", "552 5.3.4", "552 5.3.4"),
        (HELLO + MAIL + RCPT + b"DATA\r\na\nb\r\n.\r\n", "554 5.6.0", "554 5.6.0"),
    ],
)
def test_protocol_errors_may_be_temporary(commands, hard, soft):
    assert codes(three_ways(commands)[0])[-1] == hard
    lines, handler = three_ways(commands, soft=True)
    assert codes(lines)[-1] == soft
    assert handler.refusals[-1].code == int(soft[:3])


def test_temporary_errors_count_like_permanent_ones():
    lines, _ = three_ways(b"BOO\r\n" * 50, soft=True, errors=5)
    assert codes(lines) == ["450 4.5.2"] * 4 + ["421 4.7.0"]


def test_every_softened_reply_is_temporary():
    known = [value for value in vars(replies).values() if isinstance(value, replies.Reply)]
    assert len(known) > 30
    for answer in known:
        result = softened(answer)
        assert (result == answer) is not answer.status.startswith("5.5.")
        assert result.lines == answer.lines
        if result != answer:
            assert 400 <= result.code < 500
            assert result.status == "4" + answer.status[1:]
    assert softened(reply(250, "2.5.0", "x")).code == 250
