"""Native hooks: typed events and decisions for a program that embeds mailflow.

A program derives from `Hooks` and writes the methods it needs, `async def` or `def`; a plain `def` runs in the event loop
and must return at once. `HookGuard` is the guard that asks them, the last one in order: what the policy has refused they
do not see. A hook that raises, takes too long or returns what it may not refuses with 451 4.3.0.

Invariants: a hook is asked only at stages for which the program has written a method; whatever it returns has been
checked before it changes anything. `on_queued` cannot refuse: the client hears 250 when it is through, or has failed.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from mailflow.envelope import InboundEnvelope, Peer, Recipient, Route
from mailflow.hooks.collecting import NO_MEMORY, Collected
from mailflow.hooks.decisions import Accept, Decision, Discard, Edited, Hold, Refusal, header_fields
from mailflow.hooks.running import FAILED, Runner, log_failure
from mailflow.ingress.ports import Events, Recipients
from mailflow.ingress.session import TOO_MANY_RECIPIENTS
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Ask, Edit, Finding, Situation, Verdict
from mailflow.smtp.address import parse_address
from mailflow.smtp.reply import Reply

Answer = Decision | None


@dataclass(frozen=True, slots=True)
class Envelope:
    """A transaction as a hook sees it."""

    client: Peer
    """The client: address, name, TLS, login."""
    sender: str
    """"" for the null sender."""
    recipients: tuple[str, ...]
    """Those accepted so far, as the client gave them."""
    trusted: bool
    """Whether the client may send anywhere."""
    size: int
    """Bytes of the message; before it has come, the announced size, or 0."""
    smtputf8: bool = False


class Hooks:
    """Derive from this and write the methods you need; those you do not write cost nothing. None means no objection."""

    async def on_connect(self, client: Peer) -> Answer:
        """A client has come; before the greeting. May accept, reject, defer."""

    async def on_mail(self, envelope: Envelope) -> Answer:
        """MAIL: the sender is known. Any decision; of an edit, `sender` and `add_headers`."""

    async def on_rcpt(self, envelope: Envelope, recipient: str) -> Answer:
        """RCPT: a recipient that exists. Any decision; of an edit, `recipients` (in place of this one) and `add_headers`."""

    async def on_data(self, envelope: Envelope, content: bytes) -> Answer:
        """The message is complete: header and body, CR LF line ends. Any decision, any edit."""

    async def on_queued(self, queue_id: str, envelope: Envelope) -> None:
        """The message is safe on disk. What this returns or raises changes nothing."""


class Bounds(Protocol):
    """Of `limits`, what an edit must keep to."""

    @property
    def message_size(self) -> int: ...
    @property
    def recipients(self) -> int: ...


_METHODS = {Stage.CONNECT: "on_connect", Stage.MAIL: "on_mail", Stage.RCPT: "on_rcpt", Stage.END: "on_data"}
_EDITABLE: dict[Stage, frozenset[str]] = {
    Stage.MAIL: frozenset({"sender", "add_headers", "hold"}),
    Stage.RCPT: frozenset({"recipients", "add_headers", "hold"}),
    Stage.END: frozenset(Edited._fields),
}


def written(hooks: object, name: str) -> Callable[..., Any] | None:
    """The program's own method of this name, or None: of `Hooks`, and of what derives from it, only overridden ones count."""
    method = getattr(hooks, name, None)
    return None if method is None or getattr(method, "__func__", None) is getattr(Hooks, name) else method


