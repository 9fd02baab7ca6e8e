"""What all sessions of a listener share: limits, what is offered, and the replies that follow from these.

A `Profile` is made when the server starts, one for each kind of session: its EHLO reply is put together once. What
changes within a session changes its profile: after STARTTLS it goes on with `secured`. So that nothing is offered that
would be refused, the verbs ask the profile, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailflow.smtp.data import WholeMessages
from mailflow.smtp.handler import State
from mailflow.smtp.reply import Reply


@dataclass(frozen=True, slots=True)
class Offers:
    """What is offered besides the plain protocol; by default only what needs nothing from the server's settings."""

    mechanisms: tuple[str, ...] = ()
    """SASL mechanisms, in upper case; none: no AUTH (RFC 4954)."""


NO_OFFERS = Offers()


class Profile:
    """The protocol's side of a listener, for one kind of session. Never changes."""

    __slots__ = (
        "command_line",
        "data_line",
        "ehlo",
        "errors",
        "greeted",
        "greeting",
        "helo",
        "junk_commands",
        "message_size",
        "normalise",
        "offers",
        "secured",
        "tls_first",
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
        offers: Offers = NO_OFFERS,
        secured: Profile | None = None,
        tls_first: bool = False,
    ) -> None:
        """Sizes in bytes; for their meaning see `LimitsSettings`.

        `secured` is the profile of the session once TLS has begun; with one, STARTTLS is offered (RFC 3207). With
        `tls_first` nothing else is possible before it.
        """
        self.message_size = message_size
        self.command_line = command_line
        self.data_line = data_line
        self.errors = errors
        self.junk_commands = junk_commands
        self.normalise = normalise
        self.offers = offers
        self.secured = secured
        self.tls_first = tls_first
        self.greeted = State.START if tls_first else State.READY
        """Where a session stands after EHLO."""
        self.whole_messages = WholeMessages(message_size, data_line)
        self.greeting = Reply(220, "", (f"{hostname} ESMTP mailflow",)).encode()
        self.helo = Reply(250, "", (hostname,)).encode()
        self.ehlo = Reply(250, "", (hostname, *self._extensions())).encode()

    def _extensions(self) -> list[str]:
        """The lines of the EHLO reply behind the first."""
        offers = self.offers
        lines = ["PIPELINING", f"SIZE {self.message_size}"]
        if self.secured is not None:
            lines.append("STARTTLS")
        if offers.mechanisms:
            lines.append("AUTH " + " ".join(offers.mechanisms))
        return [*lines, "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"]
