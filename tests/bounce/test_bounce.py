"""Reports are read back with the standard library's parser; their text is compared with literal words."""

from __future__ import annotations

import email
import email.policy
from dataclasses import replace
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.bounce import BounceSettings, bounce, bounce_options, how_long, notable
from mailflow.envelope import Message, Options, Peer, Recipient
from mailflow.report import Action, DeliveryReport, HostAttempt

ARRIVED = 1795000000.0
NOW = ARRIVED + 5 * 86400 + 60
CONTENT = b"Message-ID: <1@example.org>\r\nFrom: alice@example.org\r\nSubject: greetings\r\n\r\nHello\r\n"
MX1 = HostAttempt("mx1.example.net", "192.0.2.1", 25, "connection timed out", NOW - 40, 30.0)
MX2 = HostAttempt("mx2.example.net", "192.0.2.2", 25, "450 4.2.0 Try again later", NOW - 1, 0.5)


def message(sender: str = "alice@example.org", **options: object) -> Message:
    peer = Peer("192.0.2.9")
    return Message(1795000000000000, sender, [Recipient(0, "b", "smtp:x")], None, arrived=ARRIVED, size=80, peer=peer, options=Options(**options))  # fmt: skip


FAILED = DeliveryReport(
    queue_id="1js8he3dc00",
    sender="alice@example.org",
    recipient="bob@example.net",
    original="bob@example.net",
    orcpt="",
    notify="",
    action=Action.FAILED,
    status="5.1.1",
    relay="mx2.example.net[192.0.2.2]:25",
    reply="550 5.1.1 No such user",
    reason="host mx2.example.net[192.0.2.2]:25 said: 550 5.1.1 No such user (in reply to RCPT TO)",
    at=NOW,
    arrived=ARRIVED,
    attempts=1,
    expires=ARRIVED + 5 * 86400,
    delays=(0, 0, 0, 0),
)
EXPIRED = replace(FAILED, status="4.4.7", reply="450 4.2.0 Try again later", reason="host mx2.example.net[192.0.2.2]:25 said: 450 4.2.0 Try again later", attempts=23, hosts=(MX1, MX2))  # fmt: skip
DELAYED = replace(EXPIRED, action=Action.DELAYED, at=ARRIVED + 7200, attempts=4)


def make(
    *reports: DeliveryReport,
    content: bytes = CONTENT,
    about: Message | None = None,
    complete: bool = True,
    **settings: object,
) -> bytes:
    return bounce(
        about or message(),
        list(reports),
        content,
        settings=BounceSettings(**settings),
        hostname="mx.example.test",
        queue_id="1js8he3dc01",
        now=NOW,
        complete=complete,
    )


def parse(data: bytes) -> tuple[EmailMessage, EmailMessage, list[EmailMessage], EmailMessage]:
    """The whole, its text, the blocks of its delivery status, and the included part."""
    parsed = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert not any(part.defects for part in parsed.walk())
    text, status, included = parsed.iter_parts()
    assert status.get_content_type() == "message/delivery-status"
    return parsed, text, list(status.get_payload()), included


def test_the_header_says_what_it_is_and_is_not_answered() -> None:
    parsed, _, _, _ = parse(make(FAILED))
    assert parsed.get_content_type() == "multipart/report"
    assert parsed["Content-Type"].params["report-type"] == "delivery-status"
    assert parsed["From"].addresses[0].addr_spec == "MAILER-DAEMON@mx.example.test"
    assert parsed["To"] == "alice@example.org"
    assert parsed["Subject"] == "Mail could not be delivered"
    assert parsed["Auto-Submitted"] == "auto-replied"
    assert parsed["Message-ID"] == "<1js8he3dc01@mx.example.test>"
    assert parsed["References"] == parsed["In-Reply-To"] == "<1@example.org>"
    assert parsed["Date"].datetime.timestamp() == NOW
    assert b"\r\nFrom: Mail system <help@x.example>\r\n" in make(FAILED, from_address="help@x.example")


