"""The values that the queue's users and the store exchange.

`queue.py` hands all of them on; other parts import them from there. Nothing here touches the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from mailflow.envelope import Message, Peer, Recipient

STATES = ("queued", "deferred", "held", "due")
"""States of a recipient that one can ask for: not tried yet; tried, and waiting; on hold; either of the first two, when
its time has come."""


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
    """The queue's own: the last recipients of the message leave, nothing is deferred. Not where another settlement of the message
    failed, whose recipients are still there."""
    entered: bool = field(default=False, init=False)
    """The queue's own: `new` is on disk already, though the rest is not."""

    @property
    def entering(self) -> list[Message]:
        """Of `new`, what is still to be put in."""
        return [] if self.entered else self.new


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
    lost: Sequence[int] = ()
    """Messages whose recipients are here and whose envelope is not: the database is damaged."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which recipients an administrator means: those for which everything that is given holds.

    In texts `*` stands for any characters; capitals do not matter. All mail has to be said out loud: `everything`.
    """

    ids: tuple[int, ...] | None = None
    """Messages; the other conditions narrow them down."""
    destination: str | None = None
    """ "smtp:example.org"; exact, or with `*`."""
    sender: str | None = None
    """ "" is the null sender."""
    recipient: str | None = None
    """The address as it is, or as the client gave it."""
    client: str | None = None
    """The client's address, name, HELO name or login."""
    before: float | None = None
    """Arrived at this time or earlier, seconds since 1970."""
    after: float | None = None
    """Arrived at this time or later."""
    larger: int | None = None
    """At least so many bytes."""
    smaller: int | None = None
    """At most so many bytes."""
    state: str | None = None
    """One of STATES."""
    reason: str | None = None
    """Part of what the last attempt's failure said."""
    everything: bool = False
    limit: int | None = None
    """At most so many messages, the oldest; no condition by itself."""

    def __post_init__(self) -> None:
        names = {f.name for f in fields(self)} - {"everything", "limit"}
        given = [name for name in names if getattr(self, name) is not None]
        if bool(given) == self.everything:
            raise ValueError("a selection has conditions, or is everything")
        if self.state is not None and self.state not in STATES:
            raise ValueError(f"state: not a state: {self.state!r} (accepted: {', '.join(STATES)})")


class Changed(NamedTuple):
    """What a step of an administrator's command did to one message."""

    id: int
    destinations: tuple[str, ...]
    """Destinations of the recipients that were changed or deleted."""
    numbers: tuple[int, ...]
    """Which recipients were changed or deleted."""

    @property
    def recipients(self) -> int:
        """How many they are."""
        return len(self.numbers)


class QueuedRecipient(NamedTuple):
    """One recipient as a listing shows it."""

    number: int
    address: str
    destination: str
    original: str
    """The address that the client gave, "" where it is the same."""
    state: str
    """"queued" (not tried yet), "deferred" (tried, waits for `due`), "held" (waits for release); where it was asked for, "aside"
    (done with, in a damaged queue: `store/aside.py`)."""
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
