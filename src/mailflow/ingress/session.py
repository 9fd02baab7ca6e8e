"""One client's session: what the protocol core's questions are answered with.

The core (`smtp/server.py`) keeps order and syntax; here is the envelope, and who may send what to whom: sender and
recipients are checked (`policy.py`), recipients resolved (`ports.Recipients`), the message handed to `ports.Intake`.
The session talks to its connection through `Wire` only. Everything answers at once except the end of a message, which
is PENDING until the message is safe on disk.

Invariants: a message that was begun ends with exactly one of `finish` and `abort`. The client's record (`Peer`) is
one frozen object, the same for all messages of the session (wish 20).
"""

from __future__ import annotations

from typing import Any, Protocol

from mailflow.envelope import PLAIN, InboundEnvelope, Options, Peer, Recipient, Route
from mailflow.ingress.policy import RELAY_DENIED, RelayControl, check_recipient, check_sender
from mailflow.ingress.ports import Events, Incoming, Intake, Recipients
from mailflow.smtp.commands import NO_MAIL_PARAMS, NO_RCPT_PARAMS, MailParams, RcptParams
from mailflow.smtp.handler import PENDING, Answer
from mailflow.smtp.replies import MAIL_OK, RCPT_OK, START_DATA
from mailflow.smtp.reply import Reply, reply

TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients")
HELLO = reply(250, "", "")

# Nearly all mail has one of these; an ENVID is different each time.
_USUAL_OPTIONS = {
    (body, utf8, ret, ""): Options(body, utf8, ret)
    for body in ("", "7BIT", "8BITMIME")
    for utf8 in (False, True)
    for ret in ("", "FULL", "HDRS")
} | {("", False, "", ""): PLAIN}


class Desk:
    """What all sessions share: whom they ask."""

    __slots__ = ("begin", "is_ours", "log", "recipient_limit", "relay", "resolve", "room")

    def __init__(
        self, recipients: Recipients, intake: Intake, relay: RelayControl, log: Events, recipient_limit: int
    ) -> None:
        # The questions themselves, looked up once and not for every command.
        self.resolve, self.is_ours = recipients.resolve, recipients.is_ours
        self.room, self.begin = intake.room, intake.begin
        self.relay = relay
        self.log = log
        self.recipient_limit = recipient_limit


class Wire(Protocol):
    """The connection, as its session sees it."""

    def answer(self, answer: Reply) -> None:
        """Brings the answer that was pending."""
        ...

    def hold(self) -> None:
        """Read no more from the client for now."""
        ...

    def go_on(self) -> None:
        """Read again."""
        ...


