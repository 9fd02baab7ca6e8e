"""What became of a recipient: the one record that feeds log, bounce and API alike (wishes 22, 24, 26, 73)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Action(Enum):
    """The outcome of an attempt, by the words of RFC 3464 §2.3.3."""

    DELIVERED = "delivered"
    """In the mailbox."""
    RELAYED = "relayed"
    """Accepted by the next hop."""
    DELAYED = "delayed"
    """Stays in the queue for another attempt."""
    FAILED = "failed"
    """Will not be tried again."""


@dataclass(slots=True)
class HostAttempt:
    """One host that was contacted for a delivery, and how that ended (wish 22)."""

    name: str
    address: str
    port: int
    reply: str
    """Its last reply, or our words for what happened ("connection timed out")."""
    at: float
    seconds: float

    @property
    def relay(self) -> str:
        """As the log has it: name[address]:port."""
        return f"{self.name}[{self.address}]:{self.port}"


@dataclass(slots=True)
class DeliveryReport:
    """The outcome of one attempt for one recipient."""

    queue_id: str
    sender: str
    recipient: str
    original: str
    orcpt: str
    notify: str
    action: Action
    status: str
    """Enhanced status code, "2.0.0" (RFC 3463)."""
    relay: str
    """name[address]:port of the host that decided, "local" for a mailbox, "none" when no host was reached."""
    reply: str
    """The remote reply, "" when none was received."""
    reason: str
    """The whole of it in words: "host mx.example[192.0.2.1]:25 said: 550 5.1.1 No such user (in reply to RCPT TO)"."""
    at: float
    arrived: float
    attempts: int
    """Attempts made so far, this one included."""
    expires: float
    """When the queue gives up."""
    delays: tuple[float, float, float, float]
    """Seconds: before the queue manager, waiting for a slot, connection set-up, transmission."""
    hosts: tuple[HostAttempt, ...] = ()
    way: tuple[str, ...] = ()
    """Steps from the original to the final address: "alias: staff -> alice"."""
