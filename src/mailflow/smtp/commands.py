"""Command lines, and the parameters of MAIL and RCPT (RFC 5321 §4.1.1.11): text in, `MailParams` or `RcptParams` out.

`decode_line` makes text of a command line, or finds that it cannot be one.
`parse_mail_params` and `parse_rcpt_params` take what follows the path. They raise `ParamError`, which carries the
reply: 555 5.5.4 for a keyword that we did not offer, 501 5.5.4 for one that is there twice or whose value is wrong.
A new extension adds one line to `_MAIL` or `_RCPT` and one field. Values are checked, not interpreted: what RET or
NOTIFY cause is the business of those who write reports. xtext stays encoded, as it is passed on like that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from mailflow.smtp.address import ORDINARY_ADDRESS
from mailflow.smtp.reply import Reply

# RFC 1870 §4: at most 20 digits.
SIZE_DIGITS = 20
# RFC 3461 §4.4 and §4.2, in characters of xtext.
ENVID_CHARACTERS = 100
ORCPT_CHARACTERS = 500

# Whole command lines as nearly every client sends them; for `usual_path`. Each part is so short that no limit of a
# line can be passed: RFC 5321 §4.5.3.1.4 has every server take 512 octets.
USUAL_MAIL = re.compile(rf"MAIL FROM: ?<({ORDINARY_ADDRESS})>(?: ([!-~ ]{{0,300}}))?\Z".encode())
USUAL_RCPT = re.compile(rf"RCPT TO: ?<({ORDINARY_ADDRESS})>(?: ([!-~ ]{{0,300}}))?\Z".encode())
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+\Z")  # RFC 3461 §4
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z")
# RFC 6533 §3: utf-8-addr-unitext and -xtext; "\x{...}" stands for a character, no "+" or "=" otherwise.
_UTF8_ADDRESS = re.compile("[!-*,-<>-~\u00a0-\U0010ffff]+\\Z")


class MailParams(NamedTuple):
    """What MAIL asked for besides its sender."""

    size: int | None = None
    """SIZE=: the message's size in bytes, as announced (RFC 1870)."""
    body: str = ""
    """BODY=: "", "7BIT" or "8BITMIME" (RFC 6152)."""
    smtputf8: bool = False
    """RFC 6531."""
    ret: str = ""
    """RET=: "", "FULL" or "HDRS" (RFC 3461 §4.3)."""
    envid: str = ""
    """ENVID= in xtext (RFC 3461 §4.4)."""


class RcptParams(NamedTuple):
    """What RCPT asked for besides its recipient."""

    notify: str = ""
    """NOTIFY= in upper case: "", "NEVER", or a comma-separated list of SUCCESS, FAILURE, DELAY (RFC 3461 §4.1)."""
    orcpt: str = ""
    """ORCPT=: "type;address", the address in xtext (RFC 3461 §4.2)."""


NO_MAIL_PARAMS = MailParams()
NO_RCPT_PARAMS = RcptParams()


class ParamError(ValueError):
    """The parameters cannot be accepted; `reply` says so to the client."""

    def __init__(self, code: int, text: str) -> None:
        self.reply = Reply(code, "5.5.4", (text,))
        super().__init__(text)


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


def parse_mail_params(text: str) -> MailParams:
    """Reads the parameters of MAIL. Raises ParamError."""
    if text[:5] == "SIZE=" and text[5:].isdigit() and text.isascii() and len(text) <= 5 + SIZE_DIGITS:
        return MailParams(int(text[5:]))  # what many clients send, and nothing else
    return MailParams(**_parse(text, _MAIL)) if text else NO_MAIL_PARAMS


def parse_rcpt_params(text: str) -> RcptParams:
    """Reads the parameters of RCPT. Raises ParamError."""
    return RcptParams(**_parse(text, _RCPT)) if text else NO_RCPT_PARAMS


def _parse(text: str, known: dict[str, tuple[str, Callable[[str], Any]]]) -> dict[str, Any]:
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


def _size(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= SIZE_DIGITS):
        raise ParamError(501, "SIZE is not a number")
    return int(value)


def _body(value: str) -> str:
    value = value.upper()
    if value not in ("8BITMIME", "7BIT"):
        raise ParamError(501, "BODY is neither 7BIT nor 8BITMIME")
    return value


def _smtputf8(value: str) -> bool:
    if value:
        raise ParamError(501, "SMTPUTF8 takes no value")
    return True


def _ret(value: str) -> str:
    value = value.upper()
    if value not in ("FULL", "HDRS"):
        raise ParamError(501, "RET is neither FULL nor HDRS")
    return value


def _envid(value: str) -> str:
    if len(value) > ENVID_CHARACTERS or _XTEXT.match(value) is None:
        raise ParamError(501, "ENVID is not xtext or too long")
    return value


def _notify(value: str) -> str:
    value = value.upper()
    words = value.split(",")
    if value != "NEVER" and (len(set(words)) != len(words) or not {"SUCCESS", "FAILURE", "DELAY"}.issuperset(words)):
        raise ParamError(501, "NOTIFY is neither NEVER nor a list of SUCCESS, FAILURE, DELAY")
    return value


def _orcpt(value: str) -> str:
    kind, _, address = value.partition(";")
    form = _UTF8_ADDRESS if kind.lower() == "utf-8" else _XTEXT
    if len(value) > ORCPT_CHARACTERS or _ADDRESS_TYPE.match(kind) is None or form.match(address) is None:
        raise ParamError(501, "ORCPT is not type;xtext or too long")
    return value


# Keyword: (field, how its value is read). AUTH=, MT-PRIORITY=, HOLDFOR= and others will be further lines here.
_MAIL: dict[str, tuple[str, Callable[[str], Any]]] = {
    "SIZE": ("size", _size),
    "BODY": ("body", _body),
    "SMTPUTF8": ("smtputf8", _smtputf8),
    "RET": ("ret", _ret),
    "ENVID": ("envid", _envid),
}
_RCPT: dict[str, tuple[str, Callable[[str], Any]]] = {
    "NOTIFY": ("notify", _notify),
    "ORCPT": ("orcpt", _orcpt),
}