def test_the_text_for_people() -> None:
    _, text, _, _ = parse(make(FAILED))
    assert text.get_content().replace("\r\n", "\n") == (
        "This is the mail system at host mx.example.test.\n"
        "\n"
        "Your message could not be delivered to the recipients below. It will not be\n"
        "tried again for them.\n"
        "\n"
        "<bob@example.net>:\n"
        "    host mx2.example.net[192.0.2.2]:25 said: 550 5.1.1 No such user (in reply\n"
        "    to RCPT TO)\n"
        "\n"
        "The details for software follow, then the header of your message.\n"
        "Your message has the queue id 1jjh5yadt00 here.\n"
    ).replace("1jjh5yadt00", message().queue_id)


@pytest.mark.wish(24)
@pytest.mark.wish(26)
def test_given_up_says_how_long_how_often_and_each_host_s_last_reply() -> None:
    _, text, _, _ = parse(make(EXPIRED))
    assert (
        "    Delivery was tried 23 times over 5 days, then given up.\n"
        "    The last reply of each host:\n"
        "        mx1.example.net[192.0.2.1]:25: connection timed out\n"
        "        mx2.example.net[192.0.2.2]:25: 450 4.2.0 Try again later\n"
    ) in text.get_content().replace("\r\n", "\n")


@pytest.mark.wish(73)
def test_the_part_for_software() -> None:
    about = message(envid="QQ+3D314159")
    report = replace(EXPIRED, orcpt="rfc822;Bob+2Bx@example.net", reply="450 4.2.0 " + "very " * 30 + "busy")
    _, _, (whole, each), _ = parse(make(report, about=about))
    assert dict(whole.items()) == {
        "Reporting-MTA": "dns; mx.example.test",
        "Original-Envelope-Id": "QQ=314159",
        "X-Mailflow-Queue-Id": about.queue_id,
        "Arrival-Date": "Wed, 18 Nov 2026 11:06:40 +0000",
    }
    assert dict(each.items()) == {
        "Original-Recipient": "rfc822; Bob+x@example.net",
        "Final-Recipient": "rfc822; bob@example.net",
        "Action": "failed",
        "Status": "4.4.7",
        "Remote-MTA": "dns; mx2.example.net",
        "Diagnostic-Code": "smtp; 450 4.2.0 " + "very " * 30 + "busy",
        "Last-Attempt-Date": "Mon, 23 Nov 2026 11:07:40 +0000",
    }


def test_each_recipient_has_a_block() -> None:
    other = replace(FAILED, recipient="carol@example.net", reply="", reason="connection timed out", status="5.4.1")
    _, text, (_, first, second), _ = parse(make(FAILED, other))
    assert (first["Final-Recipient"], second["Final-Recipient"]) == (
        "rfc822; bob@example.net",
        "rfc822; carol@example.net",
    )
    assert second["Diagnostic-Code"] == "X-Mailflow; connection timed out"
    assert "<carol@example.net>:" in text.get_content()


def test_a_delay_says_until_when() -> None:
    parsed, text, (_, each), included = parse(make(DELAYED, about=message(ret="FULL"), include="message"))
    assert parsed["Subject"] == "Mail is delayed"
    assert each["Action"] == "delayed"
    assert each["Will-Retry-Until"] == "Mon, 23 Nov 2026 11:06:40 +0000"
    words = " ".join(text.get_content().split())
    assert "delivery will be tried until Mon, 23 Nov 2026 11:06:40 +0000." in words
    assert "Delivery was tried 4 times over 2 hours." in words
    assert included.get_content_type() == "text/rfc822-headers", "RET is for failures (RFC 3461 §6.2)"


