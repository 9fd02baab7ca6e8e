"""How messages in the queue are shown: fields for JSON, aligned lines for people.

What comes from outside (addresses, remote replies) is shown without control characters: a terminal obeys them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailflow.store.search import Count
    from mailflow.store.values import QueuedMessage, QueuedRecipient

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def message_fields(message: QueuedMessage) -> dict[str, Any]:
    """A message as JSON shows it; the fields are documented at `mailflow queue list`."""
    return {
        "id": message.queue_id,
        "sender": message.sender,
        "size": message.size,
        "arrived": message.arrived,
        "client": str(message.peer),
        "remaining": message.remaining,
        "recipients": [_recipient_fields(r) for r in message.recipients],
    }


def _recipient_fields(recipient: QueuedRecipient) -> dict[str, Any]:
    return {
        "address": recipient.address,
        "original": recipient.original,
        "destination": recipient.destination,
        "state": recipient.state,
        "due": None if recipient.state in ("held", "aside") else recipient.due,
        "attempts": recipient.attempts,
        "reason": recipient.reason,
    }


def message_lines(message: QueuedMessage, *, details: bool = False) -> list[str]:
    """A message as people read it: one line for it, one for each recipient, one for each reason."""
    sender = printable(message.sender) or "<> (a report)"
    lines = [f"{message.queue_id}  {format_bytes(message.size):>9}  {format_time(message.arrived)}  {sender}"]
    if details:
        peer = message.peer
        lines.append(f"    from client {printable(str(peer))}, helo {printable(peer.helo) or 'none'}, {peer.protocol}")
    for recipient in message.recipients:
        lines += _recipient_lines(recipient, details=details)
    hidden = message.remaining - len(message.recipients)
    if hidden > 0:
        lines.append(f"    and {plural(hidden, 'more recipient')}")
    return lines


def _recipient_lines(recipient: QueuedRecipient, *, details: bool) -> list[str]:
    line = f"    {recipient.state:<8}  {printable(recipient.address)}"
    if recipient.state == "deferred":
        line += f"  next attempt {format_time(recipient.due)}"
    lines = [line]
    if details:
        original = f", given as {printable(recipient.original)}" if recipient.original else ""
        attempts = plural(recipient.attempts, "attempt")
        lines.append(f"              by {printable(recipient.destination)}, {attempts}{original}")
    if recipient.reason:
        lines.append(f"              {printable(recipient.reason)}")
    return lines


def count_lines(counts: Sequence[Count], by: str, now: float) -> list[str]:
    """A table: recipients, messages, how long the oldest has been in the queue, and what was counted by."""
    lines = [f"{'recipients':>10}  {'messages':>10}  {'oldest':>8}  {by}"]
    for c in counts:
        value = printable(c.value) or ("<>" if by == "sender" else "(none)")
        lines.append(f"{c.recipients:>10}  {c.messages:>10}  {format_age(now - c.oldest):>8}  {value}")
    return lines


def format_age(seconds: float) -> str:
    """An age in its largest unit: "45s", "3h", "12d"."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def total_line(messages: int, recipients: int, size: int, *, everything: bool = True) -> str:
    """The last line of a listing, of `everything` or of what was selected."""
    if not messages:
        return "Mail queue is empty" if everything else "No such mail in the queue"
    return f"-- {plural(messages, 'message')}, {plural(recipients, 'recipient')}, {format_bytes(size)}"


def plural(count: int, noun: str) -> str:
    """ "1 message", "2 messages"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """The text with its control characters replaced."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def format_bytes(size: float) -> str:
    """A size for people: "12 B", "1.5 KiB"."""
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.1f} {_UNITS[power]}" if power else f"{size:.0f} B"


def format_time(seconds: float) -> str:
    """Local time for people."""
    from datetime import datetime

    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