class Session:
    """Implements `smtp.handler.Handler` for one connection."""

    __slots__ = (
        "_answer",
        "_asked",
        "_desk",
        "_finishing",
        "_holding",
        "_incoming",
        "_params",
        "_peer",
        "_port",
        "_recipients",
        "_sender",
        "_wire",
        "address",
        "messages",
        "trusted",
    )

    def __init__(self, desk: Desk, wire: Wire, address: str, port: int) -> None:
        self._desk = desk
        self._wire: Wire | None = wire
        self.address = address
        self._port = port
        self._peer: Peer | None = None
        """Made at EHLO, when there is something to know about the client."""
        self.trusted = desk.relay.trusts(address)
        """Whether this client may send anywhere."""
        self.messages = 0
        """Messages accepted so far."""
        self._sender: str | None = None
        self._params = NO_MAIL_PARAMS
        self._recipients: list[Recipient] = []
        self._incoming: Incoming | None = None
        self._holding = False
        """The connection was told to read no more."""
        self._finishing = False
        self._answer: Reply | None = None
        self._asked = ""
        """The recipient being decided on, for the log."""

    def __repr__(self) -> str:
        return f"<Session {self.client} from={self._sender!r} recipients={len(self._recipients)}>"

    @property
    def peer(self) -> Peer:
        """The client's record as it is now."""
        return self._peer or Peer(self.address, self._port, protocol="SMTP")

    @property
    def client(self) -> str:
        """The client as the log shows it."""
        return str(self._peer) if self._peer else f"unknown[{self.address}]"

    def closed(self) -> None:
        """The connection is gone; an answer that is still to come has nobody to hear it."""
        self.reset()
        self._wire = None

    # The core's questions, in the order of a conversation

    def hello(self, verb: str, name: str) -> Answer:
        """Notes the client's name."""
        old = self._peer
        protocol = "ESMTP" if verb == "EHLO" else "SMTP"
        if old is None:
            self._peer = Peer(self.address, self._port, "", name, protocol)
        elif name != old.helo or protocol != old.protocol:
            self._peer = Peer(old.address, old.port, old.name, name, protocol, old.tls, old.login)
        return HELLO

    def mail(self, sender: str, params: MailParams) -> Answer:
        """A transaction begins, unless the sender is no good or the disk is full."""
        refusal = self._desk.room(0 if params is NO_MAIL_PARAMS else params.size or 0)
        if refusal is None and not self.trusted:
            refusal = check_sender(sender)
        if refusal is not None:
            return refusal
        self._sender = sender
        self._params = params
        self._recipients = []
        return MAIL_OK

    def rcpt(self, recipient: str, params: RcptParams) -> Answer:
        """One recipient more, if it exists and this client may write to it (wish 5)."""
        desk, recipients = self._desk, self._recipients
        if len(recipients) >= desk.recipient_limit:
            return self._refuse(recipient, TOO_MANY_RECIPIENTS)
        trusted = self.trusted
        if not trusted:
            refusal = check_recipient(recipient)
            if refusal is not None:
                return self._refuse(recipient, refusal)
        route = desk.resolve(recipient)
        if not isinstance(route, Route):
            return self._refuse(recipient, Reply(route.code, route.status, (route.text,)))
        if not trusted and route.transport != "local" and not desk.is_ours(recipient):
            return self._refuse(recipient, RELAY_DENIED)
        address = route.recipient
        original = "" if address == recipient else recipient
        if params is NO_RCPT_PARAMS:
            recipients.append(Recipient(0, address, route.destination, original))
        else:
            recipients.append(Recipient(0, address, route.destination, original, params.orcpt, params.notify))
        return RCPT_OK

    def data(self) -> Answer:
        """The envelope is complete; a message is about to come."""
        peer, params, options = self._peer or self.peer, self._params, PLAIN
        if params is not NO_MAIL_PARAMS:
            peer, options = self._asked_for(params)
        envelope = InboundEnvelope(peer, self._sender or "", self._recipients, options, self.trusted)
        incoming = self._desk.begin(envelope)
        if isinstance(incoming, Reply):
            return incoming
        self._incoming = incoming
        incoming.on_drain = self._drained
        return START_DATA

    def chunk(self, data: bytes) -> None:
        """Some bytes of the message."""
        incoming = self._incoming
        if incoming is not None and not incoming.write(data) and self._wire is not None:
            self._holding = True
            self._wire.hold()

    def end(self) -> Answer:
        """The message is complete; it is answered for when it is safe."""
        incoming = self._incoming
        if incoming is None:  # not possible: the core asks only after 354
            return reply(451, "4.3.0", "No message")
        self._incoming = self._sender = self._answer = None
        if self._holding:
            self._drained()
        self._finishing = True
        incoming.finish(self._finished)
        self._finishing = False
        return self._answer or PENDING

    def reset(self) -> None:
        """The transaction is forgotten."""
        self._sender = None
        incoming = self._incoming
        if incoming is not None:
            self._incoming = None
            incoming.on_drain = None
            incoming.abort()
            if self._holding:
                self._drained()

    def refused(self, answer: Reply) -> None:
        """Logs a refusal, whoever decided it."""
        peer = self.peer
        fields: dict[str, Any] = {"client": str(peer), "proto": peer.protocol}
        if peer.helo:
            fields["helo"] = peer.helo
        if self._sender is not None:
            fields["from_"] = self._sender
        if self._asked:
            fields["to"], self._asked = self._asked, ""
        self._desk.log.event("reject", **fields, reason=answer.text)

    # Helpers

    def _asked_for(self, params: MailParams) -> tuple[Peer, Options]:
        """What MAIL's parameters make of this message."""
        peer = self.peer
        if params.smtputf8:
            # RFC 6531 §4.3: the word for this message only.
            peer = Peer(peer.address, peer.port, peer.name, peer.helo, "UTF8SMTP", peer.tls, peer.login)
        wishes = params[1:]
        return peer, _USUAL_OPTIONS.get(wishes) or Options(*wishes)

    def _refuse(self, recipient: str, answer: Reply) -> Reply:
        self._asked = recipient
        return answer

    def _finished(self, answer: Reply) -> None:
        if answer.code < 400:
            self.messages += 1
        if self._finishing:
            self._answer = answer
        elif self._wire is not None:
            self._wire.answer(answer)

    def _drained(self) -> None:
        self._holding = False
        if self._wire is not None:
            self._wire.go_on()
