"""What a message is, apart from its bytes: peer, envelope, recipients, routes.

These are the values that every part of mailflow hands on. A `Message` exists from the moment its
content is complete until its last recipient has left the queue; the queue stores it, the scheduler
orders its recipients, the delivery agents carry them out. `Peer`, `Options` and `Route` never change.
`Message` and `Recipient` are plain slotted objects because one is made for each message on the hot
path (a frozen one costs three times as much); only the queue and the flow change them.

Addresses are text, "local@domain", without angle brackets, the local part quoted as it was received;
the null sender is "". Times are seconds since 1970. What this module does not do: parse or rewrite.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from mailflow.ids import format_id

HELD = float(2**53)
"""A due time that never comes: the recipient is on hold until it is released."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who handed a message in (wishes 16, 20, 38, 50). Stored with the message and logged when delivery begins."""

    address: str = ""
    """IP address as text; "" for the Python API and the command line."""
    port: int = 0
    name: str = ""
    """Verified host name; "" when unknown."""
    helo: str = ""
    protocol: str = "API"
    """The `with` word of the Received: header (RFC 3848): SMTP, ESMTP, UTF8SMTP, ...; "API" and "local" for our own."""
    tls: str = ""
    login: str = ""
    """The authenticated user, or the local account that posted."""
    reverse: str = ""
    """The name that the address's PTR record gives, where it is not verified (then `name` is "")."""
    certificate: str = ""
    """SHA-256 fingerprint of a client certificate, "ab:cd:…"; "" without one."""
    via: str = ""
    """The address of the proxy or gateway that told us all this (PROXY protocol, XCLIENT, XFORWARD)."""

    def __str__(self) -> str:
        if self.address:
            return f"{self.name or 'unknown'}[{self.address}]"
        return self.login or (self.protocol if self.protocol in ("API", "local") else "unix")


@dataclass(frozen=True, slots=True)
class Options:
    """What the envelope asks for besides its addresses (wish 54); kept over restarts and forwarding."""

    body: str = ""
    """BODY= of MAIL (RFC 6152): "", "7BIT" or "8BITMIME"."""
    smtputf8: bool = False
    """RFC 6531."""
    ret: str = ""
    """RET= of MAIL (RFC 3461): "", "FULL" or "HDRS"."""
    envid: str = ""
    """ENVID= of MAIL, still in xtext."""
    requiretls: bool = False
    """REQUIRETLS of MAIL (RFC 8689): to be handed on over verified TLS only."""
    by: float = 0.0
    """BY= of MAIL (RFC 2852) as a deadline in seconds since 1970; 0 without one."""
    by_mode: str = ""
    """What happens at the deadline: "R" (return), "N" (notify), with "T" for a trace; "" without one."""
    release: float = 0.0
    """Not to be delivered before this time, in seconds since 1970 (RFC 4865); 0 for at once."""
    auth: str = ""
    """AUTH= of MAIL (RFC 4954 §5), still in xtext; only from clients that may say so."""


PLAIN = Options()

AddressKind = Literal["local", "relay", "remote"]
"""Whose an address is: its mailbox is here; its domain is ours and lies elsewhere, everybody may write to it; it is
not ours, and only those may write to it through us who may send anywhere."""


class Route(NamedTuple):
    """Where an address goes: the answer of `rewrite.resolve`. A tuple, as one is made for each recipient."""

    transport: str
    next_hop: str
    """For "smtp": a domain (MX look-up) or "[host]:port"; for "local": the mailbox name, so that each has its own queue."""
    recipient: str
    """The address as the transport shall use it."""
    why: str
    """Which table, key and configuration line decided; printed by `mailflow resolve`."""
    kind: AddressKind = "remote"
    """Whose address it is; the same answer decides who may write to it and where it goes (wish 55)."""

    @property
    def destination(self) -> str:
        """The grouping key of scheduler and store: "transport:next hop"."""
        return f"{self.transport}:{self.next_hop}"


@dataclass(slots=True)
class Recipient:
    """One recipient of a message; `number` is its place in the envelope and, with the message's id, its identity."""

    number: int
    address: str
    destination: str
    """`Route.destination`: "smtp:example.org", "local:alice"."""
    original: str = ""
    """The address that the client gave, where it differs from `address`."""
    orcpt: str = ""
    """ORCPT= of RCPT, "type;address" with the address in xtext (RFC 3461)."""
    notify: str = ""
    """NOTIFY= of RCPT: "" or a comma-separated list in upper case."""
    due: float = 0.0
    """When the next attempt may be made; `HELD` while on hold."""
    attempts: int = 0
    reason: str = ""
    """Why the last attempt did not succeed, as the log said it; "" before the first."""

    @property
    def transport(self) -> str:
        return self.destination.partition(":")[0]

    @property
    def next_hop(self) -> str:
        return self.destination.partition(":")[2]


@dataclass(frozen=True, slots=True)
class ContentFile:
    """Content too large for the database: a complete, synced file below the spool."""

    path: Path
    size: int


Content = bytes | ContentFile
"""A message's bytes, header and body, CRLF line ends, dots not doubled."""


class Message:
    """A message in the queue: its envelope, and its content while that is in memory.

    `recipients` holds those known in memory; a message loaded from disk for one destination knows only
    that destination's. `remaining` counts all that are in the queue, in memory or not.
    """

    __slots__ = ("arrived", "content", "id", "options", "peer", "queue_id", "recipients", "remaining", "sender", "size")

    def __init__(
        self,
        id: int,
        sender: str,
        recipients: list[Recipient],
        content: Content | None,
        *,
        arrived: float,
        size: int,
        peer: Peer,
        options: Options = PLAIN,
        remaining: int | None = None,
        queue_id: str = "",
    ) -> None:
        self.id = id
        self.queue_id = queue_id or format_id(id)
        self.sender = sender
        self.recipients = recipients
        self.content = content
        self.arrived = arrived
        self.size = size
        self.peer = peer
        self.options = options
        self.remaining = len(recipients) if remaining is None else remaining

    def __repr__(self) -> str:
        return f"<Message {self.queue_id} from=<{self.sender}> recipients={len(self.recipients)}/{self.remaining} size={self.size}>"


def domain_of(address: str) -> str:
    """The domain of an address in lower case, "" when it has none."""
    return sys.intern(address.rpartition("@")[2].lower()) if "@" in address else ""


@dataclass(slots=True)
class InboundEnvelope:
    """The envelope of a message on its way in."""

    peer: Peer
    sender: str
    recipients: list[Recipient]
    """As accepted at RCPT, with the destination found there; numbers and due times are the intake's affair."""
    options: Options
    trusted: bool
    """Whether the client may send anywhere; only its messages get a missing Date:, Message-ID: or From: added."""
    hold: str = ""
    """Why the message goes on hold at once; "" when it does not."""
    release: float = 0.0
    """No delivery before this time, seconds since 1970 (RFC 4865); 0 for at once."""
    header: bytes = b""
    """Fields that policy adds in front, each with its CR LF."""
