"""Delivery reports as mail: what the sender hears about recipients that failed, wait, or were reached.

Callers: `notable` picks the reports that the sender asked to hear of and may be told; `bounce` writes the message for
them, `bounce_options` what its envelope must ask for. The flow puts it into the queue with the null sender, in the
transaction that settles those recipients. Form: multipart/report (RFC 6522) of a text for people, a
message/delivery-status (RFC 3464, addresses beyond ASCII as RFC 6533 §3) and the message or its header.

Invariants: never a report about a report (null sender, double-bounce address: RFC 5321 §6.1, wish 19); never raises
on what remote hosts said or senders wrote; the result is ASCII but for the included message, whose bytes are untouched.
It does not decide what failed (`delivery.trouble`) nor when (`queue`); the words for people are all in `_WORDS`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Literal, NamedTuple

from mailflow.cleanup import format_date, header_end
from mailflow.envelope import Message, Options
from mailflow.report import Action, DeliveryReport
from mailflow.setting import Duration, Section, Size, setting


class BounceSettings(Section):
    """What the sender is told about mail that could not be delivered."""

    include: Literal["headers", "message"] = setting("headers", postfix="bounce_size_limit")
    """What of the message a report brings back when the sender does not say (RET=): its header, or all of it."""
    include_size: Size = setting("50KiB", postfix="bounce_size_limit")
    """A message larger than this comes back as its header only; a header is cut to this size."""
    from_address: str = setting("")
    """The address in the From: field; default: MAILER-DAEMON at the server's host name."""
    delay_after: Duration = setting("4h", postfix="delay_warning_time")
    """How late a message is when its sender hears that it has not been delivered yet; it is tried on. 0: never."""
    delay_to: Literal["asked", "all"] = setting("asked")
    """Who hears of delays: senders who asked (NOTIFY=DELAY), or all but those who declined."""
    double_bounce_user: str = setting("double-bounce", postfix="double_bounce_sender")
    """Mail from this user at the server's host name is never reported back."""


class _Words(NamedTuple):
    """The words of one kind of report."""

    subject: str
    opening: str


_WORDS = {
    Action.FAILED: _Words(
        "Mail could not be delivered",
        "Your message could not be delivered to the recipients below. It will not be tried again for them.",
    ),
    Action.DELAYED: _Words(
        "Mail is delayed",
        "Your message has not yet been delivered to the recipients below. You need not send it again: "
        "delivery will be tried until {expires}.",
    ),
    Action.RELAYED: _Words(
        "Mail was relayed",
        "Your message was handed on for the recipients below, to a system that may not report its delivery.",
    ),
    Action.DELIVERED: _Words("Mail was delivered", "Your message was delivered to the recipients below."),
}
_GREETING = "This is the mail system at host {hostname}."
_CLOSING = {
    "message": "The details for software follow, then your message.",
    "headers": "The details for software follow, then the header of your message.",
}
_TRIED = "Delivery was tried {times} over {duration}."
_GAVE_UP = "Delivery was tried {times} over {duration}, then given up."
_EACH_HOST = "The last reply of each host:"
_EXPANDED = "The way of your address <{original}>:"

_ASKED = {
    Action.FAILED: ("FAILURE", True),
    Action.DELAYED: ("DELAY", True),
    Action.RELAYED: ("SUCCESS", False),
    Action.DELIVERED: ("SUCCESS", False),
}
"""The word of NOTIFY= that asks for a report of this outcome, and whether it is sent to those who did not say
(RFC 3461 §4.1)."""

WIDTH = 78
"""Columns of the text, and of a field before it is folded (RFC 5322 §2.1.1)."""
TEXT_LIMIT = 2000
"""Characters of one reply or reason that a report repeats."""
_PART = b"\r\nContent-Description: Your message\r\n"
"""What stands before the type of the included part; the text above it has no such line."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_MESSAGE_ID = re.compile(rb"(?:\A|\n)message-id[ \t]*:\s*(<[!-;=?-~]{1,500}>)", re.IGNORECASE)
_XTEXT = re.compile(r"\+([0-9A-F]{2})")


def notable(
    message: Message, reports: Iterable[DeliveryReport], hostname: str, settings: BounceSettings
) -> list[DeliveryReport]:
    """Those of the reports that the message's sender is to hear of; none for the null sender and for double bounces."""
    sender = message.sender.lower()
    if not sender or sender == f"{settings.double_bounce_user}@{hostname}".lower():
        return []
    return [report for report in reports if _asked_for(report)]


