"""One TCP connection around the client core: moves bytes, streams large contents, keeps time limits. Decides nothing.

Its owner (a `Site`) calls `run` to have a job sent and hears `finished` for every transaction and `gone` once, before
the last `finished`, when the connection can take no more jobs. Everything is synchronous inside `data_received`: replies are
matched, finished jobs reported, new jobs that the report brings are begun, and then all output leaves in one write.

Invariants: `load` counts the jobs on the connection; every job given to `run` is reported by `finished` exactly once;
after `gone` nothing is begun. `data_received` stays a method of the class: uvloop does not see one set on the instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, cast

import aiofiles

from mailflow.delivery.settings import SmtpSettings
from mailflow.delivery.smtp.hosts import Host
from mailflow.delivery.smtp.job import Job
from mailflow.delivery.smtp.timers import Sweep
from mailflow.envelope import ContentFile
from mailflow.net.turn import Party, Turn
from mailflow.report import HostAttempt
from mailflow.smtp.client import Client
from mailflow.smtp.transaction import NO_PARAMETERS, End, State, Step, Transaction

PIECE = 256 * 1024
"""Bytes that are read from a content file and written at a time; the transport holds no more than that."""
SMALL = 64 * 1024
"""Bytes of a content behind which the next message may wait: it is through in one round trip or two."""


# A global is found faster than an enum's member.
_CLOSED, _READY = State.CLOSED, State.READY


class Owner(Protocol):
    """Who a connection belongs to."""

    def finished(self, connection: Connection, transaction: Transaction) -> None:
        """A transaction has all its answers."""
        ...

    def gone(self, connection: Connection) -> None:
        """The connection takes no more jobs."""
        ...

    def closed(self, _connection: Connection) -> None:
        """The socket is closed."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs work beside, and waits for it before the loop ends."""
        ...


