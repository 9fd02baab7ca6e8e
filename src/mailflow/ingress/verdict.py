"""What a guard of the ingress decides, and what it may look at: the seam between sessions and all policy.

A guard is asked at the stages it names, with the session as its `Situation`. It answers None (no objection), a
`Verdict`, or an awaitable of either when it has to wait for something (DNS, a database, a program's hook); only then
does the session wait, and only that session. Guards are asked in order. The first verdict that refuses ends the
asking; marks (HOLD, DISCARD, HEADER, and `Verdict.relay`) and edits are noted and the asking goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from mailflow.envelope import Peer, Recipient
from mailflow.ingress.ports import Incoming
from mailflow.ingress.stage import Stage
from mailflow.smtp.commands import MailParams
from mailflow.smtp.reply import Reply


class Action(Enum):
    """What a verdict does."""

    REFUSE = "refuse"
    """The command gets `reply`, a 4xx or 5xx; a 421 ends the session."""
    CLOSE = "close"
    """The command gets `reply`, and the session ends."""
    DROP = "drop"
    """The connection is closed without a word; `reply` is for the log."""
    DISCARD = "discard"
    """The message is acknowledged and thrown away."""
    HOLD = "hold"
    """The message is accepted and stays in the queue until it is released; `reason` tells why (quarantine)."""
    HEADER = "header"
    """The message gets `header` in front."""
    EDIT = "edit"
    """The envelope is changed by `edit`, the message gets `header` in front, and is held when there is a `reason`."""
    PERMIT = "permit"
    """Ends a list of rules without an objection (`policy/rules.py`); by itself it changes nothing."""


class Edit(NamedTuple):
    """Changes of an envelope; None leaves a part as it is."""

    sender: str | None = None
    recipients: Sequence[Recipient] | None = None
    """At RCPT: who stands in for the recipient; later: all recipients. Resolved already."""


class Verdict(NamedTuple):
    """One decision."""

    action: Action
    reply: Reply | None = None
    """What the client hears, for REFUSE and CLOSE; for DROP what the log says that it would have heard."""
    reason: str = ""
    """For the log and the queue: why."""
    rule: str = ""
    """For the log: which rule decided, and where it is written."""
    header: bytes = b""
    """For HEADER, and beside every other action that takes the message: complete fields, each with its CR LF."""
    edit: Edit | None = None
    level: int = 20
    """For the log: how important the refusal is (`observe.lines.Level`)."""
    relay: bool = False
    """At RCPT: this recipient may be relayed although the client is a stranger and the destination is not ours."""


class Situation(Protocol):
    """What a guard may look at: the session as it is now."""

    @property
    def peer(self) -> Peer:
        """The client's record."""
        ...

    @property
    def address(self) -> str:
        """The client's IP address; "" for one that has none."""
        ...

    @property
    def trusted(self) -> bool:
        """Whether the client may send anywhere."""
        ...

    @property
    def service(self) -> str:
        """The name of the listener."""
        ...

    @property
    def sender(self) -> str | None:
        """The envelope sender, "" for the null sender; None outside of a transaction."""
        ...

    @property
    def params(self) -> MailParams:
        """The parameters of MAIL."""
        ...

    @property
    def recipient(self) -> str:
        """At RCPT: the recipient as the client wrote it."""
        ...

    @property
    def recipients(self) -> Sequence[Recipient]:
        """The recipients accepted so far."""
        ...

    @property
    def incoming(self) -> Incoming | None:
        """From DATA on: where the message's bytes go."""
        ...

    @property
    def instance(self) -> str:
        """A name for the transaction, the same at all its stages and never used again; for policy services."""
        ...

    @property
    def messages(self) -> int:
        """How many messages of this session were accepted."""
        ...

    @property
    def size(self) -> int:
        """At END: the size of the message in bytes; before: the announced one, or 0."""
        ...

    def named(self) -> Awaitable[None] | None:
        """None when `peer.name` is as good as it gets; else what to wait for, as the look-up is under way."""
        ...

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        """Logs an event with the session's client and envelope."""
        ...


Finding = Verdict | None
Ask = Callable[[Situation], "Finding | Awaitable[Finding]"]


class Guard(Protocol):
    """One part of the policy."""

    @property
    def stages(self) -> Collection[Stage]:
        """When it wants to be asked."""
        ...

    def at(self, stage: Stage) -> Ask:
        """The question of a stage; looked up once, when the server starts."""
        ...


class Watcher(Protocol):
    """Is told what happens in sessions: for counters and blame. Returns at once and does not raise."""

    def refused(self, situation: Situation, answer: Reply) -> None:
        """A command was refused, by whomever."""
        ...

    def accepted(self, situation: Situation) -> None:
        """A message was accepted and is safe on disk."""
        ...

    def closed(self, situation: Situation) -> None:
        """The session is over."""
        ...