def _asked_for(report: DeliveryReport) -> bool:
    word, by_default = _ASKED[report.action]
    return word in report.notify.upper().split(",") if report.notify else by_default


def bounce(
    message: Message,
    reports: list[DeliveryReport],
    content: bytes,
    *,
    settings: BounceSettings,
    hostname: str,
    queue_id: str,
    now: float,
    complete: bool = True,
) -> bytes:
    """The report as a message.

    `message` is the one that the reports (at least one) are about, `content` its bytes or, with `complete` false,
    the first of them; `queue_id` is the report's own, `now` in seconds since 1970.
    """
    kind = next(action for action in _WORDS if any(report.action is action for report in reports))
    what, included = _include(message, kind, content, settings, complete=complete)
    part_type = _part_type(what, included, utf8=message.options.smtputf8)
    text = _text(message, reports, hostname, what)
    boundary = f"=_{queue_id}"
    while boundary.encode() in included:
        boundary += "="
    head = [
        f"Date: {format_date(now)}",
        f"From: Mail system <{settings.from_address or 'MAILER-DAEMON@' + hostname}>",
        f"To: <{_CONTROL.sub('?', message.sender)}>",
        f"Subject: {_WORDS[kind].subject}",
        f"Message-ID: <{queue_id}@{hostname}>",
        *_thread(content),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
        f"Content-Transfer-Encoding: {'7bit' if included.isascii() else '8bit'}",
    ]
    parts = [
        "\r\n".join(head),
        f"\r\n\r\nThis is a message in MIME format.\r\n\r\n--{boundary}\r\n",
        "Content-Description: Notification\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n",
        text,
        f"\r\n--{boundary}\r\nContent-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n",
        _status(message, reports, hostname),
        f"\r\n--{boundary}{_PART.decode()}{part_type}\r\n\r\n",
    ]
    start = "".join(parts).encode("utf-8", "replace")
    return b"".join((start, included, f"\r\n--{boundary}--\r\n".encode()))


def bounce_options(message: Message, content: bytes) -> Options:
    """What the envelope of a report must ask for: `content` is what `bounce` returned for `message`."""
    part = content.find(_PART)
    utf8 = not message.sender.isascii() or content.startswith(b"Content-Type: message/global", part + len(_PART))
    return Options("" if content.isascii() else "8BITMIME", utf8, requiretls=message.options.requiretls)


# The text for people (wish 24)


def _text(message: Message, reports: list[DeliveryReport], hostname: str, what: str) -> str:
    lines = [_GREETING.format(hostname=hostname), ""]
    for action, words in _WORDS.items():
        chosen = [report for report in reports if report.action is action]
        if chosen:
            expires = format_date(max(report.expires for report in chosen))
            lines += [*_wrap(words.opening.format(expires=expires), ""), ""]
            for report in chosen:
                lines += [*_about(report), ""]
    lines += [_CLOSING[what], f"Your message has the queue id {message.queue_id} here."]
    return "\r\n".join(lines) + "\r\n"


def _about(report: DeliveryReport) -> list[str]:
    """What became of one recipient."""
    lines = [f"<{_ascii(report.recipient)}>:", *_wrap(report.reason or report.reply or report.status, "    ")]
    if report.attempts > 1 and report.action in (Action.FAILED, Action.DELAYED):
        gave_up = report.action is Action.FAILED and report.at >= report.expires
        tried = (_GAVE_UP if gave_up else _TRIED).format(
            times=f"{report.attempts} times", duration=how_long(report.at - report.arrived)
        )
        lines += _wrap(tried, "    ")
    if report.hosts and report.action in (Action.FAILED, Action.DELAYED):
        lines.append("    " + _EACH_HOST)
        for host in {host.relay: host for host in report.hosts}.values():
            lines += _wrap(f"{host.relay}: {host.reply}", "        ")
    if report.way:
        lines.append("    " + _EXPANDED.format(original=_ascii(report.original or report.recipient)))
        for step in report.way:
            lines += _wrap(step, "        ")
    return lines


