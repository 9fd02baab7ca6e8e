"""A small SMTP host on 127.0.0.0/8 that a test tells how to misbehave, and what tests need to deliver to it.

`answer(verb, host)` gives the reply to a verb ("GREETING", "EHLO", ..., "." for the end of a message), None for the usual
one, SILENT for none at all, CUT to close the connection, or bytes to say instead.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Self

from mailflow.delivery.request import Delivery, Fact
from mailflow.delivery.settings import SmtpSettings
from mailflow.delivery.smtp import SmtpAgent
from mailflow.envelope import PLAIN, Content, Message, Options, Peer, Recipient
from mailflow.net.dns import Resolver
from mailflow.net.settings import DnsSettings

SILENT, CUT = object(), object()
CONTENT = b"Subject: x\r\n\r\nhello\r\n"
USUAL = {
    "GREETING": b"220 host.example ESMTP\r\n",
    "EHLO": b"250-host.example\r\n250-PIPELINING\r\n250-SIZE 100000000\r\n250 DSN\r\n",
    "HELO": b"250 host.example\r\n",
    "DATA": b"354 go on\r\n",
    ".": b"250 2.0.0 taken\r\n",
    "QUIT": b"221 bye\r\n",
}
VERBS = ["GREETING", "EHLO", "MAIL", "RCPT", "DATA", "."]
QUICK = {
    "connect_timeout": 1.0,
    "greeting_timeout": 0.05,
    "hello_timeout": 0.05,
    "mail_timeout": 0.05,
    "rcpt_timeout": 0.05,
    "data_timeout": 0.05,
    "block_timeout": 0.05,
    "dot_timeout": 0.05,
    "quit_timeout": 0.05,
}
"""Time limits for hosts that never answer."""


class Host:
    """Listens on `address`; counts connections, keeps messages, commands and what each read brought."""

    def __init__(
        self,
        answer: Callable[[str, Host], object] = lambda _verb, _host: None,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        bytewise: bool = False,
    ) -> None:
        self.answer, self.address, self.port, self.bytewise = answer, address, port, bytewise
        self.connections = self.open = 0
        self.messages: list[tuple[str, list[str], bytes]] = []
        self.commands: list[str] = []
        self.reads: list[bytes] = []
        self.writers: set[asyncio.StreamWriter] = set()
        self.muted: set[asyncio.StreamWriter] = set()
        """Once silent, for good: an answer left out would shift all that follow."""

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, self.address, self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        self.cut()
        while self.writers:
            await asyncio.sleep(0)
        await self.server.wait_closed()

    @property
    def next_hop(self) -> str:
        return f"[{self.address}]:{self.port}"

    def cut(self) -> None:
        """Closes every connection."""
        for writer in self.writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.writers.add(writer)
        try:
            await self._talk(reader, writer)
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self.open -= 1
            self.writers.discard(writer)
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer, body = b"", None
        sender, recipients = "", []
        if not await self._say(writer, "GREETING"):
            return
        while data := await reader.read(1 << 20):
            self.reads.append(data)
            buffer += data
            while True:
                if body is not None:
                    wire = b"\r\n" + buffer
                    end = wire.find(b"\r\n.\r\n")
                    if end < 0:
                        break
                    content = wire[: end + 2].replace(b"\r\n..", b"\r\n.")[2:]
                    buffer, body = wire[end + 5 :], None
                    before = len(self.messages)
                    self.messages.append((sender, recipients, content))
                    if not await self._say(writer, "."):
                        if self.answer(".", self) is CUT and len(self.messages) > before:
                            self.messages.pop()
                        return
                    continue
                line, found, rest = buffer.partition(b"\r\n")
                if not found:
                    break
                buffer = rest
                command = line.decode()
                self.commands.append(command)
                verb = command.split(" ")[0].upper()
                if verb == "MAIL":
                    sender, recipients = command[11:].partition(">")[0], []
                elif verb == "RCPT":
                    recipients.append(command[9:].partition(">")[0])
                said = await self._say(writer, verb)
                if not said or verb == "QUIT":
                    return
                if verb == "DATA" and said.startswith(b"354"):
                    body = b""

    async def _say(self, writer: asyncio.StreamWriter, verb: str) -> bytes:
        """What was said; b"" when the connection is to be closed."""
        answer = SILENT if writer in self.muted else self.answer(verb, self)
        if answer is CUT:
            return b""
        if answer is SILENT:
            self.muted.add(writer)
            return b"..."
        words = answer if isinstance(answer, bytes) else USUAL.get(verb, b"250 2.1.0 Ok\r\n")
        for piece in [words[i : i + 1] for i in range(len(words))] if self.bytewise else [words]:
            writer.write(piece)
            await writer.drain()
            if self.bytewise:
                await asyncio.sleep(0)
        return words


def delivery(
    next_hop: str,
    *recipients: str,
    content: Content = CONTENT,
    options: Options = PLAIN,
    sender: str = "a@b.example",
    number: int = 1,
) -> Delivery:
    """A delivery to these recipients, or one at y.example."""
    found = [Recipient(i, r, "smtp:" + next_hop) for i, r in enumerate(recipients or ("x@y.example",))]
    size = len(content) if isinstance(content, bytes) else content.size
    message = Message(number, sender, found, content, arrived=0.0, size=size, peer=Peer(), options=options)
    return Delivery(message, found, "smtp", next_hop, content, asyncio.get_running_loop().time())


class Outbox:
    """An agent, and the deliveries that it has given back: each once, or the test fails."""

    def __init__(
        self, nameservers: Iterable[str] = (), hostname: str = "me.example", own=tuple, seed: int = 1, **settings
    ):
        self.resolver = Resolver(DnsSettings(nameservers=list(nameservers), timeout=0.2, tries=1))
        self.agent = SmtpAgent(
            SmtpSettings(**settings), self.resolver, hostname, own=own, rng=random.Random(seed), now=lambda: 1000.0
        )
        self.done: list[Delivery] = []
        self.more: list[Delivery] = []
        """Deliveries to start from inside the next `done`s, one each."""
        self._started = 0
        self._all: asyncio.Future | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.agent.close(1.0)
        await self.resolver.close()
        assert len(self.done) == self._started, "a delivery got no done"
        assert "sites=0 connections=0 idle=0 tasks=0" in repr(self.agent)

    def start(self, *deliveries: Delivery) -> None:
        for each in deliveries:
            self._started += 1
            self.agent.start(each, self._done)

    def _done(self, each: Delivery) -> None:
        assert all(each is not other for other in self.done), "done was called twice"
        assert len(each.facts) == len(each.recipients)
        self.done.append(each)
        if self.more:
            self.start(self.more.pop(0))
        if self._all is not None and not self._all.done() and len(self.done) == self._started:
            self._all.set_result(None)

    async def all(self) -> list[Delivery]:
        """Waits until everything that was started is done."""
        if len(self.done) < self._started:
            self._all = asyncio.get_running_loop().create_future()
            await asyncio.wait_for(self._all, 10)
        return self.done

    async def send(self, *deliveries: Delivery) -> list[Fact]:
        """Starts these, waits for them, and gives the facts of the first."""
        self.start(*deliveries)
        await self.all()
        return deliveries[0].facts


async def until(condition: Callable[[], object]) -> None:
    """Gives other tasks their turn until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
