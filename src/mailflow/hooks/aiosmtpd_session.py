"""A session whose client talks to an aiosmtpd handler: `handle_EHLO`, `handle_MAIL`, … `handle_DATA` decide.

The guards of the policy are asked first, as ever; the handler's method comes where the session would say yes, and its
status becomes the reply. Mode "take" is aiosmtpd's way: the handler takes the message, nothing is queued, and no address is
refused for where it leads. Mode "filter": addresses are checked as without a handler, and what the handler accepts
is queued as the handler left it. `program.QUEUE` asks for that in mode "take".

Invariants: a method runs in a task of its own, one for a session at a time, bounded by `running.Runner`. A method that raises,
takes too long or returns no status is answered for by `handle_exception`, or with 451; never with its error's words,
and never with yes. What mailflow queues has passed the routing, and for strangers the relay control.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from aiosmtpd.smtp import Envelope

from mailflow.envelope import Recipient, Route
from mailflow.hooks.aiosmtpd_identity import INSECURE, UNWELCOME, IdentifiedSession
from mailflow.hooks.aiosmtpd_server import (
    NULL_SENDER,
    Host,
    mail_options,
    rcpt_options,
    reply_of,
    reply_of_lines,
)
from mailflow.hooks.collecting import NO_MEMORY, Collected
from mailflow.hooks.native import resolved
from mailflow.hooks.program import QueueIt
from mailflow.hooks.running import FAILED, log_failure
from mailflow.ingress.desk import Desk, Wire
from mailflow.ingress.policy.relay import RELAY_DENIED, is_source_routed
from mailflow.ingress.session import TOO_MANY_RECIPIENTS
from mailflow.smtp import replies
from mailflow.smtp.address import AddressError, parse_address, parse_path
from mailflow.smtp.commands import MailParams, RcptParams
from mailflow.smtp.handler import PENDING, Answer
from mailflow.smtp.reply import Reply, reply

NEED_RCPT = reply(503, "5.5.1", "Need RCPT command")
NOT_VERIFIED = reply(502, "5.5.2", "Could not VRFY this address")
TAKEN = reply(250, "2.0.0", "Ok")


class HandledSession(IdentifiedSession):
    """One connection of a server with a handler."""

    __slots__ = ("_calling",)

    def __init__(self, host: Host, desk: Desk, wire: Wire, address: str, port: int) -> None:
        super().__init__(host, desk, wire, address, port)
        self._calling: asyncio.Task[None] | None = None

    def closed(self) -> None:
        """The client is gone; so is the method that ran for it."""
        if self._calling is not None:
            self._calling.cancel()
        super().closed()

    # The conversation

    def _welcome(self) -> Answer:
        if self.peer.via and "PROXY" in self._host.hooks:
            return self._call("PROXY", (self.smtp.proxy_data,), lambda let: replies.WELCOME if let else UNWELCOME)
        return replies.WELCOME

    def hello(self, verb: str, name: str) -> Answer:
        """EHLO and HELO begin anew."""
        self.letter = Envelope()
        self.smtp.extended_smtp = verb != "HELO"
        answer = super().hello(verb, name)
        return self._greet() if answer is replies.HELLO and not self._panel.helo else answer

    def _greet(self) -> Answer:
        name = self.peer.helo
        if not self.smtp.extended_smtp:
            if "HELO" in self._host.hooks:
                return self._call("HELO", (name,), reply_of)
        elif "EHLO" in self._host.hooks:
            planned = self._planned()
            if self._host.lists_ehlo:
                return self._call("EHLO", (name, [*planned, "250 HELP"]), reply_of_lines)
            self.push("".join(f"{line}\r\n" for line in planned).encode())
            return self._call("EHLO", (name,), reply_of)
        self.smtp.host_name = name
        return replies.HELLO

    def _planned(self) -> list[str]:
        """The lines of our own reply to EHLO, none of them the last."""
        lines = self._wire.hello_reply().decode().splitlines() if self._wire is not None else []
        return [f"250-{line[4:]}" for line in lines]

    def mail(self, sender: str, params: MailParams) -> Answer:
        """MAIL; a handler that did not set `host_name` has refused the greeting."""
        if not self.smtp.host_name:
            return replies.HELO_FIRST
        self.letter = Envelope()
        self.letter.smtp_utf8 = params.smtputf8
        answer = super().mail(sender, params)
        return self._open() if answer is replies.MAIL_OK and not self._panel.mail else answer

    def _open(self) -> Answer:
        address, options = self.sender or NULL_SENDER, mail_options(self.params)
        if "MAIL" in self._host.hooks:
            self._opening = True
            return self._call("MAIL", (address, options), self._opened)
        self.letter.mail_from = address
        self.letter.mail_options.extend(options)
        return super()._open()

    def _opened(self, status: object) -> Answer:
        answer = reply_of(status)
        self._opening = answer.code >= 400
        return answer

    def _standing(self, refusal: Reply, rule: str, why: str = "") -> Reply | None:
        return super()._standing(refusal, rule, why) if self._host.filters else None

    def rcpt(self, recipient: str, params: RcptParams) -> Answer:
        """RCPT; in mode "take" no address is refused but by a guard or the handler."""
        if not self.letter.mail_from:  # a handler's MAIL that said 250 and set nothing
            return replies.MAIL_FIRST
        if self._host.filters:
            return super().rcpt(recipient, params)
        self.recipient = recipient
        if len(self.recipients) >= self._desk.recipient_limit:
            return TOO_MANY_RECIPIENTS
        route = Route("discard", "", recipient, "a handler takes the message")
        questions = self._panel.rcpt
        if questions:
            return self._ask(questions, lambda: self._take(recipient, params, route))
        return self._take(recipient, params, route)

    def _take(self, recipient: str, params: RcptParams, route: Route) -> Answer:
        options = rcpt_options(params)
        take = super()._take

        def decided(status: object) -> Answer:
            answer = reply_of(status)
            if answer.code < 300:
                take(recipient, params, route)
            return answer

        if "RCPT" in self._host.hooks:
            return self._call("RCPT", (recipient, options), decided)
        self.letter.rcpt_tos.append(recipient)
        self.letter.rcpt_options.extend(options)
        return take(recipient, params, route)

    def data(self) -> Answer:
        """DATA; without anything in `rcpt_tos` the handler has no recipients."""
        return super().data() if self.letter.rcpt_tos else NEED_RCPT

    def _hand_over(self) -> Answer:
        host, incoming, marks = self._host, self._incoming, self._marks
        if incoming is None or (marks is not None and marks.discard):
            return super()._hand_over()
        if "DATA" not in host.hooks:
            return self._queue() if host.filters else self._taken(TAKEN)
        if not isinstance(incoming, Collected) or incoming.overflow:
            return NO_MEMORY
        self.letter.content = self.letter.original_content = incoming.content()
        return self._call("DATA", (), self._handled)

    def _handled(self, status: object) -> Answer:
        answer = reply_of(status)
        if answer.code >= 300:
            return answer if answer.code >= 400 else FAILED
        return self._queue() if self._host.filters or isinstance(status, QueueIt) else self._taken(answer)

    def _taken(self, answer: Reply) -> Answer:
        """The message is the handler's."""
        self.event("handled", handler=type(self._host.handler).__name__, size=self.size)
        self.reset()
        self.messages += 1
        for watcher in self._panel.watchers:
            watcher.accepted(self)
        return answer

    def _queue(self) -> Answer:
        """The message goes into the queue as the handler has left it. Raises ValueError for what cannot."""
        incoming, letter = self._incoming, self.letter
        if incoming is None:  # the session has ended meanwhile
            return FAILED
        sender = letter.mail_from or ""
        sender = "" if sender == NULL_SENDER else parse_address(sender)
        recipients = self._recipients(letter.rcpt_tos)
        if isinstance(recipients, Reply):
            return recipients
        self.sender = incoming.envelope.sender = sender
        self.recipients[:] = recipients
        content = letter.content
        if isinstance(incoming, Collected) and content is not letter.original_content:
            text = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
            incoming.replace(text or b"", self._host.message_size)
        self.letter = Envelope()
        return super()._hand_over()

    def _recipients(self, addresses: list[str]) -> list[Recipient] | Reply:
        """Resolved, but for those whom RCPT has resolved. In mode "take" a stranger may write to our domains only."""
        filters, resolve = self._host.filters, self._host.recipients.resolve
        known = {r.original or r.address: r for r in self.recipients} if filters else {}
        found = []
        for address in dict.fromkeys(addresses):
            recipient = known.get(address) or resolved(resolve, parse_address(address))
            if isinstance(recipient, Reply):
                return recipient
            if not filters and not self.trusted and _is_foreign(resolve(address), address):
                return RELAY_DENIED
            found.append(recipient)
        return found or NEED_RCPT

    def said(self, verb: str, text: str, usual: Reply) -> Answer:
        """RSET, NOOP, VRFY and QUIT in the handler's words."""
        if self._insecure and verb != "QUIT":
            return INSECURE
        if verb == "RSET":
            self.letter = Envelope()
        if verb not in self._host.hooks:
            return usual
        if verb == "VRFY":
            try:
                return self.vrfy(parse_path(text)[0])
            except AddressError:
                return NOT_VERIFIED
        return self._call(verb, (text.strip(" ") or None,) if verb == "NOOP" else (), reply_of)

    def vrfy(self, address: str) -> Answer:
        """VRFY, where it is answered at all."""
        return self._call("VRFY", (address,), reply_of) if "VRFY" in self._host.hooks else super().vrfy(address)

    def reset(self) -> None:
        """The transaction is forgotten, by the handler too."""
        super().reset()
        self.letter = Envelope()

    # Calling the handler

    def _call(self, hook: str, arguments: tuple[Any, ...], finish: Callable[[Any], Answer]) -> Answer:
        """Runs a method in a task; `finish` makes the answer of what it returns."""
        self._calling = self._host.loop.create_task(self._run(hook, arguments, finish))
        return PENDING

    async def _run(self, hook: str, arguments: tuple[Any, ...], finish: Callable[[Any], Answer]) -> None:
        method = self._host.hooks[hook]
        try:
            found = method(self._server, self.smtp, self.letter, *arguments)
            answer = finish(await self._host.runner.run(found) if inspect.isawaitable(found) else found)
        except Exception as error:  # noqa: BLE001 - whatever a handler does, the client gets an answer
            log_failure(self, f"handle_{hook}")
            answer = await self._excuse(error)
        self._calling = None
        if answer is not PENDING:
            self._decided(answer)

    async def _excuse(self, error: Exception) -> Reply:
        """The reply to a command whose method failed: what `handle_exception` says, or 451."""
        method = self._host.hooks.get("exception")
        if method is None:
            return FAILED
        try:
            found = method(error)
            answer = reply_of(await self._host.runner.run(found) if inspect.isawaitable(found) else found)
        except Exception:  # noqa: BLE001 - as in _run
            log_failure(self, "handle_exception")
            return FAILED
        return answer if answer.code >= 400 else FAILED


def _is_foreign(route: object, address: str) -> bool:
    """Whether a stranger's mail to this address would be relayed; as `Session.rcpt` has it."""
    return isinstance(route, Route) and route.kind != "local" and (route.kind == "remote" or is_source_routed(address))
