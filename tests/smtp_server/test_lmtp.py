"""LMTP in the server core (RFC 2033): LHLO, and a reply for each recipient."""

from __future__ import annotations

import pytest

from mailflow.smtp.profile import Offers
from mailflow.smtp.replies import SHUTTING_DOWN
from mailflow.smtp.server import ServerCore
from tests.smtp_server.fakes import Recorder, drive, profile, three_ways
from tests.smtp_server.test_server_core import MAIL, RCPT, codes

LHLO = b"LHLO client\r\n"
NOBODY = b"RCPT TO:<nobody@d>\r\n"
THREE = LHLO + MAIL + RCPT + NOBODY + RCPT + RCPT


@pytest.fixture(autouse=True)
def greeting(monkeypatch):
    monkeypatch.setattr("tests.smtp_server.fakes.GREETING", "220 mx.test LMTP mailflow")


@pytest.mark.parametrize(
    ("behind", "answers"),
    [
        (b"DATA\r\nx\r\n.\r\n", ["354"] + ["250 2.0.0"] * 3),
        (b"BDAT 1\r\nxBDAT 1 LAST\r\ny", ["250 2.0.0"] * 4),
        (b"DATA\r\na\nb\r\n.\r\n", ["354"] + ["554 5.6.0"] * 3),
        (b"BDAT 3 LAST\r\na\nb", ["554 5.6.0"] * 3),
        (b"BDAT 3\r\na\nbBDAT 0 LAST\r\n", ["554 5.6.0", "503 5.5.1"]),
        (b"BDAT 999999 LAST\r\n" + b"x" * 999_999, ["552 5.3.4"] * 3),
    ],
)
def test_each_recipient_gets_its_reply(behind, answers):
    if len(behind) > 1000:
        out, _, _ = drive([THREE + behind + b"NOOP\r\n"], lmtp=True)
        lines = out.decode().split("\r\n")[1:-1]
    else:
        lines, _ = three_ways(THREE + behind + b"NOOP\r\n", lmtp=True)
    ready = next(i for i, line in enumerate(lines) if line.startswith("250 ")) + 1  # behind the reply to LHLO
    assert codes(lines)[ready + 5 :] == [*answers, "250 2.0.0"]


def test_the_next_message_has_its_own_recipients():
    message = MAIL + RCPT + b"DATA\r\n.\r\n"
    lines, handler = three_ways(THREE + b"DATA\r\n.\r\n" + message, lmtp=True)
    assert [line for line in lines if "queued" in line] == ["250 2.0.0 Ok: queued"] * 4
    assert len(handler.messages) == 2


@pytest.mark.parametrize("verb", [b"HELO", b"EHLO"])
def test_only_lhlo(verb):
    assert codes(three_ways(verb + b" x\r\n", lmtp=True)[0]) == ["500 5.5.2"]


def test_no_lhlo_in_smtp(monkeypatch):
    monkeypatch.setattr("tests.smtp_server.fakes.GREETING", "220 mx.test ESMTP mailflow")
    assert codes(three_ways(LHLO)[0]) == ["500 5.5.2"]


def test_data_without_recipients_fails():
    """RFC 2033 §4.2: with 503."""
    for command in (b"DATA\r\n", b"BDAT 1 LAST\r\nx"):
        assert codes(three_ways(LHLO + MAIL + NOBODY + command, lmtp=True, trailing=b"")[0])[-1] == "503 5.5.1"


def test_no_etrn():
    assert codes(three_ways(LHLO + b"ETRN x.test\r\n", lmtp=True, offers=Offers(etrn=True))[0])[-1] == "502 5.5.1"


def test_a_421_is_said_once():
    core = ServerCore(profile(lmtp=True), handler := Recorder(("end",)))
    core.feed(THREE + b"DATA\r\n.\r\n")
    core.take()
    core.resume(SHUTTING_DOWN)
    assert core.take().count(b"421") == 1
    assert core.closing
    assert handler.held is not None


def test_errors_are_counted_once_for_all_recipients():
    core = ServerCore(profile(lmtp=True), Recorder())
    core.feed(THREE + b"DATA\r\na\nb\r\n.\r\n")
    assert core.errors == 2
