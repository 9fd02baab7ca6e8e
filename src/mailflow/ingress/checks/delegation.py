r"""The language of Postfix's policy delegation: requests as bytes, replies as verdicts. Pure.

Source: Postfix's SMTPD_POLICY_README (attributes) and access(5) (actions). A request is lines `name=value`, ended by
an empty line; a reply is one line `action=…` and an empty line. What is said of unknown attributes there holds here
too: they are ignored.

A service's text is foreign: it reaches the client and the header only cleaned (`words.py`). Actions that mailflow
has not (FILTER, REDIRECT, BCC) change nothing, and the log says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from mailflow.ingress.checks.words import clean
from mailflow.ingress.verdict import Action, Verdict
from mailflow.smtp.reply import reply

REPLY_LIMIT = 8192
"""Bytes of a service's answer."""
VALUE_LIMIT = 1024
"""Characters of one attribute's value."""
HEADER_LIMIT = 998
"""Characters of a header line that is put in front (RFC 5322 §2.1.1)."""

_FIELD = re.compile(r"[!-9;-~]+:[ -~]*")
_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)", re.ASCII)
_NOT_HERE = ("FILTER", "REDIRECT", "BCC", "DEFER_IF_REJECT")


class PolicyReplyError(Exception):
    """The service's answer is no answer."""


class Answer(NamedTuple):
    """What a policy service wants."""

    verdict: Verdict | None = None
    permits: bool = False
    """OK: what else there is of policy at this stage is not asked."""
    note: str = ""
    """For the log: WARN and INFO, and what could not be done."""


def encode(attributes: Iterable[tuple[str, str]]) -> bytes:
    """The request. Values cannot end a line: control characters become question marks."""
    lines = [f"{name}={_value(value)}\n" for name, value in attributes]
    return ("request=smtpd_access_policy\n" + "".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _value(value: str) -> str:
    value = value[:VALUE_LIMIT]
    return value if value.isprintable() else "".join(c if c >= " " and c != "\x7f" else "?" for c in value)


def parse_reply(buffer: bytes, limit: int = REPLY_LIMIT) -> str | None:
    """The action of a complete reply at the start of the buffer, None while more is to come.

    Raises PolicyReplyError when there is no action in it, something behind it, or when it is longer than `limit` bytes.
    """
    if len(buffer) > limit:
        raise PolicyReplyError("the answer is too long")
    if buffer.startswith((b"\n", b"\r\n")):
        raise PolicyReplyError("the answer is empty")
    end = re.search(rb"\r?\n\r?\n", buffer)
    if end is None:
        return None
    if end.end() != len(buffer):
        raise PolicyReplyError("there is more than one answer")
    for line in buffer[: end.start()].decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip() == "action":
            return value.strip()
    raise PolicyReplyError("there is no action in the answer")


def understand(action: str, rule: str) -> Answer:
    """What an action means; `rule` names the service in the log. Raises PolicyReplyError for an unknown one."""
    word, _, text = action.partition(" ")
    word, text = word.upper(), text.strip()
    if word in ("DUNNO", ""):
        return Answer()
    if re.fullmatch(r"[45]\d\d", word, re.ASCII):
        return Answer(_refusal(int(word), text, rule))
    if word in ("OK", "PERMIT") or re.fullmatch(r"\d+", word, re.ASCII):  # access(5): all numerical is OK
        return Answer(permits=True)
    if word == "REJECT":
        return Answer(_refusal(554, text, rule))
    if word in ("DEFER", "DEFER_IF_PERMIT"):
        return Answer(_refusal(450, text, rule))
    if word in ("WARN", "INFO"):
        return Answer(note=clean(text) or word.lower())
    if word in _NOT_HERE:
        return Answer(note=f"{word} is not supported and was ignored")
    return Answer(_mark(word, text, rule))


def _mark(word: str, text: str, rule: str) -> Verdict:
    if word == "DISCARD":
        return Verdict(Action.DISCARD, None, clean(text), rule)
    if word == "HOLD":
        return Verdict(Action.HOLD, None, clean(text) or f"held by {rule}", rule)
    if word == "PREPEND":
        line = clean(text, HEADER_LIMIT)
        if not _FIELD.fullmatch(line):
            raise PolicyReplyError("PREPEND without a header field")
        return Verdict(Action.HEADER, None, "", rule, line.encode("ascii") + b"\r\n")
    raise PolicyReplyError(f"unknown action {clean(word, 40)}")


def _refusal(code: int, text: str, rule: str) -> Verdict:
    """The reply: with the service's enhanced status code where it fits the code (RFC 2034 §4)."""
    status = f"{code // 100}.7.1"
    given = _STATUS.match(text)
    if given:
        text = text[given.end() :]
        if given[1][0] == status[0]:
            status = given[1]
    words = clean(text) or "Refused by policy"
    # RFC 5321 §3.8: 421 closes; RFC 7504 §4: so does 521
    return Verdict(Action.CLOSE if code in (421, 521) else Action.REFUSE, reply(code, status, words), words, rule)
