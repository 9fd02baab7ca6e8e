"""What ingress needs from the rest of mailflow, as protocols: it is given the objects and imports none of their modules.

`Recipients` answers where an address goes (`rewrite.Resolver`), `Intake` takes messages in (`flow.Flow`), `Events`
is the log. The values they exchange (`InboundEnvelope`, `Recipient`, `Route`) are in `mailflow.envelope`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mailflow.envelope import InboundEnvelope, Route
from mailflow.smtp.reply import Reply


class Refusal(Protocol):
    """An address that no mail is accepted for; `why` is for the log, the rest for the client."""

    @property
    def code(self) -> int: ...
    @property
    def status(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def why(self) -> str: ...


class Recipients(Protocol):
    """The switchboard, as ingress sees it. Synchronous; no look-ups over the network."""

    def resolve(self, address: str) -> Route | Refusal:
        """Where mail to this address goes. "postmaster" may come without domain, from trusted clients anything may."""
        ...

    def is_ours(self, address: str) -> bool:
        """Whether mail to this address is accepted from everybody."""
        ...


class Incoming(Protocol):
    """One message on its way in. Ends with exactly one of `finish` and `abort`."""

    on_drain: Callable[[], None] | None
    """Called when `write` has returned False and there is room again."""
    envelope: InboundEnvelope
    """As it is now; the session may change it until `finish`."""

    @property
    def queue_id(self) -> str:
        """The message's name in the log, "" while it has none."""
        ...

    def write(self, chunk: bytes) -> bool:
        """Takes some bytes of the message. False: no more, please, until `on_drain` is called."""
        ...

    def finish(self, done: Callable[[Reply], None]) -> None:
        """The message is complete. `done` is called exactly once, at once or later, with what the client hears."""
        ...

    def abort(self) -> None:
        """The client went away, or the message was refused."""
        ...


class Intake(Protocol):
    """Where messages go."""

    def room(self, size: int) -> Reply | None:
        """Asked at MAIL with the announced size (0: none announced): None, or a refusal because the disk is full (wish 61)."""
        ...

    def begin(self, envelope: InboundEnvelope) -> Incoming | Reply:
        """Asked at DATA, when the envelope is complete: where the message's bytes go, or a refusal."""
        ...


class Sites(Protocol):
    """The sites that mail waits for."""

    async def release(self, node: str) -> int:
        """What waits for a node is due now, and the node is not taken for dead any more (ETRN, RFC 1985).

        `node` is a domain, "@domain" for a domain with all below it, or "#" and the name of a destination. Gives the
        number of recipients that are due now; -1 when that cannot be done for now.
        """
        ...


class Events(Protocol):
    """The event log."""

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        """Logs one event; a trailing underscore of a field's name is dropped."""
        ...