def how_long(seconds: float) -> str:
    """A span of time in words: "5 days", "1 hour", "40 seconds"."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    count = max(int(seconds), 0)
    return f"{count} second{'' if count == 1 else 's'}"


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        _ascii(text)[:TEXT_LIMIT], WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    ) or [indent.rstrip()]


def _ascii(text: str) -> str:
    """Text from outside on one line of ASCII: what is not printable becomes a blank or, beyond ASCII, "\\x{E4}"."""
    if text.isascii() and text.isprintable():
        return text
    escaped = "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in text)
    return _CONTROL.sub(" ", escaped)


# The part for software (RFC 3464)


def _status(message: Message, reports: list[DeliveryReport], hostname: str) -> str:
    fields = [f"Reporting-MTA: dns; {hostname}"]
    if message.options.envid:
        fields.append(_field("Original-Envelope-Id", _from_xtext(message.options.envid)))
    fields += [f"X-Mailflow-Queue-Id: {message.queue_id}", f"Arrival-Date: {format_date(message.arrived)}", ""]
    for report in reports:
        fields += [*_recipient_fields(report), ""]
    return "\r\n".join(fields)


def _recipient_fields(report: DeliveryReport) -> list[str]:
    """The fields about one recipient, RFC 3464 §2.3."""
    fields = []
    if report.orcpt:
        kind, _, address = report.orcpt.partition(";")
        fields.append(_field("Original-Recipient", f"{kind}; {_from_xtext(address)}"))
    address_type = "rfc822" if report.recipient.isascii() else "utf-8"
    fields += [
        _field("Final-Recipient", f"{address_type}; {_utf8_xtext(report.recipient)}"),
        f"Action: {report.action.value}",
        f"Status: {_ascii(report.status)}",
    ]
    if report.hosts:
        fields.append(_field("Remote-MTA", f"dns; {report.hosts[-1].name}"))
    if report.reply:
        fields.append(_field("Diagnostic-Code", f"smtp; {report.reply}"))
    elif report.reason:
        fields.append(_field("Diagnostic-Code", f"X-Mailflow; {report.reason}"))
    fields.append(f"Last-Attempt-Date: {format_date(report.at)}")
    if report.action is Action.DELAYED:
        fields.append(f"Will-Retry-Until: {format_date(report.expires)}")
    return fields


def _field(name: str, value: str) -> str:
    """A header field of ASCII, folded between words so that unfolding gives the same text."""
    words = f"{name}: {_ascii(value)[:TEXT_LIMIT]}"
    return "\r\n".join(
        textwrap.wrap(words, WIDTH, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False)
    )


def _from_xtext(text: str) -> str:
    """ENVID and ORCPT come as xtext (RFC 3461 §4), where "+3D" stands for "="."""
    return _XTEXT.sub(lambda match: chr(int(match[1], 16)), text)


def _utf8_xtext(address: str) -> str:
    """An address as utf-8-addr-xtext, which is ASCII (RFC 6533 §3); one of ASCII only is left as it is."""
    if address.isascii():
        return address
    return "".join(c if "!" <= c <= "~" and c not in "+=\\" else f"\\x{{{ord(c):X}}}" for c in address)


# What comes back of the message


def _include(
    message: Message, kind: Action, content: bytes, settings: BounceSettings, *, complete: bool
) -> tuple[str, bytes]:
    """Which part of the message is included, "message" or "headers", and its bytes.

    RET= decides for failures; other reports bring the header back (RFC 3461 §6.2).
    """
    asked = {"FULL": "message", "HDRS": "headers"}.get(message.options.ret, settings.include)
    options = message.options
    if options.requiretls or options.body == "BINARYMIME":  # RFC 8689 §5; a report has lines
        asked = "headers"
    if kind is Action.FAILED and asked == "message" and complete and len(content) <= settings.include_size:
        return "message", content
    end = header_end(content)
    header = content if end < 0 else content[:end]
    if len(header) > settings.include_size:
        header = header[: header.rfind(b"\n", 0, settings.include_size) + 1]
    return "headers", header


def _part_type(what: str, included: bytes, *, utf8: bool) -> str:
    """The type of the included part: RFC 6522, or RFC 6533 §4 for the 8-bit header of a message that came by SMTPUTF8.

    8-bit headers without it are an old bad habit; calling them internationalized would make the report undeliverable.
    """
    end = header_end(included)
    plain = not utf8 or (included if end < 0 else included[:end]).isascii()
    if what == "headers":
        name = "text/rfc822-headers" if plain else "message/global-headers"
    else:
        name = "message/rfc822" if plain else "message/global"
    return f"Content-Type: {name}" + ("" if included.isascii() else "\r\nContent-Transfer-Encoding: 8bit")


def _thread(content: bytes) -> list[str]:
    """Fields that put the report beside the message in its sender's mail program."""
    end = header_end(content)
    match = _MESSAGE_ID.search(content, 0, end if end >= 0 else len(content))
    if match is None:
        return []
    message_id = match[1].decode("ascii")
    return [f"In-Reply-To: {message_id}", f"References: {message_id}"]
