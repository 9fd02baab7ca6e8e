"""What a delivery agent is given, and the facts that it gives back.

Callers: `flow` makes a `Delivery` for each job the scheduler hands out and calls `Agent.start`.
The agent calls `done(delivery)` exactly once, from the event loop, perhaps before `start` returns, with
one `Fact` in `delivery.facts` for each recipient, in order. A fact is what was seen: at which stage, which
reply, or which trouble. What a fact means (delivered, deferred, bounced) is decided in `trouble.py` only.
Agents never raise to their caller.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from mailflow.envelope import Content, Message, Recipient
from mailflow.report import HostAttempt
from mailflow.smtp.reply import Reply


class Stage(Enum):
    """How far a delivery got. The value is how log and bounce say it."""

    RESOLVE = "looking up the destination"
    CONNECT = "connecting"
    BANNER = "waiting for the greeting"
    EHLO = "EHLO"
    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"
    BODY = "sending the message"
    DOT = "end of DATA"
    FILE = "writing to the mailbox"
    STORE = "reading the queue"


class Trouble(Enum):
    """What went wrong when no reply says it. The value is how log and bounce say it."""

    NO_HOST = "domain does not exist or has no mail host"
    NO_RELAY = "the next hop that is configured does not exist or has no mail host"
    NULL_MX = "domain does not accept mail (null MX)"
    DNS_FAILURE = "name server failure"
    LOOP = "mail for this destination loops back to this host"
    REFUSED = "connection refused"
    UNREACHABLE = "host or network unreachable"
    TIMEOUT = "timed out"
    LOST = "connection lost"
    GARBAGE = "not an SMTP reply"
    NEEDS_8BITMIME = "message is 8-bit and the host does not offer 8BITMIME"
    NEEDS_BINARYMIME = "message is binary and the host is not known to take BINARYMIME"
    NEEDS_REQUIRETLS = "message requires TLS on its whole way and the host does not offer REQUIRETLS"
    NEEDS_DELIVERBY = "message is to be returned at a set time and the host does not offer DELIVERBY"
    NEEDS_SMTPUTF8 = "address or message needs SMTPUTF8 and the host does not offer it"
    TOO_LARGE = "message exceeds the size limit that the host announces"
    NO_MAILBOX = "no such mailbox"
    IO_ERROR = "local input/output error"
    DISK_FULL = "mailbox disk is full or over quota"
    DAMAGED = "content in the queue is damaged"
    REJECTED_ROUTE = "address is refused by configuration"
    BROKEN = "error in the mail system itself"
    """The agent raised; the log says what."""
    UNATTEMPTED = "not attempted"
    """The agent gave the job back before it began (connection lost under the job in front of it, shutdown)."""


class Fact(NamedTuple):
    """What was seen for one recipient. Exactly one of `reply` and `trouble` is given; success is a 2xx reply."""

    stage: Stage
    reply: Reply | None = None
    trouble: Trouble | None = None
    host: HostAttempt | None = None
    """The host that decided, None when none was reached."""
    detail: str = ""
    """A few words more for log and report, never the text of an exception; for a success its reply on one line, or ""."""
    soft: bool = False
    """The configuration takes this refusal for a passing one (`smtp.protocol_error_class`)."""


class Delivery:
    """One job for an agent: some recipients of one message, all for one destination."""

    __slots__ = (
        "by_passed",
        "connected",
        "content",
        "dsn_passed",
        "entered",
        "facts",
        "hosts",
        "job",
        "message",
        "next_hop",
        "recipients",
        "started",
        "transport",
    )

    def __init__(
        self,
        message: Message,
        recipients: list[Recipient],
        transport: str,
        next_hop: str,
        content: Content,
        started: float,
    ) -> None:
        self.message = message
        self.recipients = recipients
        self.transport = transport
        self.next_hop = next_hop
        self.content = content
        self.entered = started
        """Loop time when the scheduler was given the job."""
        self.started = started
        """Loop time when the scheduler handed the job out."""
        self.connected = started
        """Loop time when a usable connection was at hand; set by the agent."""
        self.dsn_passed = False
        """Whether the host offers DSN, and so was told what reports the sender asked for; set by the agent."""
        self.by_passed = False
        """The same for DELIVERBY and the time that is left."""
        self.facts: list[Fact] = []
        self.hosts: list[HostAttempt] = []
        """Every host contacted, in order; set by the agent."""
        self.job: object = None
        """The scheduler's job, for the flow's own use."""

    def __repr__(self) -> str:
        return f"<Delivery {self.message.queue_id} {self.transport}:{self.next_hop} recipients={len(self.recipients)} facts={len(self.facts)}>"

    def fail(self, fact: Fact) -> None:
        """Gives every recipient that has no fact yet this one."""
        self.facts.extend([fact] * (len(self.recipients) - len(self.facts)))


Done = Callable[[Delivery], None]


class Agent(Protocol):
    """A delivery agent, one for each transport."""

    def start(self, delivery: Delivery, done: Done) -> None:
        """Begins; returns at once. `done(delivery)` is called exactly once, with all facts."""
        ...

    async def close(self, grace: float) -> None:
        """Lets deliveries under way end for at most `grace` seconds, then breaks them off; each gets its `done`."""
        ...
