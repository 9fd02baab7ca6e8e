"""First bytes of other protocols, as their clients send them."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.abuse.foreign import classify


def client_hello(version: ssl.TLSVersion) -> bytes:
    """What a TLS client says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(into, out, server_hostname="mx.test")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return out.read()


FIRST_BYTES = [
    ("TLS", client_hello(ssl.TLSVersion.TLSv1_2)),
    ("TLS", client_hello(ssl.TLSVersion.TLSv1_3)),
    # a scanner's hello in the form of SSL 2.0
    ("TLS", b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80\x03\x00\x80\x04\x00\x80\x05"),
    ("HTTP", b"GET / HTTP/1.1\r\nHost: mx.test:25\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"),
    ("HTTP", b"POST /cgi-bin/x HTTP/1.0\r\nContent-Length: 4\r\n\r\na=b"),
    ("HTTP", b"CONNECT mail.example:25 HTTP/1.1\r\nHost: mail.example:25\r\n\r\n"),
    ("HTTP", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("SIP", b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm;branch=foo\r\n"),
    ("RTSP", b"OPTIONS / RTSP/1.0\r\n\r\n"),
    ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"),
    ("PROXY protocol", b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n"),
    ("PROXY protocol", b"PROXY UNKNOWN\r\n"),
    ("PROXY protocol", b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c\xc0\0\2\7\xc0\0\2\1\xdc\x04\0\x19"),
    (
        "RDP",
        b"\x03\x00\x00\x2f\x2a\xe0\x00\x00\x00\x00\x00Cookie: mstshash=Administr\r\n\x01\x00\x08\x00\x03\x00\x00\x00",
    ),
    ("RDP", b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x0b\x00\x00\x00"),
    ("SMB", b"\x00\x00\x00\x2f\xffSMBr\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
    ("SMB", b"\x00\x00\x00\x66\xfeSMB\x40\x00\x01\x00\x00\x00\x00\x00\x00\x00\x1f\x00"),
    ("SOCKS", b"\x04\x01\x00\x19\xc0\x00\x02\x07\x00"),
    ("SOCKS", b"\x05\x01\x00"),
    ("SOCKS", b"\x05\x04\x00\x01\x02\x80"),
    ("telnet", b"\xff\xfb\x1f\xff\xfb\x20\xff\xfb\x18\xff\xfb\x27\xff\xfd\x01\xff\xfb\x03\xff\xfd\x03"),
    ("binary data", b"\x00\x0c\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00"),  # DNS over TCP
    ("binary data", b"\x01\x01\x00\x1a\x00\x00\x00\x00"),  # Modbus or LDAP scanners
    ("binary data", b"\x00\x00\x00\r\n"),
    ("message header", b"Received: from client.test\r\n"),
    ("message header", b"Subject: hello\r\n"),
    ("message header", b"X-Spam:\r\n"),
    ("empty line", b"\r\n"),
]

COMMANDS = [
    b"EHLO client.test\r\n",
    b"ehlo [IPv6:2001:db8::1]\r\n",
    b"MAIL FROM:<a@client.test> SIZE=1\r\n",
    b"RCPT TO:<alice@example.test>\r\n",
    b"mail from: <a@client.test>\r\n",
    b"NOOP a: b\r\n",
    b"NONSENSE\r\n",
    b"EHLO \xff\xfe\r\n",
    b"MAIL FROM:<a\0b@client.test>\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"AGFsaWNlAHNlY3JldA==\r\n",
    b"PROXY\r\n",
    b"HELO\tclient\r\n",
    b"\r\nEHLO client.test\r\n",
]


@pytest.mark.wish(30)
@pytest.mark.parametrize(("name", "data"), FIRST_BYTES)
def test_other_protocols_are_recognised(name: str, data: bytes) -> None:
    assert classify(data) == name


@pytest.mark.parametrize(("name", "data"), [pair for pair in FIRST_BYTES if pair[0] != "empty line"])
def test_the_beginning_is_no_other_protocol_than_the_whole(name: str, data: bytes) -> None:
    found = [classify(data[:size]) for size in range(1, len(data) + 1)]
    first = next(kind for kind in found if kind not in (None, "empty line"))
    assert first == name


@pytest.mark.parametrize("data", COMMANDS)
def test_commands_are_none(data: bytes) -> None:
    assert [classify(data[:size]) for size in range(len(data) + 1) if data[:size] != b"\r\n"] == [None] * len(
        [size for size in range(len(data) + 1) if data[:size] != b"\r\n"]
    )


@given(st.binary(max_size=600))
def test_any_bytes_have_an_answer(data: bytes) -> None:
    assert classify(data) in {None, *(name for name, _ in FIRST_BYTES)}


@given(st.text(st.characters(min_codepoint=65, max_codepoint=90), min_size=4, max_size=4), st.text())
def test_what_begins_as_a_command_is_not_binary(verb: str, rest: str) -> None:
    assert classify(f"{verb} {rest}".encode()) != "binary data"
