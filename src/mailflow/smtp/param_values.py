"""What stands behind "=" in the parameters of MAIL and RCPT: one reader for each, and the tables of keywords.

A reader gives the value, checked, or raises `ParamError` with the reply. `MAIL_WORDS` and `RCPT_WORDS` are what every
session knows; a profile that offers more takes more (`profile.Offers.mail_words`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from mailflow.smtp.reply import Reply

# RFC 1870 §4: at most 20 digits.
SIZE_DIGITS = 20
# RFC 3461 §4.4 and §4.2, in characters of xtext.
ENVID_CHARACTERS = 100
ORCPT_CHARACTERS = 500

# RFC 4865 §4 and RFC 2852 §4: at most nine digits of seconds.
_SECONDS = re.compile(r"[0-9]{1,9}\Z")
_BY = re.compile(r"([+-]?[0-9]{1,9});([NR]T?)\Z", re.IGNORECASE)
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})\Z",
    re.IGNORECASE,
)
AUTH_CHARACTERS = 500
"""RFC 4954 §3: what AUTH= may add to a MAIL command."""

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+\Z")  # RFC 3461 §4
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z")
# RFC 6533 §3: utf-8-addr-unitext and -xtext; "\x{...}" stands for a character, no "+" or "=" otherwise.
_UTF8_ADDRESS = re.compile("[!-*,-<>-~\u00a0-\U0010ffff]+\\Z")

Words = Mapping[str, tuple[str, Callable[[str], Any]]]
"""Keyword: the field for its value, and how the value is read."""


class ParamError(ValueError):
    """The parameters cannot be accepted; `reply` says so to the client."""

    def __init__(self, code: int, text: str) -> None:
        self.reply = Reply(code, "5.5.4", (text,))
        super().__init__(text)


def decode_xtext(text: str) -> str | None:
    """What xtext stands for (RFC 3461 §4), as UTF-8; None when it is none."""
    if _XTEXT.match(text) is None:
        return None
    raw = re.sub(rb"\+([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode())
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


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


def _binary_body(value: str) -> str:
    return "BINARYMIME" if value.upper() == "BINARYMIME" else _body(value)


def _requiretls(value: str) -> bool:
    if value:
        raise ParamError(501, "REQUIRETLS takes no value")
    return True


def _auth(value: str) -> str:
    if len(value) > AUTH_CHARACTERS or _XTEXT.match(value) is None:
        raise ParamError(501, "AUTH is not xtext or too long")
    return value


def _hold_for(value: str) -> int:
    if _SECONDS.match(value) is None or int(value) == 0:
        raise ParamError(501, "HOLDFOR is not a number of seconds")
    return int(value)


def _hold_until(value: str) -> float:
    try:
        if _DATE_TIME.match(value):
            return datetime.fromisoformat(value.upper()).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        pass
    raise ParamError(501, "HOLDUNTIL is not a date and time (RFC 3339)")


def by_reader(least: int) -> Callable[[str], tuple[int, str]]:
    """A reader for BY= that takes no return time below `least` seconds (RFC 2852 §4.1)."""

    def by(value: str) -> tuple[int, str]:
        found = _BY.match(value)
        if found is None:
            raise ParamError(501, "BY is not seconds;mode")
        seconds, mode = int(found[1]), found[2].upper()
        if mode.startswith("R") and seconds < max(least, 1):
            raise ParamError(555, "BY is too soon")
        return seconds, mode

    return by


MAIL_WORDS: Words = {
    "SIZE": ("size", _size),
    "BODY": ("body", _body),
    "SMTPUTF8": ("smtputf8", _smtputf8),
    "RET": ("ret", _ret),
    "ENVID": ("envid", _envid),
}
BINARY_WORDS: Words = {"BODY": ("body", _binary_body)}
AUTH_WORDS: Words = {"AUTH": ("auth", _auth)}
TLS_WORDS: Words = {"REQUIRETLS": ("requiretls", _requiretls)}
HOLD_WORDS: Words = {"HOLDFOR": ("hold_for", _hold_for), "HOLDUNTIL": ("hold_until", _hold_until)}
RCPT_WORDS: Words = {
    "NOTIFY": ("notify", _notify),
    "ORCPT": ("orcpt", _orcpt),
}
