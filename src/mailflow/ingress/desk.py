"""What the sessions of a listener share (`Desk`), and the connection as its session sees it (`Wire`)."""

from __future__ import annotations

import itertools
import secrets
import sys
from collections.abc import Callable
from typing import Any, Protocol

from mailflow.ingress.asking import Panel
from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.policy.relay import RelayControl
from mailflow.ingress.ports import Events, Intake, Recipients
from mailflow.ingress.services import Served, Services
from mailflow.smtp.profile import Profile
from mailflow.smtp.reply import Reply


class Desk:
    """What all sessions share: whom they ask."""

    __slots__ = (
        "_instances",
        "auth",
        "begin",
        "log",
        "message_limit",
        "panel",
        "profile",
        "recipient_limit",
        "relay",
        "resolve",
        "room",
        "service",
        "services",
    )

    def __init__(
        self,
        recipients: Recipients,
        intake: Intake,
        relay: RelayControl,
        log: Events,
        recipient_limit: int,
        *,
        panel: Panel | None = None,
        service: str = "smtp",
        auth: Authenticator | None = None,
        services: Services | None = None,
        message_limit: int = 0,
    ) -> None:
        """`message_limit`: messages that one session may send; 0: any number."""
        # The questions themselves, looked up once and not for every command.
        self.resolve = recipients.resolve
        self.room, self.begin = intake.room, intake.begin
        self.relay = relay
        self.log = log
        self.recipient_limit = recipient_limit
        self.panel = panel or Panel()
        self.auth = auth
        self.service = service
        self.services = services or Services(recipients)
        self.message_limit = message_limit or sys.maxsize
        self.profile: Callable[[Served], Profile] | None = None
        """The profile that a session begins with; set when there are some."""
        mark = secrets.token_hex(8)
        self._instances = (f"{mark}.{number:x}" for number in itertools.count(1))

    def instance(self) -> str:
        """A name for a transaction; no other one has it."""
        return next(self._instances)


class Wire(Protocol):
    """The connection, as its session sees it."""

    def answer(self, answer: Reply) -> None:
        """Brings the answer that was pending."""
        ...

    def hold(self) -> None:
        """Read no more from the client for now."""
        ...

    def go_on(self) -> None:
        """Read again."""
        ...

    def upgrade(self) -> bool:
        """Makes ready for TLS, which begins when 220 has been written; False: not now."""
        ...

    def push(self, lines: bytes) -> None:
        """Says something before the answer that is pending; whole lines with CR LF."""
        ...

    def hello_reply(self) -> bytes:
        """What EHLO or HELO, whichever came last, is answered with when nobody minds."""
        ...

    def get_extra_info(self, name: str) -> Any:
        """The transport's `get_extra_info`; None when there is no such thing."""
        ...

    def slow_down(self, seconds: float) -> None:
        """Read no more for so long."""
        ...

    def cut(self) -> None:
        """Close without a word."""
        ...
