"""A session as checks see it, and how an answer is had from them whether they wait or not."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any

from mailflow.envelope import Peer, Recipient
from mailflow.smtp.commands import NO_MAIL_PARAMS


class FakeSituation:
    """A stranger at RCPT; what a test says differently it sets."""

    def __init__(self, address: str = "192.0.2.99", **fields: Any) -> None:
        peer = {"port": 4321, "helo": "mail.client.example", "protocol": "ESMTP"}
        peer |= {name: fields.pop(name) for name in list(fields) if name in Peer.__dataclass_fields__}
        self.peer = Peer(address, **peer)
        self.trusted = False
        self.service = "smtp"
        self.sender: str | None = "joe@sender.example"
        self.params = NO_MAIL_PARAMS
        self.recipient = "alice@example.test"
        self.recipients: list[Recipient] = []
        self.size = 0
        self.instance = "mark.1"
        self.events: list[tuple[str, dict[str, object]]] = []
        self.naming: Any = None
        for name, value in fields.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    def named(self) -> Any:
        return self.naming

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        self.events.append((name, fields))


class Clock:
    def __init__(self, time: float = 1_800_000_000) -> None:
        self.time = time

    def __call__(self) -> int:
        return int(self.time)


async def answer(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


def in_loop(test: Any) -> Any:
    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(test(**arguments))

    return run
