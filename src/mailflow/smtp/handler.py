"""What the server core needs from outside: the `Handler` that decides, and the `Profile` that all its sessions share.

A handler answers each question with a `Reply`, or with `PENDING` when it has to wait for something; the core then asks
nothing more until `ServerCore.resume` brings the reply. Hooks, AUTH and policy are handlers' work; the core keeps the
order of commands, the syntax and the limits.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal, Protocol

from mailflow.smtp.commands import MailParams, RcptParams
from mailflow.smtp.data import WholeMessages
from mailflow.smtp.reply import Reply


class State(Enum):
    """Where a session stands. PENDING is not among them: it can befall every one of these."""

    START = "start"
    """Connected; EHLO or HELO is due."""
    READY = "ready"
    """Greeted; no transaction."""
    MAIL = "mail"
    """A sender, no recipient yet."""
    RCPT = "rcpt"
    """A sender and at least one recipient."""
    DATA = "data"
    """Message bytes are coming."""


class Pending(Enum):
    """The type of `PENDING`: the answer will come with `resume`."""

    PENDING = "pending"


PENDING: Literal[Pending.PENDING] = Pending.PENDING
Answer = Reply | Literal[Pending.PENDING]


class Handler(Protocol):
    """Decides for one session. All methods return at once; none raises."""

    def connect(self) -> Answer:
        """A client has come. Code 220 lets it in, and the core writes its own greeting; any other ends the session."""
        ...

    def hello(self, verb: str, name: str) -> Answer:
        """EHLO or HELO. For code 250 the core writes its own reply, with the extensions for EHLO."""
        ...

    def mail(self, sender: str, params: MailParams) -> Answer:
        """A transaction begins; "" is the null sender. Code 250 accepts."""
        ...

    def rcpt(self, recipient: str, params: RcptParams) -> Answer:
        """One recipient more. Code 250 or 251 accepts."""
        ...

    def data(self) -> Answer:
        """A message is about to come. Code 354 lets it."""
        ...

    def chunk(self, data: bytes) -> None:
        """Some bytes of the message: dots undone, line ends CR LF, never empty."""
        ...

    def end(self) -> Answer:
        """The message is complete. The transaction is over once this is answered."""
        ...

    def reset(self) -> None:
        """Forget the transaction, a message that has begun included. May be called when there is none."""
        ...

    def refused(self, answer: Reply) -> bool:
        """A command or message was refused, by the core or by the handler itself. True ends the session with this reply."""
        ...


class Profile:
    """What all sessions of a listener share: limits, and replies that hold the host's name."""

    __slots__ = (
        "command_line",
        "data_line",
        "ehlo",
        "errors",
        "greeting",
        "helo",
        "junk_commands",
        "message_size",
        "normalise",
        "whole_messages",
    )

    def __init__(
        self,
        hostname: str,
        *,
        message_size: int,
        command_line: int = 2048,
        data_line: int = 65536,
        errors: int = 20,
        junk_commands: int = 100,
        normalise: bool = False,
    ) -> None:
        """Sizes in bytes; for their meaning see `LimitsSettings`."""
        self.message_size = message_size
        self.command_line = command_line
        self.data_line = data_line
        self.errors = errors
        self.junk_commands = junk_commands
        self.normalise = normalise
        self.whole_messages = WholeMessages(message_size, data_line)
        self.greeting = Reply(220, "", (f"{hostname} ESMTP mailflow",)).encode()
        self.helo = Reply(250, "", (hostname,)).encode()
        extensions = ("PIPELINING", f"SIZE {message_size}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN")
        self.ehlo = Reply(250, "", (hostname, *extensions)).encode()
