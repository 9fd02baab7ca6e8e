"""What is added to a message, and taken from it, on its way in: Received:, missing fields, limits.

Callers: the flow keeps one `Cleaner`, gives it each message's first bytes (its whole header at least; `header_end`
says when that has come) and writes `Cleaned.prefix`, `Cleaned.head` and what followed. The body is never looked at
and never copied. A message that must not be accepted gives a `Reply` instead.

Invariants: never raises, whatever the bytes; everything behind the header comes out as it went in; a message with
nothing to take away comes back as the very object that was given. Pure: time and ids are arguments.

It does not judge the form of the header beyond its first line, does not rewrite addresses, and leaves 8-bit and
folded fields alone. RFC 5321 §4.4 (trace), §6.3 (loops), RFC 5322 §3.6 (which fields there must be).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from mailflow.envelope import Peer
from mailflow.smtp.reply import Reply, reply

HOP_LIMIT = 50
"""Received: fields; Postfix's figure. RFC 5321 §6.3 wants at least 100 "normally"; no real way is half as long."""
CLIENTS_REMEMBERED = 1024
"""Client records whose half of a Received: field is kept ready."""

TOO_MANY_HOPS = reply(554, "5.4.6", "Too many hops: this message is in a loop")
HEADER_TOO_LARGE = reply(552, "5.3.4", "Message header is too large")

