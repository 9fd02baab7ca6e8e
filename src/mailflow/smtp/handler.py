"""What the server core needs from outside: the `Handler` that decides. (The limits are in profile.py.)

A handler answers each question with a `Reply`, or with `PENDING` when it has to wait for something; the core then asks
nothing more until `ServerCore.resume` brings the reply. Hooks, AUTH and policy are handlers' work; the core keeps the
order of commands, the syntax and the limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

from mailflow.smtp.commands import MailParams, RcptParams
from mailflow.smtp.reply import Reply

if TYPE_CHECKING:
    from mailflow.smtp.profile import Profile  # which needs `State`


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
    """Message bytes are coming, up to the final dot."""
    CHUNKS = "chunks"
    """A message has begun to come by BDAT; commands come between its chunks."""


class Offence(Enum):
    """What a client does that no client should; the value is for the log."""

    EARLY = "talks before the greeting"
    AHEAD = "does not wait for a reply"
    """RFC 2920 §3.1: some commands end a group, and nothing may be pipelined before EHLO has offered it."""
    DEAF = "ignores error replies"
    STRANGE = "does not speak SMTP"


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
        """EHLO or HELO. For `replies.HELLO` the core writes its own reply, with the extensions for EHLO."""
        ...

    def starttls(self) -> Answer:
        """The client asks for TLS. Code 220 grants it: the core then takes no input until `ServerCore.secured`."""
        ...

    def auth(self, mechanism: str, initial: bytes | None) -> Answer:
        """AUTH with a mechanism that is offered, in upper case; `initial` is the client's first response, None without.

        Code 334 (`replies.challenge`) asks for more, 235 lets the client in, any other ends the exchange (RFC 4954).
        """
        ...

    def auth_response(self, data: bytes) -> Answer:
        """The client's answer to the last challenge, decoded. Answered like `auth`."""
        ...

    def auth_cancelled(self) -> None:
        """The exchange is over before its end: cancelled, malformed, or the line too long. The core has the reply."""
        ...

    def offers(self) -> Sequence[str]:
        """Further lines of the EHLO reply, for this client; asked where the profile says so."""
        ...

    def profile(self, now: Profile) -> Profile:
        """The profile for the client as it is known now, after XCLIENT; `now` is the session's so far."""
        ...

    def may_speak_for_others(self, verb: str) -> bool:
        """Whether this client may say XCLIENT or XFORWARD."""
        ...

    def xclient(self, attributes: Mapping[str, str | None]) -> Answer:
        """The session is another client's, see verbs_proxy.py. After code 220 it begins anew, with `connect`."""
        ...

    def xforward(self, attributes: Mapping[str, str | None]) -> Answer:
        """The messages to come are another client's."""
        ...

    def vrfy(self, address: str) -> Answer:
        """What RCPT would say to this address: 250 or 251 with the address, or a refusal."""
        ...

    def etrn(self, node: str) -> Answer:
        """Send what waits for this node (RFC 1985): a domain, "@domain" with all below it, or "#queue"."""
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
        """The message is complete. The transaction is over once this is answered; after a refusal `reset` is called."""
        ...

    def copies(self) -> int:
        """How many recipients the transaction has, or had: with LMTP the end of the message gets a reply for each."""
        ...

    def said(self, verb: str, text: str, usual: Reply) -> Answer:
        """RSET, NOOP, VRFY or QUIT was said, with `text` behind it: what is answered, normally `usual`."""
        ...

    def reset(self) -> None:
        """Forget the transaction, a message that has begun included. May be called when there is none."""
        ...

    def offended(self, offence: Offence, data: bytes) -> Reply | None:
        """The client behaves badly; `data` is what it sent, or its beginning. A 421 ends the session, None lets it go on.

        STRANGE is a question: these bytes are no command, or come where EHLO was due, and may be another protocol.
        """
        ...

    def tolerates(self, limit: int) -> int:
        """How many errors, or commands that lead nowhere, this client may make, where `limit` is the usual number."""
        ...

    def refused(self, answer: Reply) -> bool:
        """A command or message was refused, by the core or by the handler itself. True ends the session with this reply."""
        ...
