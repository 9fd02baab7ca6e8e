"""The values that the queue's users and the store exchange.

`queue.py` hands all of them on; other parts import them from there. Nothing here touches the disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from mailflow.envelope import Message, Peer, Recipient


@dataclass(slots=True)
class Settlement:
    """What one attempt brought about. It reaches the disk in one transaction, or not at all.

    The recipients are those of `message`; each is in `done` or in `deferred` or in neither (then nothing changes).
    """

    message: Message
    done: list[Recipient]
    """These leave the queue; with the last one the message does."""
    deferred: list[Recipient] = field(default_factory=list)
    """These stay; `due`, `attempts` and `reason` have their new values already."""
    new: list[Message] = field(default_factory=list)
    """Bounces and forwarded copies: they enter the queue as the others leave it."""
    whole: bool = field(default=False, init=False)
    """The queue's own: the last recipients of the message leave, nothing is deferred."""


class Position(NamedTuple):
    """A place in the order of one destination's recipients."""

    due: float
    message_id: int
    number: int


@dataclass(slots=True)
class Slice:
    """Part of a destination's recipients, read from disk."""

    messages: list[Message]
    """In the order of their first recipient; each has only this destination's recipients, and no content."""
    last: Position | None
    """Where the next slice goes on; None when this one is empty."""
    complete: bool
    """Nothing due is behind `last`."""
    next_due: float | None = None
    """When the first of those is due that are not yet; None when there is none, held ones left out."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages an administrator means: those with `ids`, or those with recipients of `destination`, or all.

    Exactly one of the three is given.
    """

    ids: tuple[int, ...] | None = None
    destination: str | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        if (self.ids is not None) + (self.destination is not None) + self.everything != 1:
            raise ValueError("a selection has ids, or a destination, or everything")


class Changed(NamedTuple):
    """What an administrator's command did to one message."""

    id: int
    destinations: tuple[str, ...]
    """Destinations of the recipients that were changed or deleted."""
    recipients: int
    """How many recipients were changed or deleted."""


class QueuedRecipient(NamedTuple):
    """One recipient as a listing shows it."""

    number: int
    address: str
    destination: str
    original: str
    """The address that the client gave, "" where it is the same."""
    state: str
    """"queued" (not tried yet), "deferred" (tried, waits for `due`), "held" (waits for release)."""
    due: float
    """Next attempt, seconds since 1970; `envelope.HELD` while held. In the past: as soon as its turn comes."""
    attempts: int
    reason: str
    """Why the last attempt did not succeed, "" before the first."""


class QueuedMessage(NamedTuple):
    """One message as a listing shows it."""

    id: int
    queue_id: str
    sender: str
    """"" for the null sender."""
    size: int
    """Bytes."""
    arrived: float
    """Seconds since 1970."""
    peer: Peer
    remaining: int
    """Recipients in the queue."""
    recipients: tuple[QueuedRecipient, ...]
    """The first of them, at most as many as the listing was asked for."""


class QueueCounts(NamedTuple):
    """The queue in five numbers."""

    messages: int
    recipients: int
    queued: int
    """Recipients that have not been tried yet."""
    deferred: int
    held: int