_new = tuple.__new__  # makes a named tuple without its constructor, which takes twice as long
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_FROM_LINE = re.compile(rb">?From [^\r\n]*\r\n")
_VALUE = rb"[ \t]*:[^\r\n]*(?:\r\n|\Z)(?:[ \t][^\r\n]*(?:\r\n|\Z))*"
_RETURN_PATH = re.compile(rb"(?<=\n)return-path" + _VALUE, re.IGNORECASE)
_BCC = re.compile(rb"(?<=\n)(?:resent-)?bcc" + _VALUE, re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_TLS = re.compile(r"[A-Za-z0-9._/, -]{1,200}(?:\([A-Za-z0-9._/ -]{1,40}\)[A-Za-z, ]{0,60})?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._:\[\]-]")


class Cleaned(NamedTuple):
    """What to store: `prefix`, then `head`, then what followed the head."""

    prefix: bytes
    head: bytes


class Cleaner:
    """Cleans messages for one host name. Remembers the date of the last second and the latest clients, nothing else."""

    __slots__ = ("_clients", "_date", "_second", "hop_limit", "hostname")

    def __init__(self, hostname: str, *, hop_limit: int = HOP_LIMIT) -> None:
        self.hostname = hostname
        self.hop_limit = hop_limit
        self._clients: dict[tuple[str, str, str, str, str, str], str] = {}
        self._second = -1
        self._date = ""

    def clean(
        self,
        head: bytes,
        *,
        peer: Peer,
        queue_id: str,
        sender: str,
        recipient: str,
        now: float,
        trusted: bool,
        complete: bool = True,
    ) -> Cleaned | Reply:
        """Cleans one message.

        `head` is the message's first bytes; `complete` says that nothing follows. `recipient` is the one recipient, ""
        if there are several: the others must not learn of each other (RFC 5321 §7.2). A `trusted` client's message
        gets the fields that it lacks. `now` is in seconds since 1970.
        """
        end = header_end(head)
        if end < 0:
            if not complete:
                return HEADER_TOO_LARGE
            end = len(head)
        # As text: bytes try the left side of `in` as a number first, by way of an exception.
        fields = "\r\n" + head[:end].lower().decode("latin-1")
        if fields.count("\r\nreceived:") > self.hop_limit:
            return TOO_MANY_HOPS
        prefix = self.received(peer, queue_id, recipient, now)
        if trusted and not ("\r\nfrom:" in fields and "\r\ndate:" in fields and "\r\nmessage-id:" in fields):
            prefix += self._missing(fields, queue_id, sender)
        if end and not _FIELD.match(head):
            head, prefix = _mend_start(head, prefix)
        if "\r\nreturn-path" in fields:
            head = _without(_RETURN_PATH, head)
        return _new(Cleaned, (prefix.encode(errors="replace"), head))

    def received(self, peer: Peer, queue_id: str, recipient: str, now: float) -> str:
        """The Received: field (RFC 5321 §4.4), with line end; wishes 16 and 20."""
        client = (peer.helo, peer.name, peer.address, peer.protocol, peer.tls, peer.login)
        begin = self._clients.get(client)
        if begin is None:
            if len(self._clients) >= CLIENTS_REMEMBERED:
                self._clients.clear()
            begin = self._clients[client] = _begin(peer, self.hostname)
        target = f"\r\n\tfor <{recipient}>; " if recipient and recipient.isprintable() else ";\r\n\t"
        date = self._date if int(now) == self._second else self.date(now)
        return f"{begin}{queue_id}{target}{date}\r\n"

    def date(self, now: float) -> str:
        """The time as RFC 5322 §3.3 writes it, in UTC; formatted once a second."""
        second = int(now)
        if second != self._second:
            self._date = format_date(now)
            self._second = second
        return self._date

    def _missing(self, fields: str, queue_id: str, sender: str) -> str:
        """The fields that RFC 5322 §3.6 asks for and a posting client left to us (RFC 6409 §8)."""
        added = ""
        if "\r\nfrom:" not in fields and not _has("from", fields):
            author = sender if sender.isprintable() and sender else f"MAILER-DAEMON@{self.hostname}"
            added += f"From: <{author}>\r\n"
        if "\r\ndate:" not in fields and not _has("date", fields):
            added += f"Date: {self._date}\r\n"
        if "\r\nmessage-id:" not in fields and not _has("message-id", fields):
            added += f"Message-ID: <{queue_id}@{self.hostname}>\r\n"
        return added


def header_end(data: bytes, start: int = 0) -> int:
    """The length of the header with its last line end, or -1 while the empty line behind it has not come.

    `start` is how much was searched before; a message that begins with an empty line has a header of length 0.
    """
    if data.startswith(b"\r\n"):
        return 0
    end = data.find(b"\r\n\r\n", start - 3 if start > 3 else 0)
    return end + 2 if end >= 0 else -1


def without_bcc(content: bytes) -> bytes:
    """The same bytes without any Bcc: or Resent-Bcc: field in the header, so that no copy shows the others (wish 42)."""
    return _without(_BCC, content)


def format_date(now: float) -> str:
    """Seconds since 1970 as RFC 5322 §3.3 writes them, in UTC: "Sun, 22 Nov 2026 07:51:53 +0000"."""
    t = datetime.fromtimestamp(int(now), UTC)
    return (
        f"{_DAYS[t.weekday()]}, {t.day:02d} {_MONTHS[t.month - 1]} {t.year}"
        f" {t.hour:02d}:{t.minute:02d}:{t.second:02d} +0000"
    )


def qualify(address: str, domain: str) -> str:
    """The address with a domain: "alice" gets ours, "alice@example.org" and the null sender stay as they are."""
    if not address or ("@" in address and not address.endswith('"')):
        return address
    return f"{address}@{domain}"


def _begin(peer: Peer, hostname: str) -> str:
    """The part of a Received: field that is the same for all messages of a client."""
    tls = f"\r\n\t(using {peer.tls if _TLS.fullmatch(peer.tls) else _words(peer.tls)})" if peer.tls else ""
    if not peer.address and peer.protocol not in ("API", "local"):
        who = f"from {_token(peer.helo) or 'unknown'} (by a UNIX socket){tls}"
        return f"Received: {who}\r\n\tby {hostname} with {_token(peer.protocol)} id "
    if not peer.address:
        who = f", from {_token(peer.login)}" if peer.login else ""
        return f"Received: by {hostname} (mailflow{who}) id "
    literal = f"IPv6:{peer.address}" if ":" in peer.address else peer.address
    return (
        f"Received: from {_token(peer.helo) or 'unknown'} ({_token(peer.name) or 'unknown'} [{literal}]){tls}"
        f"\r\n\tby {hostname} with {_token(peer.protocol)} id "
    )


def _token(text: str) -> str:
    """A name that a client gave, fit for a header: what does not belong into a host name becomes "?"."""
    return text if _TOKEN.fullmatch(text) else _UNSAFE.sub("?", text[:255])


def _words(text: str) -> str:
    return " ".join(map(_token, text.split()))


def _has(name: str, fields: str) -> bool:
    """Whether the field is there in the obsolete form, with blanks before the colon (RFC 5322 §4.5)."""
    return re.search(r"\r\n" + name + r"[ \t]+:", fields) is not None


def _mend_start(head: bytes, prefix: str) -> tuple[bytes, str]:
    """A first line that is no header field: a mailbox's "From " line goes, before anything else the header ends."""
    line = _FROM_LINE.match(head)
    if line and _FIELD.match(head, line.end()):
        return head[line.end() :], prefix
    return head, prefix + "\r\n"


def _without(field: re.Pattern[bytes], head: bytes) -> bytes:
    """The head without some header fields. The body is not searched."""
    end = header_end(head)
    if end < 0:
        end = len(head)
    return field.sub(b"", b"\n" + head[:end])[1:] + head[end:]
