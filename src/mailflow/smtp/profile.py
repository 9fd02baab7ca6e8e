"""What all sessions of a listener share: limits, what is offered, and the replies that follow from these.

A `Profile` is made when the server starts, one for each kind of session: its EHLO reply is put together once. What
changes within a session changes its profile: after STARTTLS it goes on with `secured`. So that nothing is offered that
would be refused, the verbs ask the profile, too. Only where something is offered to single clients (`personal`) the
handler is asked for further lines at each EHLO.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from mailflow.smtp.data import WholeMessages
from mailflow.smtp.handler import State
from mailflow.smtp.param_values import AUTH_WORDS, BINARY_WORDS, HOLD_WORDS, MAIL_WORDS, TLS_WORDS, Words, by_reader
from mailflow.smtp.reply import Reply, reply

Vrfy = Literal["unknown", "known", "off"]


@dataclass(frozen=True, slots=True)
class Offers:
    """What is offered besides the plain protocol; by default only what needs nothing from the server's settings."""

    mechanisms: tuple[str, ...] = ()
    """SASL mechanisms, in upper case; none: no AUTH (RFC 4954)."""
    chunking: bool = True
    """BDAT (RFC 3030)."""
    binarymime: bool = False
    """BODY=BINARYMIME, with `chunking` (RFC 3030)."""
    requiretls: bool = False
    """REQUIRETLS of MAIL (RFC 8689 §2: only where the session is under TLS)."""
    deliver_by: int | None = None
    """BY= of MAIL, with the shortest time in seconds (RFC 2852); None: not offered."""
    hold: bool = False
    """HOLDFOR= and HOLDUNTIL= of MAIL (RFC 4865); the handler announces them with their limits."""
    etrn: bool = False
    """RFC 1985."""
    limits: str = ""
    """What LIMITS announces (RFC 9422), such as "RCPTMAX=1000"."""
    vrfy: Vrfy = "unknown"
    """VRFY: neither confirms nor denies, asks the handler, or is not there."""
    personal: bool = False
    """The handler has further lines for single clients, such as XCLIENT."""
    hidden: frozenset[str] = frozenset()
    """Keywords in upper case that EHLO does not show."""

    def extensions(self) -> list[str]:
        """The lines that announce these."""
        lines = ["AUTH " + " ".join(self.mechanisms)] if self.mechanisms else []
        if self.chunking:
            lines += ["CHUNKING", "BINARYMIME"] if self.binarymime else ["CHUNKING"]
        if self.etrn:
            lines.append("ETRN")
        if self.requiretls:
            lines.append("REQUIRETLS")
        if self.deliver_by is not None:
            lines.append(f"DELIVERBY {self.deliver_by}")
        if self.limits:
            lines.append(f"LIMITS {self.limits}")
        return lines

    def mail_words(self) -> Words:
        """The parameters of MAIL that a client may use."""
        words = dict(MAIL_WORDS)
        if self.chunking and self.binarymime:
            words.update(BINARY_WORDS)
        if self.mechanisms:
            words.update(AUTH_WORDS)
        if self.requiretls:
            words.update(TLS_WORDS)
        if self.hold:
            words.update(HOLD_WORDS)
        if self.deliver_by is not None:
            words["BY"] = ("by", by_reader(self.deliver_by))
        return words


NO_OFFERS = Offers()


class Profile:
    """The protocol's side of a listener, for one kind of session. Never changes."""

    __slots__ = (
        "_hello",
        "command_line",
        "data_line",
        "ehlo",
        "errors",
        "greeted",
        "greeting",
        "helo",
        "help",
        "junk_commands",
        "lmtp",
        "mail_words",
        "message_size",
        "normalise",
        "offers",
        "secured",
        "soft",
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
        soft: bool = False,
        lmtp: bool = False,
        banner: Sequence[str] = (),
        offers: Offers = NO_OFFERS,
        secured: Profile | None = None,
        tls_first: bool = False,
    ) -> None:
        """Sizes in bytes; for their meaning see `LimitsSettings`.

        `soft`: errors of the protocol are answered with 4xx. `banner`: the lines of the greeting. `secured`: the profile
        of the session once TLS has begun; with one, STARTTLS is offered (RFC 3207). With `tls_first` nothing else is
        possible before it.
        """
        self.message_size = message_size
        self.command_line = command_line
        self.data_line = data_line
        self.errors = errors
        self.junk_commands = junk_commands
        self.normalise = normalise
        self.soft = soft
        self.lmtp = lmtp
        self.offers = offers
        self.secured = secured
        self.tls_first = tls_first
        self.greeted = State.START if tls_first else State.READY
        """Where a session stands after EHLO."""
        self.whole_messages = WholeMessages(message_size, data_line)
        self.mail_words = offers.mail_words()
        self.greeting = Reply(
            220, "", tuple(banner) or (f"{hostname} {'LMTP' if lmtp else 'ESMTP'} mailflow",)
        ).encode()
        self.helo = Reply(250, "", (hostname,)).encode()
        self._hello = (hostname, *self._extensions())
        self.ehlo = Reply(250, "", self._hello).encode()
        self.help = reply(214, "2.0.0", " ".join(self._verbs()), "See RFC 5321")

    def __repr__(self) -> str:
        return f"<Profile {' '.join(self._hello)}>"

    def personal(self, further: Collection[str]) -> bytes:
        """The EHLO reply with further lines."""
        return Reply(250, "", (*self._hello, *further)).encode()

    def _extensions(self) -> list[str]:
        """The lines of the EHLO reply behind the first."""
        lines = ["PIPELINING", f"SIZE {self.message_size}"]
        if self.secured is not None:
            lines.append("STARTTLS")
        lines += ["8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", *self.offers.extensions()]
        return [line for line in lines if line.partition(" ")[0] not in self.offers.hidden]

    def _verbs(self) -> list[str]:
        """What HELP names."""
        offers = self.offers
        verbs = ["LHLO"] if self.lmtp else ["EHLO", "HELO"]
        if self.secured is not None:
            verbs.append("STARTTLS")
        if offers.mechanisms:
            verbs.append("AUTH")
        verbs += ["MAIL", "RCPT", "DATA", "BDAT"] if offers.chunking else ["MAIL", "RCPT", "DATA"]
        verbs += ["RSET", "NOOP"]
        if offers.vrfy != "off":
            verbs.append("VRFY")
        if offers.etrn and not self.lmtp:
            verbs.append("ETRN")
        return [*verbs, "HELP", "QUIT"]