@pytest.mark.parametrize(
    ("action", "subject"), [(Action.DELIVERED, "Mail was delivered"), (Action.RELAYED, "Mail was relayed")]
)
def test_success_is_reported_too(action: Action, subject: str) -> None:
    parsed, text, (_, each), _ = parse(
        make(replace(FAILED, action=action, status="2.0.0", reply="250 2.0.0 Ok", reason=""))
    )
    assert parsed["Subject"] == subject
    assert (each["Action"], each["Status"]) == (action.value, "2.0.0")
    assert "250 2.0.0 Ok" in text.get_content()


def test_the_way_of_an_address_is_told() -> None:
    report = replace(FAILED, original="staff@example.test", way=("alias: staff -> bob@example.net",))
    _, text, _, _ = parse(make(report))
    assert (
        "The way of your address <staff@example.test>:\n        alias: staff -> bob@example.net\n"
        in text.get_content().replace("\r\n", "\n")
    )


# Who hears of it


@pytest.mark.parametrize(
    ("action", "notify", "told"),
    [
        (Action.FAILED, "", True),
        (Action.FAILED, "NEVER", False),
        (Action.FAILED, "FAILURE", True),
        (Action.FAILED, "SUCCESS,FAILURE", True),
        (Action.FAILED, "SUCCESS,DELAY", False),
        (Action.DELAYED, "", True),
        (Action.DELAYED, "FAILURE", False),
        (Action.DELAYED, "FAILURE,DELAY", True),
        (Action.DELIVERED, "", False),
        (Action.DELIVERED, "SUCCESS", True),
        (Action.RELAYED, "success", True),
        (Action.RELAYED, "FAILURE", False),
    ],
)
def test_who_is_told_is_up_to_the_sender(action: Action, notify: str, told: bool) -> None:
    report = replace(FAILED, action=action, notify=notify)
    assert notable(message(), [report], "mx.example.test", BounceSettings()) == ([report] if told else [])


@pytest.mark.parametrize("sender", ["", "double-bounce@mx.example.test", "Double-Bounce@MX.example.test"])
def test_no_report_about_a_report(sender: str) -> None:
    assert notable(message(sender), [FAILED], "mx.example.test", BounceSettings()) == []


# What comes back


def included_of(content: bytes, *, ret: str = "", complete: bool = True, **settings: object) -> tuple[str, bytes]:
    """Type and exact bytes of the last part."""
    data = make(FAILED, content=content, about=message(ret=ret), complete=complete, **settings)
    kind = parse(data)[3].get_content_type()
    boundary = b"\r\n--" + email.message_from_bytes(data).get_boundary().encode()  # type: ignore[union-attr]
    part = data.split(boundary)[3]
    return kind, part[2:].split(b"\r\n\r\n", 1)[1]


HEADER = CONTENT[: CONTENT.index(b"\r\n\r\n") + 2]


@pytest.mark.parametrize(
    ("ret", "include", "complete", "size", "kind", "expected"),
    [
        ("", "headers", True, "50KiB", "text/rfc822-headers", HEADER),
        ("", "message", True, "50KiB", "message/rfc822", CONTENT),
        ("FULL", "headers", True, "50KiB", "message/rfc822", CONTENT),
        ("HDRS", "message", True, "50KiB", "text/rfc822-headers", HEADER),
        ("FULL", "headers", False, "50KiB", "text/rfc822-headers", HEADER),
        ("FULL", "headers", True, "80B", "text/rfc822-headers", HEADER),
        ("FULL", "headers", True, "60B", "text/rfc822-headers", HEADER[: HEADER.index(b"Subject")]),
        ("FULL", "headers", True, "5B", "text/rfc822-headers", b""),
    ],
)
def test_what_comes_back_is_asked_for_and_bounded(
    ret: str, include: str, complete: bool, size: str, kind: str, expected: bytes
) -> None:
    assert included_of(CONTENT, ret=ret, include=include, complete=complete, include_size=size) == (kind, expected)


def test_a_message_without_an_end_of_header_comes_back() -> None:
    assert included_of(b"Subject: x") == ("text/rfc822-headers", b"Subject: x")
    assert included_of(b"", ret="FULL") == ("message/rfc822", b"")


