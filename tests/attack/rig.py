"""Whole sessions in memory: core, session, guards and AUTH, with everything around them imagined, and time that stands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from mailflow.ingress.asking import Panel
from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.auth.settings import AuthSettings
from mailflow.ingress.desk import Desk
from mailflow.ingress.policy.relay import RelayControl
from mailflow.ingress.profiles import make_profile
from mailflow.ingress.services import Services
from mailflow.ingress.session import Session
from mailflow.ingress.settings import LimitsSettings, ProtocolSettings
from mailflow.setting import parse_network
from mailflow.smtp.reply import Reply
from mailflow.smtp.server import ServerCore
from tests.auth.fakes import Clock, Known, Tokens
from tests.ingress.fakes import FakeIntake, FakeLog, FakeSites, resolver

NETWORKS = [parse_network("10.0.0.0/8"), parse_network("[2001:db8:10::]/48")]
LIMITS = LimitsSettings(errors=10**6, junk_commands=10**6)


class Wire:
    """The connection: brings late answers to the core, and keeps what the client hears."""

    def __init__(self) -> None:
        self.core: ServerCore | None = None
        self.heard = b""
        self.upgrades = self.cuts = 0
        self.pushed: list[bytes] = []

    def answer(self, answer: Reply) -> None:
        assert self.core is not None
        self.core.resume(answer)

    def hold(self) -> None: ...
    def go_on(self) -> None: ...
    def slow_down(self, seconds: float) -> None: ...

    def upgrade(self) -> bool:
        self.upgrades += 1
        return True

    def push(self, lines: bytes) -> None:
        self.pushed.append(lines)

    def hello_reply(self) -> bytes:
        assert self.core is not None
        return self.core.hello_reply()

    def get_extra_info(self, name: str) -> Any:
        return None

    def cut(self) -> None:
        self.cuts += 1


def authenticator() -> Authenticator:
    """Knows jo's password, "right", and one token."""
    settings = AuthSettings(
        mechanisms=["PLAIN", "LOGIN", "SCRAM-SHA-256", "XOAUTH2"], login_failures=10**6, failures=10**6
    )
    clock = Clock()
    return Authenticator(settings, [Known(jo="right")], Tokens(jo="token"), clock=clock, sleep=clock.sleep)


class Talk:
    """One session. `say` feeds it and waits until nothing is pending; it gives the replies, each as one text."""

    def __init__(
        self,
        address: str = "192.0.2.7",
        guards: Iterable[Any] = (),
        *,
        recipients: Any = None,
        relays: bool = False,
        lmtp: bool = False,
        tls: str = "offer",
        auth: bool = True,
        clear: bool = True,
        everyone: bool = False,
        proxies: Iterable[str] = (),
        seconds: float = 5.0,
        protocol: dict[str, Any] | None = None,
        panel: Panel | None = None,
    ) -> None:
        self.intake, self.log = FakeIntake(), FakeLog()
        proxy = RelayControl([parse_network(each) for each in proxies])
        recipients = recipients or resolver()
        self.desk = Desk(
            recipients,
            self.intake,
            RelayControl(NETWORKS, everyone=everyone),
            self.log,
            100,
            panel=panel or Panel(guards, (), seconds, relays=relays),
            auth=authenticator() if auth else None,
            services=Services(recipients, {"XCLIENT": proxy, "XFORWARD": proxy}, {"backup.test"}, FakeSites(), 3600.0),
        )
        settings = ProtocolSettings(**({"xclient": list(proxies), "vrfy": "known"} | (protocol or {})))
        self.profiles = {
            trusted: make_profile(
                "mx.test",
                LIMITS,
                trusted=trusted,
                tls=tls,  # type: ignore[arg-type]
                auth=self.desk.auth,
                clear=clear,
                protocol=settings,
                lmtp=lmtp,
                etrn=True,
            )
            for trusted in (False, True)
        }
        self.desk.profile = lambda session: self.profiles[session.trusted]
        self.wire = Wire()
        self.session = Session(self.desk, self.wire, address, 4321)
        self.core = self.wire.core = ServerCore(self.profiles[self.session.trusted], self.session)

    async def settle(self) -> None:
        """Waits until nothing is pending."""
        async with asyncio.timeout(10):
            while self.core.pending:
                await asyncio.sleep(0)

    async def say(self, data: bytes, *, wait: bool = True) -> list[str]:
        self.core.feed(data)
        if wait:
            await self.settle()
        return self.hear()

    def hear(self) -> list[str]:
        """What has been said since."""
        replies, lines = [], []
        for line in self.core.take().decode().splitlines():
            lines.append(line)
            if line[3:4] != "-":
                replies.append("\n".join(lines))
                lines = []
        return replies

    def secured(self) -> None:
        """As `front.secured` does it."""
        self.core.secured()
        self.session.identify(helo="", protocol="SMTP", login="", tls="TLSv1.3", certificate="")
