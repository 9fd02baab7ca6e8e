"""What a program's message looks like on the wire."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from mailflow.cleanup import without_bcc
from mailflow.submission import message_bytes, message_recipients, message_sender


def written(**fields: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in fields.items():
        message[name] = value
    message.set_content("Text\n")
    return message


def test_a_header_beyond_ascii_is_encoded_while_the_addresses_are_ascii() -> None:
    """RFC 5322 headers are ASCII; only SMTPUTF8 lifts that, and no address here asks for it."""
    content = message_bytes(written(Subject="Grüße", To="Jörg <joerg@x.example>"))
    assert content.isascii()
    assert b"Subject: =?utf-8?" in content


def test_an_address_beyond_ascii_is_written_as_it_is() -> None:
    assert "To: jörg@x.example\r\n".encode() in message_bytes(written(To="jörg@x.example"))


@pytest.mark.wish(42)
def test_bcc_leaves_the_message_but_not_the_recipients() -> None:
    message = written(From="a@x.example", To="b@x.example", Bcc="c@x.example")
    assert b"c@x.example" not in message_bytes(message)
    assert message["Bcc"] == "c@x.example", "the caller's message is not changed"
    assert message_recipients(message) == ["b@x.example", "c@x.example"]
    assert message_sender(message) == "a@x.example"


def test_line_ends_become_crlf() -> None:
    assert message_bytes(b"a: b\n\nx\ry\r\nz") == b"a: b\r\n\r\nx\r\ny\r\nz\r\n"


def test_without_bcc_takes_folded_fields_and_leaves_the_body() -> None:
    content = b"To: a\r\nBCC: b,\r\n c\r\nX: y\r\n\r\nBcc: in the body\r\n"
    assert without_bcc(content) == b"To: a\r\nX: y\r\n\r\nBcc: in the body\r\n"
