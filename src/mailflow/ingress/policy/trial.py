"""What would happen if …: one session played through without a network, every rule that is reached written down.

The session is a real one (`ingress/session.py`), with the compiled rules as its guards, so that what a trial says is
what the server does; only the client, the log and the place for the message are imagined. `mailflow policy test` prints it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mailflow.envelope import InboundEnvelope
from mailflow.ingress.asking import Panel
from mailflow.ingress.desk import Desk
from mailflow.ingress.policy.names import ClientNames
from mailflow.ingress.policy.relay import RelayControl
from mailflow.ingress.policy.rules import Rule, RuleGuard, RuleList
from mailflow.ingress.ports import Recipients
from mailflow.ingress.session import Session
from mailflow.ingress.verdict import Finding, Guard
from mailflow.smtp.commands import NO_RCPT_PARAMS, MailParams
from mailflow.smtp.handler import Answer, Pending
from mailflow.smtp.reply import Reply, reply

ACCEPTED = reply(250, "2.0.0", "Ok")
RECIPIENTS = 1000
PORT = 50000
"""The client's port; no rule looks at it."""


@dataclass(frozen=True, slots=True)
class Client:
    """The client of a trial, and what it says."""

    address: str
    name: str | None = None
    """Its verified name; "" for none; None: as the name service says."""
    helo: str = "client.example"
    sender: str = ""
    recipients: tuple[str, ...] = ()
    login: str = ""
    certificate: str = ""
    tls: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened."""

    stage: str
    """The command of the client: "connect", "helo", "mail", "rcpt", "data", "end"."""
    about: str = ""
    """What the client said there."""
    rules: str = ""
    """The list of rules, for a rule; "" for what the session decided, and for its answer."""
    rule: str = ""
    origin: str = ""
    """Where the rule is written."""
    outcome: str = ""
    """For a rule: "does not apply", "no objection", "permit", "refuse", …; for an answer: "accepted" or "refused"."""
    why: str = ""
    reply: str = ""


@dataclass(slots=True)
class Outcome:
    """How a trial ended."""

    steps: list[Step] = field(default_factory=list)
    answer: Reply = ACCEPTED
    """What the client heard last: the refusal, or the acceptance of the message."""
    decided_by: str = ""
    """The rule that refused, with its place; "" when the message was accepted."""
    envelope: InboundEnvelope | None = None
    """As it would have been queued."""


class Trial:
    """Plays sessions through the rules of one listener."""

    def __init__(
        self,
        rules: list[RuleGuard],
        relay: RelayControl,
        recipients: Recipients,
        *,
        others: list[Guard],
        relays: bool,
        modes: dict[str, str],
        names: ClientNames | None,
        service: str = "smtp",
    ) -> None:
        """`others`: guards that are asked besides the rules, behind them."""
        self._lists = [guard.rules for guard in rules]
        self._outcome = Outcome()
        self._stage = ""
        self._panel = partial(Panel, [*rules, *others], relays=relays, modes=modes)
        self._names = names
        self._desk = partial(Desk, recipients, self, relay, self, RECIPIENTS, service=service)

    async def run(self, client: Client) -> Outcome:
        """Plays one session."""
        self._outcome = outcome = Outcome()
        wire = _Wire()
        panel = self._panel(names=self._names if client.name is None else None)
        session = Session(self._desk(panel=panel), wire, client.address, PORT)
        facts: dict[str, Any] = {
            key: value
            for key, value in (("login", client.login), ("certificate", client.certificate), ("tls", client.tls))
            if value
        }
        for rules in self._lists:
            rules.witness = self._witness(rules)
        try:
            for stage, about, question in self._questions(session, client, facts):
                self._stage = stage
                answer = question()
                if isinstance(answer, Pending):
                    answer = await wire.wait()
                refused = answer.code >= 400
                outcome.answer = answer
                self._note(Step(stage, about, outcome="refused" if refused else "accepted", reply=_shown(answer)))
                if refused:
                    session.refused(answer)
                    break
        finally:
            session.closed()
            for rules in self._lists:
                rules.witness = None
        return outcome

    def _questions(
        self, session: Session, client: Client, facts: dict[str, Any]
    ) -> list[tuple[str, str, Callable[[], Answer]]]:
        def connect() -> Answer:
            if client.name is not None:
                session.identify(name=client.name)
            return session.connect()

        def hello() -> Answer:
            if facts:
                session.identify(**facts)
            return session.hello("EHLO", client.helo)

        params = MailParams(size=client.size or None)
        steps: list[tuple[str, str, Callable[[], Answer]]] = [
            ("connect", client.address, connect),
            ("helo", client.helo, hello),
            ("mail", f"<{client.sender}>", lambda: session.mail(client.sender, params)),
        ]
        steps += [("rcpt", f"<{each}>", partial(session.rcpt, each, NO_RCPT_PARAMS)) for each in client.recipients]
        if client.recipients:
            steps += [("data", "", session.data), ("end", "", session.end)]
        return steps

    def _note(self, step: Step) -> None:
        self._outcome.steps.append(step)

    def _witness(self, rules: RuleList) -> Callable[[Rule, bool, Finding], None]:
        def tell(rule: Rule, applies: bool, found: Finding) -> None:  # noqa: FBT001 - a witness is told it
            outcome, why, answer = "no objection" if applies else "does not apply", "", ""
            if found is not None:
                outcome, why = "permit, may relay" if found.relay else found.action.value, found.reason
                answer = found.reply.text if found.reply is not None else ""
            self._note(Step(self._stage, "", rules.name, rule.title, rule.origin, outcome, why, answer))

        return tell

    # As the session's log

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:  # noqa: ARG002 - as `ports.Events`
        """Writes down what the session logs: rules that only log, and who refused."""
        rule, why, words = (str(fields.get(key, "")) for key in ("rule", "why", "reason"))
        if name == "reject":
            self._outcome.decided_by = rule
        elif name == "policy":
            would = fields.get("would")
            outcome = f"{fields.get('mode')}: would {would}" if would else str(fields.get("mode"))
            self._note(Step(self._stage, rule=rule, outcome=outcome, why=why, reply=words))
        elif name in ("warning", "discard"):
            self._note(Step(self._stage, outcome=name, why=why or words))

    # As the session's intake

    def room(self, size: int) -> Reply | None:  # noqa: ARG002 - as `ports.Intake`
        """There is always room."""
        return None

    def begin(self, envelope: InboundEnvelope) -> _Incoming:
        """Takes the message, which is empty."""
        self._outcome.envelope = envelope
        return _Incoming(envelope)


def _shown(answer: Reply) -> str:
    return answer.text if answer.status or answer.code >= 400 else str(answer.code)


class _Incoming:
    """A message that goes nowhere."""

    queue_id = ""

    def __init__(self, envelope: InboundEnvelope) -> None:
        self.on_drain: Callable[[], None] | None = None
        self.envelope = envelope

    def write(self, chunk: bytes) -> bool:  # noqa: ARG002 - as `ports.Incoming`
        return True

    def finish(self, done: Callable[[Reply], None]) -> None:
        done(ACCEPTED)

    def abort(self) -> None:
        pass


class _Wire:
    """A connection that nobody is at the other end of."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[Reply] = asyncio.Queue()

    async def wait(self) -> Reply:
        """The answer that was pending."""
        return await self._answers.get()

    def answer(self, answer: Reply) -> None:
        self._answers.put_nowait(answer)

    def hold(self) -> None:
        pass

    def go_on(self) -> None:
        pass

    def upgrade(self) -> bool:
        return False

    def push(self, lines: bytes) -> None:
        pass

    def hello_reply(self) -> bytes:
        return b""

    def get_extra_info(self, name: str) -> Any:  # noqa: ARG002 - as `session.Wire`
        return None

    def slow_down(self, seconds: float) -> None:
        pass

    def cut(self) -> None:
        pass