class Connection(Party):
    """A connection to one address of a mail host: an asyncio protocol, though no subclass of asyncio's (docs/compiled.md)."""

    def __init__(
        self,
        host: Host,
        name: str,
        settings: SmtpSettings,
        owner: Owner,
        sweep: Sweep,
        turn: Turn,
        *,
        esmtp: bool = True,
    ) -> None:
        """`name` is what we introduce ourselves by; `esmtp` False begins with HELO."""
        self.host = host
        self.client = Client(name, esmtp=esmtp)
        self.load = 0
        """Jobs on this connection, not yet finished: 0, 1, or 2 where the host pipelines."""
        self.served = 0
        """Transactions that the host has answered in full."""
        self.kept = False
        """Has been idle: the host may have closed it meanwhile."""
        self.is_gone = False
        self.spare = False
        """Made for one job that another host had turned away: not for further ones, they go to the better host."""
        self.history: Iterable[HostAttempt] = ()
        """Hosts that were tried in vain before this one; the first job takes them over."""
        self._settings = settings
        self._recipients = settings.recipients_per_message
        self._owner = owner
        self._sweep = sweep
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self.ready: asyncio.Future[None] = self._loop.create_future()
        """Done when the host is ready for a message, or will never be."""
        self._is_ready = False
        self._transport: asyncio.Transport | None = None
        self._pumping = False
        self._stream: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused = False
        self._input = b""
        """What came in this turn of the loop."""
        self._seen = (-1, 0)
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<Connection {self.host.name}[{self.host.key}] load={self.load} served={self.served} {self.client!r}>"

    def takes_second(self) -> bool:
        """Whether a further job may be put behind the one under way: the host pipelines, has proven itself, and the
        message in front is small. RFC 2920 §3.1 allows it; a job whose connection is lost so goes elsewhere.
        """
        if self.load != 1 or not self.served or self.spare:
            return False
        client = self.client
        current = client.current
        if current is None or current.content is None or current.size > SMALL:
            return False
        return client.extensions.pipelining

    # Jobs

    def run(self, job: Job) -> None:
        """Sends the job's next transaction, at once or behind the one under way."""
        self.load += 1
        job.began = now = self.time()
        delivery = job.delivery
        delivery.dsn_passed = self.client.extensions.dsn
        if not delivery.hosts:
            delivery.connected = now
        if self.history:
            delivery.hosts.extend(self.history)
            self.history = ()
        job.prepare(self._recipients)
        if job.parameters is not NO_PARAMETERS:
            delivery.by_passed = self.client.extensions.deliver_by
        self.client.begin(job)
        if not self._pumping:
            self._pump()

    def quit(self) -> None:
        """Says goodbye and takes no more jobs. Only when none is on it."""
        self._leave()
        self.client.quit()
        if not self._pumping:
            self._pump()

    def hang_up(self) -> None:
        """Closes at once: an idle one with a QUIT that nobody waits for; jobs end as not attempted where that is true."""
        self.take()
        if self.client.state is State.READY and not self.load and self._transport is not None:
            self.client.quit()
            self.flush()
            self._transport.close()
            self._fail(End.LOST)
        else:
            # once the final dot is out, the host may have the message
            self._fail(End.LOST if self.client.waiting is Step.DOT else End.NOT_BEGUN)

    def give_up(self) -> None:
        """Ends a connection whose making was broken off.

        The loop may have called `connection_made` and then closed the socket itself; uvloop says no `connection_lost` then.
        """
        self.hang_up()
        self._sweep.discard(self)
        self._owner.closed(self)

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.client.state is _CLOSED:  # given up while it was being made
            self._transport.abort()
            return
        self._since = self._loop.time()
        self._sweep.add(self)

    def data_received(self, data: bytes) -> None:
        if self._input:
            self.take()
        self._input = data
        self._turn.read(self)

    def take(self) -> bool:
        """Deals with what came in this turn of the loop, if that has not happened already."""
        data = self._input
        if data:
            self._input = b""
            self.client.feed(data)
            self._pump()
        return False  # what is to be written is in the turn already

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - its text goes nowhere
        self._transport = None
        self.take()  # it may say what became of a message
        self._fail(End.LOST)
        self._sweep.discard(self)
        self._owner.closed(self)

    def eof_received(self) -> None:
        self.take()
        # a host that has closed its side answers nothing any more
        self._fail(End.LOST)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # Time limits

    def check(self, now: float) -> None:
        """Called once a tick: whether the awaited step has had its time (RFC 5321 §4.5.3.2)."""
        self.take()
        pending = self._transport.get_write_buffer_size() if self._transport is not None else 0
        seen = (self.client.mark, pending)
        if seen != self._seen:
            self._seen = seen
            self._since = now
            return
        waiting = self.client.waiting
        if now - self._since < self._limit(waiting, pending):
            return
        if self.client.state is State.CLOSED and self._transport is not None:
            self._transport.abort()  # closed by us, and the host does not take what was still to be sent
        elif self.client.state is State.READY:
            self.quit()
        else:
            self._fail(End.TIMEOUT)

    def _limit(self, waiting: Step | None, pending: int) -> float:
        settings = self._settings
        if self.client.state is State.CLOSED:
            return settings.quit_timeout
        if pending or waiting is Step.BODY:
            return settings.block_timeout
        match waiting:
            case None:
                return settings.idle
            case Step.GREETING:
                return settings.greeting_timeout
            case Step.EHLO | Step.HELO:
                return settings.hello_timeout
            case Step.MAIL | Step.RSET:
                return settings.mail_timeout
            case Step.RCPT:
                return settings.rcpt_timeout
            case Step.DATA:
                return settings.data_timeout
            case Step.QUIT:
                return settings.quit_timeout
        return settings.dot_timeout

    # The one place where events become jobs' ends and output

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        client = self.client
        if client.state is _CLOSED:
            self._leave()  # before jobs hear of it: none shall be begun here
        if not self._is_ready and client.state in (_READY, _CLOSED):
            self._is_ready = True
            self.ready.set_result(None)
        finished = client.finished
        try:
            while finished:  # those too that are added meanwhile
                transaction = finished.pop(0)
                self.load -= 1
                self._owner.finished(self, transaction)
        finally:
            self._pumping = False
        if client.wants_body and self._stream is None and client.current is not None:
            self._stream = self._owner.spawn(self._send_file(cast("Job", client.current)))
        if client.state is not _CLOSED:
            self._turn.add(self)
            return
        self.flush()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close() if client.end is End.REPLY else self._transport.abort()

    def flush(self) -> None:
        """Writes what waits to be written."""
        buffers = self.client.take()
        if buffers and self._transport is not None and not self._transport.is_closing():
            for buffer in buffers:
                self._transport.write(buffer)

    def _leave(self) -> None:
        if not self.is_gone:
            self.is_gone = True
            self._owner.gone(self)
        if self._stream is not None and self.client.state is State.CLOSED:
            self._stream.cancel()  # once: a second time would break into the closing of the file
            self._stream = None

    def _fail(self, end: End) -> None:
        self.client.fail(end)
        self._pump()

    # Contents that are too large for memory

    async def _send_file(self, job: Job) -> None:
        content = job.delivery.content
        if isinstance(content, ContentFile) and await self._send_pieces(content):
            self._stream = None
            self.client.end_body()
            self._pump()
        else:
            self._stream = None
            self._fail(End.NO_CONTENT)

    async def _send_pieces(self, content: ContentFile) -> bool:
        """Whether the whole message went out; a part of it must never look like a complete one.

        Content files are used again, so what stands behind the message's size belongs to an older one.
        """
        left = content.size
        try:
            async with aiofiles.open(content.path, "rb") as file:
                while left and (piece := await file.read(min(PIECE, left))):
                    left -= len(piece)
                    for buffer in self.client.body(piece):
                        if self._transport is not None:
                            self._transport.write(buffer)
                    if self._paused:
                        self._drained = self._loop.create_future()
                        await self._drained
        except OSError:
            return False
        return not left