def test_8_bit_content_comes_back_byte_for_byte() -> None:
    content = b"Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + "Grüße\r\n".encode()
    assert included_of(content, ret="FULL") == ("message/rfc822", content)
    data = make(FAILED, content=content, about=message(ret="FULL"))
    parsed, _, _, included = parse(data)
    assert parsed["Content-Transfer-Encoding"] == included["Content-Transfer-Encoding"] == "8bit"
    assert included.get_content().get_content() == "Grüße\r\n"
    assert bounce_options(message(), data) == Options(body="8BITMIME")


def test_an_ascii_report_asks_for_nothing() -> None:
    data = make(FAILED, about=message(ret="FULL", smtputf8=True))
    assert data.isascii()
    assert bounce_options(message(smtputf8=True), data) == Options()


def test_internationalized_mail_is_reported_as_such() -> None:
    about = message("jürgen@example.org", smtputf8=True)
    content = "From: jürgen@example.org\r\nSubject: Grüße\r\n\r\nHello\r\n".encode()
    report = replace(FAILED, recipient="ödön@example.net", orcpt="utf-8;ödön@example.net")
    data = make(report, content=content, about=about)
    _, text, (_, each), included = parse(data)
    assert "\r\nTo: <jürgen@example.org>\r\n".encode() in data
    assert each["Final-Recipient"] == r"utf-8; \x{F6}d\x{F6}n@example.net"
    assert r"<\x{F6}d\x{F6}n@example.net>:" in text.get_content()
    assert included.get_content_type() == "message/global-headers"
    assert bounce_options(about, data) == Options(body="8BITMIME", smtputf8=True)


def test_8_bit_headers_of_old_do_not_ask_for_smtputf8() -> None:
    data = make(FAILED, content=b"Subject: Gr\xfc\xdfe\r\n\r\n")
    assert parse(data)[3].get_content_type() == "text/rfc822-headers"
    assert bounce_options(message(), data) == Options(body="8BITMIME")


def test_a_message_with_our_boundary_in_it_stays_in_its_part() -> None:
    content = CONTENT + b"\r\n--=_1js8he3dc01--\r\n--=_1js8he3dc01=\r\nafter\r\n"
    assert included_of(content, ret="FULL") == ("message/rfc822", content)


@given(
    st.text(max_size=60),
    st.text(max_size=60),
    st.text(max_size=60),
    st.text(max_size=20),
    st.binary(max_size=200),
    st.sampled_from(["", "FULL", "HDRS"]),
)
def test_whatever_was_said_the_form_holds(
    reply: str, reason: str, name: str, address: str, content: bytes, ret: str
) -> None:
    host = replace(MX1, name=name, reply=reply)
    report = replace(
        FAILED, recipient=address, reply=reply, reason=reason, orcpt=address, hosts=(host,), way=(reason,), attempts=2
    )
    data = make(report, content=content, about=message(ret=ret, envid=address, sender=address))
    parsed = email.message_from_bytes(data, policy=email.policy.compat32)
    parts = parsed.get_payload()
    assert [part.get_content_maintype() for part in parts[:2]] == ["text", "message"]
    assert len(parts) == 3
    blocks = parts[1].get_payload()
    assert len(blocks) == 2
    assert blocks[1]["Action"] == "failed"
    assert data.count(b"\r\n--=_1js8he3dc01") >= 4
    body = data[: data.index(b"Content-Description: Your message")]
    assert all(line.isascii() or line.startswith(b"To: ") for line in body.split(b"\r\n"))
    assert all(len(line) < 998 for line in body.split(b"\r\n"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 seconds"), (0, "0 seconds"), (1, "1 second"), (59.9, "59 seconds"), (60, "1 minute"), (7200, "2 hours"), (86400, "1 day"), (5 * 86400 + 9, "5 days")],
)  # fmt: skip
def test_how_long(seconds: float, words: str) -> None:
    assert how_long(seconds) == words
