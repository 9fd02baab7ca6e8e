"""Command lines, and the parameters of MAIL and RCPT (RFC 5321 §4.1.1.11): text in, `MailParams` or `RcptParams` out.

`decode_line` makes text of a command line, or finds that it cannot be one.
`parse_mail_params` and `parse_rcpt_params` take what follows the path. They raise `ParamError`, which carries the
reply: 555 5.5.4 for a keyword that we did not offer, 501 5.5.4 for one that is there twice or whose value is wrong.
Which keywords are known is told by a table (param_values.py), which depends on what the session was offered; a new
extension adds one line there and one field here. Values are checked, not interpreted: what RET or NOTIFY cause is the
business of those who write reports. xtext stays encoded, as it is passed on like that.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mailflow.smtp.address import ORDINARY_ADDRESS
from mailflow.smtp.param_values import MAIL_WORDS, RCPT_WORDS, SIZE_DIGITS, ParamError, Words

# Whole command lines as nearly every client sends them; for `usual_path`. Each part is so short that no limit of a
# line can be passed: RFC 5321 §4.5.3.1.4 has every server take 512 octets.
USUAL_MAIL = re.compile(rf"MAIL FROM: ?<({ORDINARY_ADDRESS})>(?: ([!-~ ]{{0,300}}))?\Z".encode())
USUAL_RCPT = re.compile(rf"RCPT TO: ?<({ORDINARY_ADDRESS})>(?: ([!-~ ]{{0,300}}))?\Z".encode())
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z")


class MailParams(NamedTuple):
    """What MAIL asked for besides its sender."""

    size: int | None = None
    """SIZE=: the message's size in bytes, as announced (RFC 1870)."""
    body: str = ""
    """BODY=: "", "7BIT", "8BITMIME" (RFC 6152) or, where it is offered, "BINARYMIME" (RFC 3030)."""
    smtputf8: bool = False
    """RFC 6531."""
    ret: str = ""
    """RET=: "", "FULL" or "HDRS" (RFC 3461 §4.3)."""
    envid: str = ""
    """ENVID= in xtext (RFC 3461 §4.4)."""
    requiretls: bool = False
    """RFC 8689."""
    auth: str = ""
    """AUTH= in xtext, "<>" for nobody known (RFC 4954 §5)."""
    by: tuple[int, str] | None = None
    """BY=: seconds from now, and the mode "R", "N", "RT" or "NT" (RFC 2852 §4)."""
    hold_for: int = 0
    """HOLDFOR= in seconds (RFC 4865 §4)."""
    hold_until: float = 0.0
    """HOLDUNTIL= in seconds since 1970 (RFC 4865 §4)."""


class RcptParams(NamedTuple):
    """What RCPT asked for besides its recipient."""

    notify: str = ""
    """NOTIFY= in upper case: "", "NEVER", or a comma-separated list of SUCCESS, FAILURE, DELAY (RFC 3461 §4.1)."""
    orcpt: str = ""
    """ORCPT=: "type;address", the address in xtext (RFC 3461 §4.2)."""


NO_MAIL_PARAMS = MailParams()
NO_RCPT_PARAMS = RcptParams()


def decode_line(line: bytes) -> str | None:
    """A command line without its CR LF as text; None when it holds control characters (NUL, a bare CR or LF, TAB).

    UTF-8 passes here, for any command: whether SMTPUTF8 was asked for is known only after parsing (RFC 6531 §3.4).
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if text.isprintable():
        return text
    if text.isascii() or any(char < " " or "\x7f" <= char < "\xa0" for char in text):
        return None
    return text


def usual_path(form: re.Pattern[bytes], line: bytes) -> tuple[str, str] | None:
    """Address and parameters of a line that has the form USUAL_MAIL or USUAL_RCPT. None: it takes another look."""
    usual = form.match(line)
    if usual is None:
        return None
    path, words = usual.groups(b"")
    address = path.decode()  # bytes try the left side of `in` as a number first, by way of an exception
    if ".." in address or "-." in address or ".-" in address:
        return None
    return address, words.decode()


def parse_mail_params(text: str, words: Words = MAIL_WORDS) -> MailParams:
    """Reads the parameters of MAIL, those in `words`. Raises ParamError."""
    if text[:5] == "SIZE=" and text[5:].isdigit() and text.isascii() and len(text) <= 5 + SIZE_DIGITS:
        return MailParams(int(text[5:]))  # what many clients send, and nothing else
    return MailParams(**_parse(text, words)) if text else NO_MAIL_PARAMS


def parse_rcpt_params(text: str) -> RcptParams:
    """Reads the parameters of RCPT. Raises ParamError."""
    return RcptParams(**_parse(text, RCPT_WORDS)) if text else NO_RCPT_PARAMS


def _parse(text: str, known: Words) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for word in text.split(" "):
        if not word:
            continue
        keyword, equals, value = word.partition("=")
        entry = known.get(keyword.upper())
        if entry is None:
            if _KEYWORD.match(keyword) is None:
                raise ParamError(501, "Malformed parameter")
            raise ParamError(555, "Parameter not recognized or not implemented")
        field, parse = entry
        if field in values:
            raise ParamError(501, f"{keyword.upper()} given twice")
        if equals and not value:
            raise ParamError(501, f"{keyword.upper()} has an empty value")
        values[field] = parse(value)
    return values
