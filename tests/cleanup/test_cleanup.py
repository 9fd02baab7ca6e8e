"""Literal messages in, literal messages out."""

from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.cleanup import (
    HEADER_TOO_LARGE,
    TOO_MANY_HOPS,
    Cleaned,
    Cleaner,
    format_date,
    header_end,
    qualify,
    without_bcc,
)
from mailflow.envelope import Peer
from mailflow.smtp.reply import Reply

PEER = Peer("192.0.2.1", 40000, "host.example", "client.example", "ESMTP")
NOW = 1795333913.25  # Sun, 22 Nov 2026 07:51:53 UTC
WHOLE = b"From: a@example.org\r\nDate: Sun, 1 Nov 2026 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nHello\r\n"
RECEIVED = (
    b"Received: from client.example (host.example [192.0.2.1])\r\n"
    b"\tby mx.example.test with ESMTP id 1js8he3dc00\r\n"
    b"\tfor <bob@example.test>; Sun, 22 Nov 2026 07:51:53 +0000\r\n"
)


def clean(head: bytes, **changes: object) -> Cleaned | Reply:
    given_ = {
        "peer": PEER,
        "queue_id": "1js8he3dc00",
        "sender": "alice@example.org",
        "recipient": "bob@example.test",
        "now": NOW,
        "trusted": True,
    }
    return Cleaner("mx.example.test").clean(head, **(given_ | changes))


def whole(head: bytes, **changes: object) -> bytes:
    cleaned = clean(head, **changes)
    assert isinstance(cleaned, Cleaned)
    return cleaned.prefix + cleaned.head


@pytest.mark.wish(16)
@pytest.mark.wish(20)
def test_a_complete_message_gets_its_trace_field_and_is_not_touched() -> None:
    cleaned = clean(WHOLE)
    assert isinstance(cleaned, Cleaned)
    assert cleaned.prefix == RECEIVED
    assert cleaned.head is WHOLE


@pytest.mark.wish(16)
@pytest.mark.parametrize(
    ("peer", "recipient", "expected"),
    [
        (Peer("2001:db8::1", 1, "", "[IPv6:2001:db8::1]", "SMTP"), "", b"from [IPv6:2001:db8::1] (unknown [IPv6:2001:db8::1])\r\n\tby mx.example.test with SMTP id 1js8he3dc00;\r\n\tSun"),
        (Peer("192.0.2.1", 1, "", "", "SMTP"), "", b"from unknown (unknown [192.0.2.1])\r\n"),
        (Peer("192.0.2.1", 1, "", "c", "ESMTPS", "TLSv1.3 AES_256"), "", b"[192.0.2.1])\r\n\t(using TLSv1.3 AES_256)\r\n\tby mx.example.test with ESMTPS id"),
        (Peer("192.0.2.1", 1, "", "evil) x\r\nSubject: y", "SMTP"), "", b"from evil??x??Subject:?y (unknown [192.0.2.1])\r\n"),
        (Peer("192.0.2.1", 1, "", "c", "ESMTPS", "TLSv1.3 with cipher AES (256/256 bits), client certificate verified"), "", b"\r\n\t(using TLSv1.3 with cipher AES (256/256 bits), client certificate verified)\r\n\tby"),
        (Peer("192.0.2.1", 1, "", "c", "ESMTPS", "a) (b\r\nX: y"), "", b"\r\n\t(using a? ?b X: y)\r\n\tby"),
        (Peer(helo="here", protocol="LMTP"), "", b"from here (by a UNIX socket)\r\n\tby mx.example.test with LMTP id 1js8he3dc00"),
        (Peer(login="alice", protocol="local"), "b@x", b"by mx.example.test (mailflow, from alice) id 1js8he3dc00\r\n\tfor <b@x>; Sun"),
        (Peer(), "", b"by mx.example.test (mailflow) id 1js8he3dc00;\r\n\tSun, 22 Nov"),
        (PEER, "b\r\nX: y@x", b"with ESMTP id 1js8he3dc00;\r\n\tSun"),
        (PEER, "jürgen@ex.example", "for <jürgen@ex.example>; Sun".encode()),
    ],
)  # fmt: skip
def test_the_trace_field_names_the_client_and_one_recipient_only(peer: Peer, recipient: str, expected: bytes) -> None:
    text = whole(WHOLE, peer=peer, recipient=recipient)
    assert text.startswith(b"Received: ")
    assert expected in text
    assert text.endswith(b"\r\n" + WHOLE)


