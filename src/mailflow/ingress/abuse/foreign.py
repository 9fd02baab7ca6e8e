"""Which protocol speaks, when it is not SMTP (wish 30): the first bytes tell. Pure.

The forms: TLS ClientHello (RFC 8446 §5.1) and that of SSL 2.0, HTTP (RFC 9112 §3), SIP and RTSP requests, SSH
(RFC 4253 §4.2), PROXY protocol header (haproxy's proxy-protocol.txt §2), RDP over TPKT (MS-RDPBCGR §2.2.1.1), SMB
(MS-SMB2 §2.1), SOCKS 4 and 5 (RFC 1928 §3), telnet negotiation (RFC 854), and the header of a message.
"""

from __future__ import annotations

import re

HARMLESS = frozenset(("empty line", "telnet"))
"""What a person at a terminal may send."""

_PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n"
_REQUEST = re.compile(rb"(?:[A-Z]{3,16}) [^ \r\n]+ (HTTP|SIP|RTSP)/\d")
_FIELD = re.compile(rb"[!-9;-~]{1,76}:(?:[ \t\r]|$)")
# A tab is no control character of binary data, nor are the line ends.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_EXAMINED_BYTES = 256
_VERB_BYTES = 4


def classify(data: bytes) -> str | None:
    """What these bytes are the beginning of, where a command was due; None for what may be a command.

    "TLS", "HTTP", "SIP", "RTSP", "SSH", "PROXY protocol", "RDP", "SMB", "SOCKS", "telnet", "message header",
    "binary data", "empty line".
    """
    if data == b"\r\n":
        return "empty line"
    if not data or _PROXY_2.startswith(data):
        return None
    if data[0] < 0x20 or data[0] >= 0x80:
        return _binary(data)
    if data.startswith(b"SSH-"):
        return "SSH"
    if data.startswith((b"PROXY TCP", b"PROXY UNKNOWN")):
        return "PROXY protocol"
    data = data[:_EXAMINED_BYTES]
    request = _REQUEST.match(data)
    if request:
        return request[1].decode()
    if _FIELD.match(data):
        return "message header"
    # A stray control character in what begins as a command is that command's error, and no other protocol.
    return "binary data" if _CONTROL.search(data[:_VERB_BYTES]) else None


def _binary(data: bytes) -> str | None:
    """What begins with a byte that begins no command."""
    if data.startswith(_PROXY_2):
        return "PROXY protocol"
    if data[:2] == b"\x16\x03" or (len(data) > 3 and data[0] >= 0x80 and data[2:4] in (b"\x01\x03", b"\x01\x00")):
        return "TLS"
    if data[0] == 0xFF:
        return "telnet"
    if len(data) > 5 and data[:2] == b"\x03\x00" and data[5] == 0xE0:
        return "RDP"
    if data[4:8] in (b"\xffSMB", b"\xfeSMB"):
        return "SMB"
    if _is_socks(data):
        return "SOCKS"
    # The others are known by their eighth byte; a single NUL in a line of text is known when the line ends.
    whole = len(data) >= 8 or data.endswith(b"\r\n")
    return "binary data" if whole and _CONTROL.search(data[:_EXAMINED_BYTES]) else None


def _is_socks(data: bytes) -> bool:
    if data[0] == 4:
        return len(data) > 1 and data[1] in (1, 2) and (len(data) == 2 or len(data) >= 8)
    return data[0] == 5 and len(data) > 1 and len(data) == 2 + data[1]
