"""What a native hook may answer: typed, frozen decisions, checked where they are made.

None and `accept()` mean the same. Words that go to a client or into a header are checked for line ends here, so that a
mistake raises in the hook that makes it (and its client hears 451) and never reaches the wire.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from mailflow.smtp.reply import Reply

REPLY_TEXT_CHARACTERS = 400
"""Longest text of a reply: RFC 5321 §4.5.3.1.5 allows a line of 512 octets, with code, status and CR LF."""
HEADER_LINE_CHARACTERS = 998
"""Longest line of an added header field, without CR LF (RFC 5322 §2.1.1)."""

_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")  # RFC 3463 §2
_FIELD_NAME = re.compile(r"[!-9;-~]+\Z")  # RFC 5322 §3.6.8


class Accept(NamedTuple):
    """No objection."""


class Refusal(NamedTuple):
    """The command or message is refused with this reply."""

    reply: Reply


class Discard(NamedTuple):
    """The message is acknowledged and thrown away; the session goes on."""


class Hold(NamedTuple):
    """The message is accepted and stays in the queue until an operator releases or deletes it."""

    reason: str


class Edited(NamedTuple):
    """The envelope or the message is changed; None and () leave a part as it is. Where what may be changed:

    on_mail: `sender`, `add_headers` · on_rcpt: `recipients` (they stand in for this one), `add_headers` · on_data: everything.
    """

    sender: str | None = None
    """The new envelope sender; "" for the null sender."""
    recipients: Sequence[str] | None = None
    """The new envelope recipients. They go through the routing as the client's do, but may be anywhere: the program answers for them."""
    add_headers: Sequence[tuple[str, str]] = ()
    """Header fields put in front of the message: (name, value)."""
    content: bytes | None = None
    """The new message, header and body; line ends become CR LF."""
    hold: str = ""
    """Why the message goes on hold, if it does."""


Decision = Accept | Refusal | Discard | Hold | Edited
"""What a hook may return; None is `accept()`."""


def accept() -> Accept:
    """No objection; the same as None."""
    return Accept()


def reject(text: str = "Rejected", *, code: int = 550, status: str = "5.7.1") -> Refusal:
    """Refused for good. `code` is 500 to 599, `status` an enhanced code (RFC 3463). Raises ValueError."""
    return Refusal(_reply(text, code, status, 5))


def defer(text: str = "Try again later", *, code: int = 451, status: str = "4.7.1") -> Refusal:
    """Refused for now. `code` is 400 to 499; 421 ends the session. Raises ValueError."""
    return Refusal(_reply(text, code, status, 4))


def discard() -> Discard:
    """Acknowledged and thrown away."""
    return Discard()


def hold(reason: str) -> Hold:
    """Accepted and put on hold; `reason` is what `mailflow queue list` shows."""
    return Hold(_clean(reason, "reason"))


def quarantine(reason: str) -> Hold:
    """Held as dangerous: `hold` whose reason begins with "quarantine:", for `mailflow queue list --reason`."""
    return Hold(f"quarantine: {_clean(reason, 'reason')}")


def header_fields(fields: Sequence[tuple[str, str]]) -> bytes:
    """The lines of added header fields, each with CR LF. Raises ValueError for what cannot be one."""
    lines = []
    for name, value in fields:
        line = f"{name}: {value}"
        if _FIELD_NAME.match(name) is None:
            raise ValueError(f"not the name of a header field: {name!r}")
        if not (line.isascii() and line.isprintable()) or len(line) > HEADER_LINE_CHARACTERS:
            raise ValueError(f"not one line of at most {HEADER_LINE_CHARACTERS} ASCII characters: {name}: {value!r}")
        lines.append(f"{line}\r\n")
    return "".join(lines).encode()


def _reply(text: str, code: int, status: str, kind: int) -> Reply:
    if code // 100 != kind:
        raise ValueError(f"{code} is no code from {kind}00 to {kind}99")
    if _STATUS.match(status) is None or not status.startswith(str(kind)):
        raise ValueError(f"{status!r} is no enhanced status code {kind}.X.X")
    return Reply(code, status, (_clean(text, "text"),))


def _clean(text: str, what: str) -> str:
    if not text or not text.isprintable() or len(text) > REPLY_TEXT_CHARACTERS:
        raise ValueError(f"the {what} is not one line of 1 to {REPLY_TEXT_CHARACTERS} characters: {text!r}")
    return text