class HookGuard:
    """Asks a program's hooks; a `verdict.Guard`."""

    def __init__(self, hooks: object, runner: Runner, recipients: Recipients, bounds: Bounds) -> None:
        """Raises TypeError when none of the methods is there: a misspelt hook must not go unnoticed."""
        self._hooks = hooks
        self._run = runner.run
        self._resolve = recipients.resolve
        self._bounds = bounds
        self._asking = {stage: method for stage, name in _METHODS.items() if (method := written(hooks, name))}
        self.stages = frozenset(self._asking)
        known = {*_METHODS.values(), "on_queued"}
        unknown = sorted(name for name in dir(hooks) if name.startswith("on_") and name not in known)
        if unknown or not (self.stages or written(hooks, "on_queued")):
            what = f"no hook is called {', '.join(unknown)}" if unknown else "there is no hook in it"
            raise TypeError(f"{type(hooks).__name__}: {what} (hooks are {', '.join(sorted(known))})")

    def __repr__(self) -> str:
        return f"<HookGuard {type(self._hooks).__name__}>"

    def at(self, stage: Stage) -> Ask:
        """The question of a stage."""
        return partial(self._ask, stage, self._asking[stage])

    def _ask(self, stage: Stage, method: Callable[..., Any], situation: Situation) -> Finding | Awaitable[Finding]:
        arguments = _arguments(stage, situation)
        if isinstance(arguments, Reply):
            return Verdict(Action.REFUSE, arguments)
        try:
            found = method(*arguments)
            if inspect.isawaitable(found):
                return self._wait(stage, found, situation)
            return self._judge(stage, found, situation)
        except Exception:  # noqa: BLE001 - whatever a program does, the client gets an answer
            return self._failed(stage, situation)

    async def _wait(self, stage: Stage, call: Awaitable[Answer], situation: Situation) -> Finding:
        try:
            return self._judge(stage, await self._run(call), situation)
        except Exception:  # noqa: BLE001 - as above
            return self._failed(stage, situation)

    @staticmethod
    def _failed(stage: Stage, situation: Situation) -> Verdict:
        log_failure(situation, _METHODS[stage])
        return Verdict(Action.REFUSE, FAILED, rule=f"hook {_METHODS[stage]}")

    def _judge(self, stage: Stage, decision: object, situation: Situation) -> Finding:
        """The verdict that a decision stands for. Raises TypeError and ValueError for what a hook may not say."""
        rule = f"hook {_METHODS[stage]}"
        match decision:
            case None | Accept():
                return None
            case Refusal(reply):
                return Verdict(Action.REFUSE, reply, rule=rule)
            case Discard() | Hold() | Edited() if stage is Stage.CONNECT:
                raise TypeError("on_connect cannot discard, hold or edit: there is no message yet")
            case Discard():
                return Verdict(Action.DISCARD, rule=rule)
            case Hold(reason):
                return Verdict(Action.HOLD, reason=reason, rule=rule)
            case Edited():
                return self._edited(stage, decision, situation)
            case _:
                raise TypeError(f"{_METHODS[stage]} returned {type(decision).__name__}, which is no decision")

    def _edited(self, stage: Stage, edited: Edited, situation: Situation) -> Verdict:
        for name, value in edited._asdict().items():
            if value != Edited._field_defaults[name] and name not in _EDITABLE[stage]:
                raise TypeError(f"{_METHODS[stage]} cannot edit {name}")
        rule = f"hook {_METHODS[stage]}"
        header = header_fields(edited.add_headers)
        sender = parse_address(edited.sender) if edited.sender else edited.sender
        recipients = None
        if edited.recipients is not None:
            found = self._recipients(stage, edited.recipients, situation.recipients)
            if isinstance(found, Reply):
                return Verdict(Action.REFUSE, found, rule=rule)
            recipients = found
        if edited.content is not None:
            incoming = situation.incoming
            assert isinstance(incoming, Collected)  # noqa: S101 - on_data is asked about collected messages only
            incoming.replace(edited.content, self._bounds.message_size)
        return Verdict(Action.EDIT, reason=edited.hold, rule=rule, header=header, edit=Edit(sender, recipients))

    def _recipients(
        self, stage: Stage, addresses: Sequence[str], there: Sequence[Recipient]
    ) -> list[Recipient] | Reply:
        """Resolved as RCPT does it; who is there already keeps what the client asked for him."""
        if isinstance(addresses, str) or not 0 < len(addresses) <= self._bounds.recipients:
            raise ValueError(f"recipients are not a list of 1 to {self._bounds.recipients} addresses")
        if stage is Stage.RCPT:
            if len(there) + len(addresses) > self._bounds.recipients:
                return TOO_MANY_RECIPIENTS
            there = ()
        known = {recipient.original or recipient.address: recipient for recipient in there}
        found = []
        for address in dict.fromkeys(addresses):
            recipient = known.get(address) or resolved(self._resolve, parse_address(address))
            if isinstance(recipient, Reply):
                return recipient
            found.append(recipient)
        return found


def resolved(resolve: Callable[[str], Any], address: str) -> Recipient | Reply:
    """The recipient that an address stands for, or the refusal that RCPT would give."""
    route = resolve(address)
    if not isinstance(route, Route):
        return Reply(route.code, route.status, (route.text,))
    return Recipient(0, route.recipient, route.destination, "" if route.recipient == address else address)


def _arguments(stage: Stage, situation: Situation) -> tuple[Any, ...] | Reply:
    """What the hook of a stage is called with."""
    if stage is Stage.CONNECT:
        return (situation.peer,)
    envelope = Envelope(
        situation.peer,
        situation.sender or "",
        tuple(recipient.original or recipient.address for recipient in situation.recipients),
        situation.trusted,
        situation.size,
        situation.params.smtputf8,
    )
    if stage is Stage.RCPT:
        return envelope, situation.recipient
    if stage is Stage.END:
        incoming = situation.incoming
        assert isinstance(incoming, Collected)  # noqa: S101 - see guards.py: with this hook every message is collected
        return NO_MEMORY if incoming.overflow else (envelope, incoming.content())
    return (envelope,)


class QueuedTeller:
    """Tells a program's `on_queued`; what `collecting.Telling` needs."""

    def __init__(self, method: Callable[..., Any], runner: Runner, log: Events) -> None:
        self._method = method
        self._run = runner.run
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, queue_id: str, inbound: InboundEnvelope, told: Callable[[], None]) -> None:
        """Tells, and calls `told` once afterwards, whatever happened."""
        recipients = tuple(recipient.original or recipient.address for recipient in inbound.recipients)
        envelope = Envelope(
            inbound.peer, inbound.sender, recipients, inbound.trusted, 0, smtputf8=inbound.options.smtputf8
        )
        try:
            call = self._method(queue_id, envelope)
            if inspect.isawaitable(call):
                task = asyncio.ensure_future(self._wait(call, told))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                return
        except Exception:  # noqa: BLE001 - the message is safe, and the client must hear it
            log_failure(self._log, "on_queued")
        told()

    async def _wait(self, call: Awaitable[object], told: Callable[[], None]) -> None:
        try:
            await self._run(call)
        except Exception:  # noqa: BLE001 - as above
            log_failure(self._log, "on_queued")
        told()

    async def close(self) -> None:
        """Breaks off what is still being told; nobody waits for it any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