@pytest.mark.wish(81)
def test_a_trusted_client_s_message_gets_what_it_lacks() -> None:
    assert whole(b"Subject: x\r\n\r\nHello\r\n") == (
        RECEIVED + b"From: <alice@example.org>\r\n"
        b"Date: Sun, 22 Nov 2026 07:51:53 +0000\r\n"
        b"Message-ID: <1js8he3dc00@mx.example.test>\r\n"
        b"Subject: x\r\n\r\nHello\r\n"
    )


def test_from_of_the_null_sender_is_the_mail_system() -> None:
    assert b"\r\nFrom: <MAILER-DAEMON@mx.example.test>\r\n" in whole(b"Subject: x\r\n\r\n", sender="")


def test_others_get_only_the_trace_field() -> None:
    assert whole(b"Subject: x\r\n\r\nHello\r\n", trusted=False) == RECEIVED + b"Subject: x\r\n\r\nHello\r\n"


@pytest.mark.parametrize(
    "header",
    [
        b"FROM: a\r\nDATE: b\r\nMESSAGE-ID: <c>\r\n",
        b"from:a\r\ndate:b\r\nmessage-id:<c>\r\n",
        b"From : a\r\nDate\t: b\r\nMessage-Id  : <c>\r\n",
        b"From:\r\n a\r\nDate: b\r\nMessage-ID:\r\n <c>\r\n",
        "From: Jürgen <j@x>\r\nDate: b\r\nMessage-ID: <ü>\r\n".encode(),
        b"From: \xff\xfe\r\nDate: b\r\nMessage-ID: <c>\r\n",
    ],
    ids=["upper", "lower", "obsolete blanks", "folded", "utf-8", "8-bit"],
)
def test_present_fields_are_seen_in_every_form(header: bytes) -> None:
    assert whole(header + b"\r\nbody\r\n") == RECEIVED + header + b"\r\nbody\r\n"


def test_fields_in_the_body_do_not_count() -> None:
    assert b"\r\nDate: Sun, 22" in whole(b"From: a\r\n\r\nDate: x\r\n\r\nMessage-ID: <c>\r\n")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", b""),
        (b"\r\n", b"\r\n"),
        (b"\r\nno header at all\r\n", b"\r\nno header at all\r\n"),
        (b"Just words\r\nmore\r\n", b"\r\nJust words\r\nmore\r\n"),
        (b"Just: \r\nwords", b"Just: \r\nwords"),
        (b" folded first\r\nA: b\r\n\r\n", b"\r\n folded first\r\nA: b\r\n\r\n"),
        (b"http://x\x01y: z\r\n\r\n", b"http://x\x01y: z\r\n\r\n"),
        (b"x", b"\r\nx"),
        (b"From alice Sun Nov 22 07:51:53 2026\r\nA: b\r\n\r\nc", b"A: b\r\n\r\nc"),
        (b">From alice Sun\r\nA: b\r\n\r\nc", b"A: b\r\n\r\nc"),
        (b"From alice to bob\r\nno field\r\n", b"\r\nFrom alice to bob\r\nno field\r\n"),
        (b"A: b\r\n", b"A: b\r\n"),
    ],
)
def test_a_missing_or_broken_header_is_closed(head: bytes, expected: bytes) -> None:
    assert whole(head, trusted=False) == RECEIVED + expected


def test_closed_messages_can_be_read() -> None:
    message = email.message_from_bytes(whole(b"Just words\r\nmore: y\r\n"), policy=email.policy.default)
    assert message["From"] == "alice@example.org"
    assert message.get_content() == "Just words\r\nmore: y\r\n"


@pytest.mark.parametrize("where", [b"", b"A: b\r\n"])
@pytest.mark.parametrize("name", [b"Return-Path", b"RETURN-PATH ", b"return-path"])
def test_return_path_is_left_to_final_delivery(where: bytes, name: bytes) -> None:
    head = where + name + b": <x@y>\r\n folded\r\nSubject: s\r\n\r\nReturn-Path: stays\r\n"
    expected = RECEIVED + where + b"Subject: s\r\n\r\nReturn-Path: stays\r\n"
    assert whole(head, trusted=False) == expected


def test_bcc_is_removed_only_where_asked_for() -> None:
    head = b"To: a\r\nBcc: b,\r\n\tc\r\nResent-Bcc: d\r\nX-Bcc: e\r\nBcc: f\r\n\r\nBcc: body\r\n"
    assert whole(head, trusted=False) == RECEIVED + head
    assert without_bcc(head) == b"To: a\r\nX-Bcc: e\r\n\r\nBcc: body\r\n"


