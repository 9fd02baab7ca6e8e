"""One client's session: what the protocol core's questions are answered with.

The core (`smtp/server.py`) keeps order and syntax; who the client is stands in `identity.py`, what it asks for beside mail in
`services.py`, how guards are asked in `asking.py`. Here is the envelope, and who may send what to whom: sender and
recipients are checked (`policy/relay.py`), recipients resolved (`ports.Recipients`), the message handed to `ports.Intake`.
The session talks to its connection through `desk.Wire` only. Everything answers at once except the end of a message, which
is PENDING until the message is safe on disk, and a question that a guard has to wait with.

Invariants: a message that was begun ends with exactly one of `finish` and `abort`. The client's record (`Peer`) is
one frozen object, the same for all messages of the session (wish 20).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mailflow.envelope import PLAIN, InboundEnvelope, Options, Peer, Recipient, Route
from mailflow.ingress.asking import Marks
from mailflow.ingress.desk import Desk, Wire
from mailflow.ingress.identity import Identified
from mailflow.ingress.naming import wait_for_name
from mailflow.ingress.policy.relay import (
    RELAY_DENIED,
    check_recipient,
    check_sender,
    is_source_routed,
    soften,
)
from mailflow.ingress.ports import Incoming
from mailflow.ingress.verdict import Action, Edit, Verdict
from mailflow.smtp.commands import NO_MAIL_PARAMS, NO_RCPT_PARAMS, MailParams, RcptParams
from mailflow.smtp.handler import PENDING, Answer, Offence
from mailflow.smtp.replies import DISCARDED, MAIL_OK, NO_TLS_FURTHER, RCPT_OK, START_DATA, blames_client
from mailflow.smtp.reply import Reply, reply

DEBUG_LEVEL, LOG_LEVEL = 10, 20
"""`observe.lines.Level.DEBUG` and `INFO`."""
TOO_MANY_MESSAGES = reply(421, "4.7.0", "Too many messages in one session")  # RFC 9422 §4.1
TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients")


class Session(Identified):
    """Implements `smtp.handler.Handler` for one connection; it is the guards' `verdict.Situation`."""

    __slots__ = (
        "_answer",
        "_finishing",
        "_holding",
        "_incoming",
        "_instance",
        "_instead",
        "_opening",
        "_size",
        "_spread",
        "_told",
        "messages",
        "offences",
        "params",
        "recipient",
        "recipients",
        "sender",
        "unnoticed",
    )

    def __init__(self, desk: Desk, wire: Wire, address: str, port: int) -> None:
        super().__init__(desk, wire, address, port)
        self.messages = 0
        """Messages accepted so far."""
        self.offences = 0
        """What `offended` was told and did not ignore."""
        self.unnoticed = False
        """Its refusal was no news, and so its end is none (`Verdict.level`)."""
        self.sender: str | None = None
        self.params = NO_MAIL_PARAMS
        self.recipients: list[Recipient] = []
        self.recipient = ""
        """The recipient being decided on."""
        self._size = 0
        self._spread = 0
        """Recipients beyond those that the client gave: some have several in their place."""
        self._told: Reply | None = None
        """The refusal that was logged last."""
        self._opening = False
        """MAIL is being decided on, or was refused."""
        self._incoming: Incoming | None = None
        self._instead: Sequence[Recipient] | None = None
        """Who stands in for the recipient being decided on."""
        self._holding = False
        """The connection was told to read no more."""
        self._finishing = False
        self._answer: Reply | None = None
        self._instance = ""

    def __repr__(self) -> str:
        return f"<Session {self.client} from={self.sender!r} recipients={len(self.recipients)}>"

    @property
    def incoming(self) -> Incoming | None:
        """From DATA on: where the message's bytes go."""
        return self._incoming

    @property
    def size(self) -> int:
        """The message's size in bytes as far as it has come; before it comes, the announced one."""
        return self._size or self.params.size or 0

    @property
    def instance(self) -> str:
        """A name for the transaction, made when somebody asks for it."""
        if not self._instance:
            self._instance = self._desk.instance()
        return self._instance

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        """Logs an event with the client and, in a transaction, the envelope."""
        peer = self.peer
        about: dict[str, Any] = {"client": str(peer), "proto": peer.protocol}
        if peer.helo:
            about["helo"] = peer.helo
        if self.sender is not None:
            about["from_"] = self.sender
        if self.recipient:
            about["to"] = self.recipient
        self._desk.log.event(name, level=level, **about, **fields)

    def closed(self) -> None:
        """The connection is gone; an answer that is still to come has nobody to hear it."""
        self.stop_asking()
        self.reset()
        self._forget_naming()
        self._wire = None
        for watcher in self._panel.watchers:
            watcher.closed(self)
        if self._panel.conduct is not None:
            self._panel.conduct.closed(self)

    # The core's questions, in the order of a conversation

    def mail(self, sender: str, params: MailParams) -> Answer:
        """A transaction begins, unless the sender is no good or the disk is full."""
        self.sender = sender
        self.params = params
        self.recipients = []
        self._marks = None
        self._instance = ""
        self._spread = 0
        desk = self._desk
        if params is NO_MAIL_PARAMS:
            refusal = desk.room(0)
        else:
            refusal = desk.room(params.size or 0)
            if params.hold_for or params.hold_until:
                refusal = refusal or self._hold_refused(params)
        if self.messages >= desk.message_limit:
            refusal = TOO_MANY_MESSAGES
        if refusal is None and not self.trusted:
            refusal = check_sender(sender)
            if refusal is not None:
                refusal = self._standing(refusal, "reject_unqualified_sender")
        if refusal is not None:
            self._opening = True
            return refusal
        questions = self._panel.mail
        if questions:
            self._opening = True
            return self._ask(questions, self._open)
        return MAIL_OK

    def _open(self) -> Answer:
        self._opening = False
        return MAIL_OK

    def rcpt(self, recipient: str, params: RcptParams) -> Answer:
        """One recipient more, if it exists and this client may write to it (wish 5)."""
        desk = self._desk
        self.recipient = recipient
        if len(self.recipients) >= desk.recipient_limit:
            return TOO_MANY_RECIPIENTS
        trusted = self.trusted
        if not trusted:
            refusal = check_recipient(recipient)
            if refusal is not None:
                refusal = self._standing(refusal, "reject_unqualified_recipient")
                if refusal is not None:
                    return refusal
        route = desk.resolve(recipient)
        if not isinstance(route, Route):
            refusal = Reply(route.code, route.status, (route.text,))
            return self._standing(refusal, "reject_unlisted_recipient", route.why) or refusal
        if not trusted and route.kind != "local" and (route.kind == "remote" or is_source_routed(recipient)):
            return self._foreign(recipient, params, route)
        if self.params.requiretls and route.transport == "smtp":
            return NO_TLS_FURTHER
        questions = self._panel.rcpt
        if questions:
            return self._ask(questions, lambda: self._decided_on(recipient, params, route))
        return self._take(recipient, params, route)

    def _decided_on(self, recipient: str, params: RcptParams, route: Route) -> Answer:
        instead = self._instead
        if instead is None:
            return self._take(recipient, params, route)
        self._instead = None
        for other in instead:
            other.orcpt, other.notify = params.orcpt, params.notify
        self.recipients.extend(instead)
        self._spread += len(instead) - 1
        self.recipient = ""
        return RCPT_OK

    def _foreign(self, recipient: str, params: RcptParams, route: Route) -> Answer:
        """A recipient that is not ours, from a stranger: refused, unless a rule says that it may be relayed."""
        if not self._panel.relays:
            return self._standing(RELAY_DENIED, "reject_unauth_destination") or RELAY_DENIED
        marks = self._marks
        if marks is None:
            marks = self._marks = Marks()
        marks.relay = False

        def finish() -> Answer:
            if self._marks is marks and marks.relay:
                return self._decided_on(recipient, params, route)
            return self._standing(RELAY_DENIED, "reject_unauth_destination") or RELAY_DENIED

        return self._ask(self._panel.rcpt, finish)

    def _standing(self, refusal: Reply, rule: str, why: str = "") -> Reply | None:
        """A refusal that is in force without any rule, in its mode; None when it is only logged."""
        mode = self._panel.modes.get(rule, "enforce")
        if mode == "log-only":
            self.event("policy", mode=mode, would="refuse", rule=rule, why=why, reason=refusal.text)
            return None
        if mode == "soft-fail":
            refusal = soften(refusal)
        self._verdict = Verdict(Action.REFUSE, refusal, why, rule)
        return refusal

    def _take(self, recipient: str, params: RcptParams, route: Route) -> Answer:
        address = route.recipient
        original = "" if address == recipient else recipient
        if params is NO_RCPT_PARAMS:
            self.recipients.append(Recipient(0, address, route.destination, original))
        else:
            self.recipients.append(Recipient(0, address, route.destination, original, params.orcpt, params.notify))
        self.recipient = ""
        return RCPT_OK

    def data(self) -> Answer:
        """The envelope is complete; a message is about to come."""
        questions = self._panel.data
        if self._naming is not None:  # it will stand in the Received: header
            questions = (wait_for_name, *questions)
        return self._ask(questions, self._begin) if questions else self._begin()

    def _begin(self) -> Answer:
        peer, params, options, marks = self._peer or self.peer, self.params, PLAIN, self._marks
        release = 0.0
        if params is not NO_MAIL_PARAMS:
            peer, options = self._asked_for(params)
            release = self._release(params)
        if self._forwarded is not None:
            peer = replace(self.peer, **self._forwarded)
        envelope = InboundEnvelope(peer, self.sender or "", self.recipients, options, self.trusted)
        if release:
            envelope.release = release
        if marks is not None:
            envelope.hold, envelope.header = marks.hold, marks.header
        incoming = self._desk.begin(envelope)
        if isinstance(incoming, Reply):
            return incoming
        self._incoming, self._answer = incoming, None
        self._size = 0
        incoming.on_drain = self._drained
        return START_DATA

    def chunk(self, data: bytes) -> None:
        """Some bytes of the message."""
        incoming = self._incoming
        if incoming is not None:
            self._size += len(data)
            if not incoming.write(data) and self._wire is not None:
                self._holding = True
                self._wire.hold()

    def end(self) -> Answer:
        """The message is complete; it is answered for when it is safe."""
        questions = self._panel.end
        return self._ask(questions, self._hand_over) if questions else self._hand_over()

    def _hand_over(self) -> Answer:
        incoming, marks = self._incoming, self._marks
        if incoming is None:  # not possible: the core asks only after 354
            return reply(451, "4.3.0", "No message")
        if marks is not None:
            if marks.discard:
                self.event("discard")
                self.reset()
                return DISCARDED
            incoming.envelope.hold, incoming.envelope.header = marks.hold, marks.header
        self._incoming = self.sender = None
        if self._holding:
            self._drained()
        self._finishing = True
        incoming.finish(self._finished)
        self._finishing = False
        return self._answer or PENDING

    def copies(self) -> int:
        """How many recipients were accepted, as the client counts them."""
        return len(self.recipients) - self._spread

    def said(self, verb: str, text: str, usual: Reply) -> Answer:  # noqa: ARG002
        """A command that changes nothing is answered as usual."""
        return usual

    def reset(self) -> None:
        """The transaction is forgotten."""
        self.sender = None
        incoming = self._incoming
        if incoming is not None:
            self._incoming = None
            incoming.on_drain = None
            incoming.abort()
            if self._holding:
                self._drained()

    def refused(self, answer: Reply) -> bool:
        """Logs a refusal, whoever decided it."""
        verdict, closing = self._verdict, self._closing
        why: dict[str, Any] = {}
        level = LOG_LEVEL
        if verdict is not None:
            self._verdict, self._closing = None, False
            level = verdict.level
            self.unnoticed = level < LOG_LEVEL
            why = {key: text for key, text in (("rule", verdict.rule), ("why", verdict.reason)) if text}
        if answer == self._told and not blames_client(answer):
            level = DEBUG_LEVEL  # it costs the client nothing to hear this any number of times
        self._told = answer
        self.event("reject", level, reason=answer.text, **why)
        for watcher in self._panel.watchers:
            watcher.refused(self, answer)
        if self._panel.conduct is not None:
            self._panel.conduct.refused(self, answer)
        self.recipient, self._instead = "", None
        if self._opening:
            self._opening, self.sender = False, None
        return closing

    def offended(self, offence: Offence, data: bytes) -> Reply | None:
        """The client behaves badly: abuse control decides what becomes of it."""
        conduct = self._panel.conduct
        return None if conduct is None else conduct.offended(self, offence, data)

    def tolerates(self, limit: int) -> int:
        """Fewer errors under stress."""
        conduct = self._panel.conduct
        return limit if conduct is None else conduct.tolerates(self, limit)

    # Helpers

    def _asked_for(self, params: MailParams) -> tuple[Peer, Options]:
        """What MAIL's parameters make of this message."""
        peer = self.peer
        if params.smtputf8:
            # RFC 6531 §4.3: the word for this message only.
            peer = replace(peer, protocol="UTF8" + peer.protocol.removeprefix("E"))
        return peer, self._options(params)

    def _edit(self, edit: Edit) -> None:
        incoming = self._incoming
        if edit.sender is not None:
            self.sender = edit.sender
            if incoming is not None:
                incoming.envelope.sender = edit.sender
        if edit.recipients is not None:
            if self.recipient:
                self._instead = edit.recipients
            else:
                self._spread += len(edit.recipients) - len(self.recipients)  # the client counts those that it gave
                self.recipients[:] = edit.recipients

    def _finished(self, answer: Reply) -> None:
        if answer.code < 400:
            self.messages += 1
            for watcher in self._panel.watchers:
                watcher.accepted(self)
        if self._finishing:
            self._answer = answer
        elif self._wire is not None:
            self._wire.answer(answer)

    def _drained(self) -> None:
        self._holding = False
        if self._wire is not None:
            self._wire.go_on()
