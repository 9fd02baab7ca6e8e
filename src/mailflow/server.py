"""The composition root: builds the parts of one mail server, starts them in order, takes them down in order.

`Server` is used by `serve.py` (the command line: own loop, signals) and by `api.Mailflow` (a foreign loop). It is the
one place that knows every part. Order of starting: queue, agents, flow, control, listeners; nobody is let in before all
behind is ready. Order of stopping: accept no more, let sessions end, let deliveries end, all within `shutdown_grace`;
then close the queue. A kill at any moment loses nothing: stopping cleanly only spares the next start some repetition.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack

from mailflow.bouncing import Bouncing
from mailflow.budget import Budget
from mailflow.cleanup import Cleaner, qualify
from mailflow.delivery.discard import DiscardAgent
from mailflow.delivery.local import LocalAgent
from mailflow.delivery.request import Agent
from mailflow.delivery.smtp.agent import SmtpAgent
from mailflow.envelope import InboundEnvelope, Options, Peer, Recipient
from mailflow.errors import QueueError, SendError
from mailflow.flow import Flow
from mailflow.flow_parts import FlowParts
from mailflow.guards import Guards
from mailflow.hooks.program import NO_PROGRAMS, Programs
from mailflow.ingress.listener import Listener
from mailflow.journal import Journal
from mailflow.net.dns import Resolver as DnsResolver
from mailflow.observe.log import EventLog, Level
from mailflow.operator import Operator
from mailflow.queue import Queue
from mailflow.receipt import Receipt, Receipts
from mailflow.rewrite import Refusal, Resolver
from mailflow.scheduler import Scheduler
from mailflow.selfcheck import SelfCheck
from mailflow.setting import Endpoint
from mailflow.settings import Settings
from mailflow.settle import RetryPolicy
from mailflow.smtp.address import AddressError, parse_address
from mailflow.smtp.reply import Reply

STOP_SECONDS = 2.0
"""How long after `shutdown_grace` everything must have stopped: what is left is broken off by then."""


class Server:
    """One mail server on one spool, in the running event loop."""

    dns: DnsResolver
    queue: Queue
    flow: Flow
    guards: Guards
    scheduler: Scheduler

    def __init__(
        self, settings: Settings, *, deliver: bool = True, log: EventLog | None = None, programs: Programs = NO_PROGRAMS
    ) -> None:
        """`deliver=False`: takes messages in and leaves them in the queue. `programs`: see `api.Mailflow`."""
        self.settings = settings
        self.resolver = Resolver(
            settings.local, settings.relay, settings.route, hostname=settings.hostname, origin=settings.origin
        )
        self.receipts = Receipts()
        self.listener: Listener | None = None
        self.started = 0.0
        """Seconds since 1970."""
        self.broken = asyncio.Event()
        """Set when the queue has failed for good and the server should be stopped."""
        self._deliver = deliver
        self._given_log = log
        self._programs = programs
        self._grace_ends = 0.0
        """Loop time; set when the server begins to stop."""
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Server {self.settings.hostname} {self.addresses}>"

    @property
    def addresses(self) -> list[Endpoint]:
        """What is listened on over IP, ports filled in."""
        return self.listener.addresses if self.listener else []

    @property
    def places(self) -> list[str]:
        """What is listened on, UNIX sockets included."""
        return self.listener.places if self.listener else []

    async def start(self) -> None:
        """Starts everything; when a part fails, what was started before is stopped and the error raised.

        Raises ConfigError, QueueLocked, QueueError, OSError.
        """
        self.settings.verify()
        self.settings.examine()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    def reload(self) -> None:
        """Opens the log file again and looks for new certificates."""
        self.log.reopen()
        self.log.event("reload", reason="the log file and certificates; settings are read at the start only")
        if self.listener is not None:
            self.listener.look_at_certificates()

    async def stop(self) -> None:
        """Stops everything in reverse order, with `shutdown_grace` seconds for what is under way.

        A part that does not end `STOP_SECONDS` later is left alone, with a line in the log; what it held is in the queue.
        """
        grace = self.settings.shutdown_grace
        self.log.event("stopping", grace=grace)
        self._grace_ends = asyncio.get_running_loop().time() + grace
        closing = asyncio.ensure_future(self._stack.aclose())
        try:
            await asyncio.wait({closing}, timeout=grace + STOP_SECONDS)
            if not closing.done():
                self.log.event("warning", level=40, reason=f"stopping does not end: {self._left()}")
                closing.cancel()  # the stack goes on with the parts behind the one that hangs
                await asyncio.wait({closing}, timeout=STOP_SECONDS)
        except asyncio.CancelledError:
            closing.cancel()
            raise
        if closing.done() and not closing.cancelled():
            closing.result()

    def _left(self) -> str:
        """The parts in which something may still be under way, for the log."""
        return " ".join(map(repr, (self.listener, self.flow, *self.flow.parts.agents.values(), self.queue)))

    async def send(
        self,
        content: bytes,
        sender: str,
        recipients: Iterable[str],
        *,
        peer: Peer,
        options: Options | None = None,
    ) -> Receipt:
        """Queues a message from a trusted program; durable when it returns. See `api.Mailflow.send`.

        `content` has CRLF line ends. Raises SendError.
        """
        sender = qualify(_checked(sender, "5.1.7"), self.resolver.origin_domain) if sender else ""
        accepted = [self._accept(address) for address in dict.fromkeys(recipients)]
        if options is None:
            utf8 = not (sender.isascii() and all(a.address.isascii() for a in accepted))
            options = Options(body="" if content.isascii() else "8BITMIME", smtputf8=utf8)
        envelope = InboundEnvelope(peer, sender, accepted, options, trusted=True)
        incoming = self.flow.room(len(content)) or self.flow.begin(envelope)
        if isinstance(incoming, Reply):
            raise SendError(incoming.code, incoming.status, " ".join(incoming.lines))
        receipt = self.receipts.open(incoming.queue_id, [a.original or a.address for a in accepted])
        incoming.write(content)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        incoming.finish(lambda reply: None if answer.cancelled() else answer.set_result(reply))
        reply = await answer
        if reply.code != 250:
            raise SendError(reply.code, reply.status, " ".join(reply.lines))
        return receipt

    def _accept(self, address: str) -> Recipient:
        route = self.resolver.resolve(_checked(address, "5.1.3"))
        if isinstance(route, Refusal):
            raise SendError(route.code, route.status, f"<{address}>: {route.text}")
        original = "" if route.recipient == address else address
        return Recipient(0, route.recipient, route.destination, original)

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        self.log = self._given_log or EventLog(settings.log)
        if self._given_log is None:
            stack.callback(self.log.close)
        stack.callback(self._stopped)
        self.queue = await Queue.open(settings.spool, settings.queue)
        self.queue.on_failure = self._queue_failed
        stack.push_async_callback(self.queue.close)
        self.dns = DnsResolver(settings.dns)
        stack.push_async_callback(self.dns.close)
        self.flow = self._make_flow()
        self.queue.on_aside = self.flow.parts.journal.aside
        stack.push_async_callback(self._stop_flow)
        if self._deliver:
            await self.flow.start()
        self.started = time.time()
        if settings.control.enabled and self._deliver:
            from mailflow.control.server import ControlServer  # and aiohttp, a third of what the server imports

            control = ControlServer(Operator(self), settings.control_socket, settings.control, self.log)
            await control.start()
            stack.push_async_callback(control.close)
        await self._listen()
        if self._deliver:
            check = SelfCheck(self.queue, self.flow.parts.journal, settings.queue.check_interval, self.flow.start)
            stack.push_async_callback(check.close)
            check.start()

    async def _listen(self) -> None:
        settings = self.settings
        if not settings.listener:
            return
        self.guards = Guards(settings, self.log, recipients=self.resolver, programs=self._programs)
        self._stack.push_async_callback(self.guards.close)
        await self.guards.start()
        self.listener = Listener(
            settings.listener,
            settings.limits,
            hostname=settings.hostname,
            networks=settings.relay.networks,
            recipients=self.resolver,
            intake=self.guards.intake(self.flow),
            log=self.log,
            panel=self.guards.panel,
            protocol=settings.protocol,
            etrn_domains=settings.relay.domains if settings.protocol.etrn is None else settings.protocol.etrn,
            sites=Operator(self),
            auth=self.guards.auth.authenticator,
            tls=settings.tls,
            conduct=self.guards.abuse.conduct,
        )
        await self.listener.start()
        self._stack.push_async_callback(self.listener.close)
        self._stack.push_async_callback(self.listener.drain, settings.shutdown_grace)

    async def _stop_flow(self) -> None:
        """Deliveries go on while sessions end, and have what is left of the grace then."""
        await self.flow.close(max(0.0, self._grace_ends - asyncio.get_running_loop().time()))

    def _make_flow(self) -> Flow:
        settings, loop = self.settings, asyncio.get_running_loop()
        self.scheduler = Scheduler(settings.scheduler)
        cleaner = Cleaner(settings.hostname)
        bouncing = Bouncing(
            settings.bounce,
            hostname=settings.hostname,
            queue=self.queue,
            resolver=self.resolver,
            cleaner=cleaner,
            log=self.log,
            now=time.time,
        )
        queue = settings.queue
        return Flow(
            FlowParts(
                queue=self.queue,
                scheduler=self.scheduler,
                agents=self._make_agents(),
                cleaner=cleaner,
                bouncing=bouncing,
                journal=Journal(self.log, attempts=settings.log.attempts),
                policy=RetryPolicy(
                    queue.first_wait,
                    queue.longest_wait,
                    queue.lifetime,
                    queue.bounce_lifetime,
                    settings.bounce.delay_after,
                    notice_to_all=settings.bounce.delay_to == "all",
                ),
                budget=Budget(queue.content_memory),
                threshold=queue.content_file_threshold,
                origin_domain=self.resolver.origin_domain,
                recipients_per_delivery=settings.smtp.recipients_per_message,
                now=time.time,
                clock=loop.time,
                reported=self.receipts.reported,
            ),
            deliver=self._deliver,
        )

    def _make_agents(self) -> dict[str, Agent]:
        settings = self.settings
        return {
            "smtp": SmtpAgent(settings.smtp, self.dns, settings.hostname, own=lambda: self.addresses),
            "local": LocalAgent(settings.local.maildir, settings.hostname),
            "discard": DiscardAgent(),
        }

    def _stopped(self) -> None:
        if self.started:
            self.log.event("stopped")

    def _queue_failed(self, error: QueueError) -> None:
        self.log.event("warning", Level.ERROR, reason=f"the queue has failed, the server stops: {error}")
        self.broken.set()


def _checked(address: str, status: str) -> str:
    """An address that a program gave: it will stand in SMTP commands and headers as it is. Raises SendError."""
    try:
        return parse_address(address)
    except AddressError as error:
        raise SendError(553, status, f"not an address: {error}") from None