def test_the_only_field_may_be_removed() -> None:
    assert without_bcc(b"Bcc: f") == b""
    assert without_bcc(b"Bcc: f\r\n\r\nx") == b"\r\nx"


def test_a_message_in_a_loop_is_refused() -> None:
    hop = b"Received: from a by b; x\r\n"
    assert isinstance(clean(b"received: x\r\n" + hop * 49 + b"\r\n" + hop), Cleaned)
    refusal = clean(b"RECEIVED: x\r\n" + hop * 50 + b"\r\n")
    assert refusal is TOO_MANY_HOPS
    assert refusal.encode() == b"554 5.4.6 Too many hops: this message is in a loop\r\n"


def test_a_header_without_an_end_is_refused_when_more_follows() -> None:
    assert clean(b"A: b\r\n" * 1000, complete=False) is HEADER_TOO_LARGE
    assert isinstance(clean(b"A: b\r\n\r\npart of the bod", complete=False), Cleaned)


def test_the_date_follows_the_time() -> None:
    cleaner = Cleaner("h")
    assert [cleaner.date(now) for now in (0, 0.9, 1, 951827696, 0)] == [
        "Thu, 01 Jan 1970 00:00:00 +0000",
        "Thu, 01 Jan 1970 00:00:00 +0000",
        "Thu, 01 Jan 1970 00:00:01 +0000",
        "Tue, 29 Feb 2000 12:34:56 +0000",
        "Thu, 01 Jan 1970 00:00:00 +0000",
    ]


def test_many_clients_are_told_apart() -> None:
    cleaner = Cleaner("h")
    for round_ in range(2):
        for number in range(1500):
            peer = Peer("192.0.2.1", helo=f"c{number}", protocol="SMTP")
            assert f"from c{number} " in cleaner.received(peer, "id", "", round_)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", ""),
        ("alice", "alice@d.example"),
        ("postmaster", "postmaster@d.example"),
        ("alice@x", "alice@x"),
        ('"a b"', '"a b"@d.example'),
        ('"a@b"', '"a@b"@d.example'),
        ('"a@b"@x', '"a@b"@x'),
        ("jürgen", "jürgen@d.example"),
    ],
)
def test_qualify(address: str, expected: str) -> None:
    assert qualify(address, "d.example") == expected


@pytest.mark.parametrize("message", [b"A: b\r\n\r\nc", b"\r\nx", b"A: b\r\nC:\r\n\r\n\r\n\r\n"])
def test_the_end_of_the_header_is_found_in_pieces_too(message: bytes) -> None:
    whole_ = header_end(message)
    assert whole_ >= 0
    seen, found = 0, -1
    for size in range(1, len(message) + 1):
        if (found := header_end(message[:size], seen)) >= 0:
            break
        seen = size
    assert found == whole_


BYTES = st.lists(
    st.sampled_from(
        [
            b"\r\n",
            b"\r\n\r\n",
            b"From: x",
            b"bcc: y",
            b"Return-Path: z",
            b"Received: q",
            b" ",
            b":",
            b"\n",
            b"\r",
            b"\xe4",
        ]
    )
    | st.binary(max_size=5),
    max_size=25,
).map(b"".join)


@given(BYTES, st.booleans(), st.booleans())
def test_whatever_comes_the_body_stays(head: bytes, trusted: bool, remove_bcc: bool) -> None:
    head = without_bcc(given := head) if remove_bcc else head
    if remove_bcc and (body := header_end(given)) >= 0:
        assert head.endswith(given[body:])
    text = whole(head, trusted=trusted)
    end = header_end(head)
    assert text.startswith(RECEIVED)
    assert text.endswith(head[end:] if end >= 0 else b"")
    if not trusted and b"eturn-" not in head and b"From" not in head:
        assert text in (RECEIVED + head, RECEIVED + b"\r\n" + head)


@given(st.binary(max_size=40), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_whatever_the_envelope_says_the_fields_stay_lines(head: bytes, helo: str, sender: str, recipient: str) -> None:
    cleaned = clean(head, peer=Peer("192.0.2.1", helo=helo, protocol="SMTP"), sender=sender, recipient=recipient)
    assert isinstance(cleaned, Cleaned)
    for line in cleaned.prefix.split(b"\r\n")[:-1]:
        assert line == b"" or line.startswith((b"\t", b"Received: from ", b"From: <", b"Date: ", b"Message-ID: <"))
        assert b"\r" not in line
        assert b"\n" not in line


def test_dates_are_rfc_5322() -> None:
    assert format_date(NOW) == "Sun, 22 Nov 2026 07:51:53 +0000"
