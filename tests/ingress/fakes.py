"""What ingress is given in these tests: an intake that keeps messages in memory, and a log that keeps events."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from mailflow.envelope import InboundEnvelope
from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.listener import Listener
from mailflow.ingress.ports import Sites
from mailflow.ingress.settings import LimitsSettings, ListenerSettings, ProtocolSettings
from mailflow.rewrite import Resolver
from mailflow.route_settings import LocalSettings, RelaySettings, RouteSettings
from mailflow.smtp.reply import Reply, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LOCAL = LocalSettings(domains=["example.test"], users=["alice", "bob"])
RELAY = RelaySettings(domains=["backup.test"])
ROUTES = [RouteSettings(match="gone.test", transport="error", next_hop="Moved away")]
NO_ROOM = reply(452, "4.3.1", "Insufficient system storage")


class FakeIncoming:
    def __init__(self, intake: FakeIntake, envelope: InboundEnvelope) -> None:
        self.intake, self.envelope = intake, envelope
        self.queue_id = "1js8he3dc00"
        self.on_drain: Callable[[], None] | None = None
        self.content = b""
        self.ended = ""

    def write(self, chunk: bytes) -> bool:
        assert not self.ended
        self.content += chunk
        return len(self.content) < self.intake.full_at

    def finish(self, done: Callable[[Reply], None]) -> None:
        assert not self.ended
        self.ended = "finish"
        self.intake.accepted.append(self)
        self.intake.waiting.append(done)
        self.intake.changed.set()
        if self.intake.answers:
            self.intake.answer()

    def abort(self) -> None:
        assert not self.ended
        self.ended = "abort"
        self.intake.aborted.append(self)
        self.intake.changed.set()


class FakeIntake:
    """Answers at once, or when `answer` is called; has room for `free` bytes."""

    def __init__(self, *, answers: bool = True, free: int = 10**9, full_at: int = 10**9) -> None:
        self.answers, self.free, self.full_at = answers, free, full_at
        self.begun: list[FakeIncoming] = []
        self.accepted: list[FakeIncoming] = []
        self.aborted: list[FakeIncoming] = []
        self.waiting: list[Callable[[Reply], None]] = []
        self.refusal: Reply | None = None
        self.changed = asyncio.Event()

    def room(self, size: int) -> Reply | None:
        return NO_ROOM if size > self.free else None

    def begin(self, envelope: InboundEnvelope) -> FakeIncoming | Reply:
        if self.refusal is not None:
            return self.refusal
        incoming = FakeIncoming(self, envelope)
        self.begun.append(incoming)
        return incoming

    def answer(self) -> None:
        done, self.waiting = self.waiting, []
        for each in done:
            each(reply(250, "2.0.0", "Ok: queued as 1js8he3dc00"))

    async def until(self, look: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not look():
                self.changed.clear()
                await self.changed.wait()


class FakeLog:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.levels: list[tuple[str, int]] = []

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        self.events.append((name, fields))
        self.levels.append((name, level))

    def named(self, name: str) -> list[dict[str, object]]:
        return [fields for event, fields in self.events if event == name]


def resolver() -> Resolver:
    return Resolver(LOCAL, RELAY, ROUTES, hostname="mx.test")


class FakeSites:
    """Three recipients wait for backup.test, and nothing for others."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def release(self, node: str) -> int:
        self.asked.append(node)
        await asyncio.sleep(0)
        return {"backup.test": 3, "broken.test": -1}.get(node, 0)


def make_listener(
    intake: FakeIntake,
    log: FakeLog | None = None,
    *,
    trusted: bool = True,
    bind: str = "127.0.0.1:0",
    auth: Authenticator | None = None,
    kind: str = "smtp",
    protocol: dict[str, Any] | None = None,
    sites: Sites | None = None,
    **limits: Any,
) -> Listener:
    """A listener that has not been started; `kind` is its protocol, `protocol` the section of the settings."""
    settings = ProtocolSettings(**(protocol or {}))
    return Listener(
        [ListenerSettings(bind=bind, protocol=kind)],
        LimitsSettings(**limits),
        hostname="mx.test",
        networks=RELAY.networks if trusted else [],
        recipients=resolver(),
        intake=intake,
        log=log or FakeLog(),
        auth=auth,
        protocol=settings,
        etrn_domains=settings.etrn or [],
        sites=sites or FakeSites(),
    )


@asynccontextmanager
async def listening(intake: FakeIntake, log: FakeLog | None = None, **more: Any) -> AsyncIterator[Listener]:
    """A listener at work; `more` is for `make_listener`."""
    listener = make_listener(intake, log, **more)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()
        assert listener.sessions == 0


class Client:
    """A client that sends bytes and reads replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, listener: Listener) -> Client:
        host, port, _ = listener.addresses[0]
        return cls(*await asyncio.open_connection(host, port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.close()

    async def reply(self) -> str:
        """The next reply, all its lines; "" when the server has closed."""
        lines = []
        async with asyncio.timeout(10):
            while True:
                try:
                    line = (await self.reader.readline()).decode()
                except ConnectionError:
                    return ""
                lines.append(line)
                if line[3:4] != "-":
                    return "".join(lines).replace("\r\n", "\n").rstrip("\n")

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def say(self, data: bytes) -> str:
        self.send(data + b"\r\n")
        return await self.reply()

    def vanish(self) -> None:
        """As a machine that was switched off and on: its next packet is a reset."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def greet(self) -> Client:
        await self.reply()
        await self.say(b"EHLO client.test")
        return self
