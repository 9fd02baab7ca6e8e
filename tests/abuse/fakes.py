"""A clock that stands still, sessions for the judge, and listeners with abuse control."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mailflow.envelope import Peer
from mailflow.ingress.abuse.guard import RateGuard
from mailflow.ingress.abuse.parts import Abuse
from mailflow.ingress.abuse.settings import AbuseSettings
from mailflow.ingress.asking import Panel
from mailflow.ingress.listener import Listener
from mailflow.ingress.settings import LimitsSettings, ListenerSettings
from mailflow.net.tls_settings import TlsSettings
from mailflow.setting import parse_network
from mailflow.smtp.commands import NO_MAIL_PARAMS
from tests.ingress.fakes import FakeIntake, FakeLog, resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeSession:
    """A session, as the judge and the guards see it."""

    service = "smtp"
    sender = None
    params = NO_MAIL_PARAMS
    recipient = ""
    recipients: tuple[Any, ...] = ()
    size = 0
    incoming = None
    instance = "1"

    def __init__(self, address: str = "192.0.2.1", *, trusted: bool = False, login: str = "") -> None:
        self.address, self.trusted = address, trusted
        self.peer = Peer(address, 4321, login=login)
        self.messages = self.offences = 0
        self.events: list[dict[str, object]] = []
        self.slowed: list[float] = []

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        self.events.append({"event": name, "level": level, **fields})

    def slow_down(self, seconds: float) -> None:
        self.slowed.append(seconds)


class Pauses:
    """Waits until it is told."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.over.wait()


def abuse(clock: Clock | None = None, log: FakeLog | None = None, *, sessions: int = 100, **settings: Any) -> Abuse:
    networks = [parse_network("10.0.0.0/8")]
    form = AbuseSettings(**settings)
    return Abuse(form, log or FakeLog(), sessions=sessions, networks=networks, clock=clock or Clock())


def guard(clock: Clock, **settings: Any) -> RateGuard:
    return RateGuard(AbuseSettings(**settings), clock)


@asynccontextmanager
async def abused(
    log: FakeLog | None = None,
    limits: dict[str, Any] | None = None,
    intake: FakeIntake | None = None,
    tls: TlsSettings | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Listener, Abuse]]:
    """A listener with abuse control, for strangers; its clock stands still."""
    log = log or FakeLog()
    form = LimitsSettings(**limits or {})
    parts = abuse(log=log, sessions=form.sessions, **settings)
    listener = Listener(
        [ListenerSettings(bind="127.0.0.1:0")],
        form,
        hostname="mx.test",
        networks=[],
        recipients=resolver(),
        intake=intake or FakeIntake(),
        log=log,
        panel=lambda _listener: Panel(parts.guards, conduct=parts.conduct),
        conduct=parts.conduct,
        tls=tls,
    )
    await listener.start()
    try:
        yield listener, parts
    finally:
        await listener.close()
        assert listener.sessions == 0
