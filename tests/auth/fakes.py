"""What AUTH is given in these tests: back ends that count, a clock that stands, waits that do not last."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any

from mailflow.envelope import Peer
from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.auth.backend import Attempt, Base, Unavailable
from mailflow.ingress.auth.exchange import Exchange
from mailflow.ingress.auth.settings import AuthSettings
from mailflow.smtp.handler import PENDING
from mailflow.smtp.reply import Reply
from mailflow.smtp.scram import Keys, make_keys

SALT = bytes(range(16))


def in_loop(test):
    @functools.wraps(test)
    def run(**arguments):
        asyncio.run(test(**arguments))

    return run


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Known(Base):
    """Knows some passwords; counts how often it is asked."""

    has_keys = True

    def __init__(self, **passwords: str) -> None:
        self.passwords = passwords
        self.asked: list[Attempt] = []
        self.trouble = False

    async def verify(self, attempt: Attempt) -> str | None:
        self.asked.append(attempt)
        if self.trouble:
            raise Unavailable("out of order")
        right = self.passwords.get(attempt.login.lower()) == attempt.password
        return attempt.login.lower() if right else None

    async def keys(self, login: str) -> tuple[str, Keys] | None:
        password = self.passwords.get(login.lower())
        return None if password is None else (login.lower(), make_keys(password, SALT, 4096))

    def iterations(self, login: str) -> int:
        return 4096


class Tokens:
    """Knows some tokens."""

    def __init__(self, **tokens: str) -> None:
        self.tokens = tokens

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self, login: str, token: str) -> str | None:
        return self.tokens.get(token)


ALL = ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "XOAUTH2"]


def authenticator(*backends: Any, clock: Clock | None = None, tokens: Any = None, **settings: Any) -> Authenticator:
    clock = clock or Clock()
    values = {"mechanisms": ALL, "allow_plaintext": ["127.0.0.0/8"]} | settings
    return Authenticator(AuthSettings(**values), backends, tokens, secret=b"s" * 32, clock=clock, sleep=clock.sleep)


class Client:
    """A session, as an exchange sees it; `run` waits for the answer."""

    def __init__(self, address: str = "192.0.2.1", protocol: str = "ESMTPS", **bindings: bytes) -> None:
        self.peer = Peer(address, 25, protocol=protocol, tls="TLSv1.3")
        self._bindings = bindings
        self.events: list[dict[str, object]] = []
        self.coming: asyncio.Task[Reply] | None = None

    def identify(self, **changes: Any) -> None:
        from dataclasses import replace

        self.peer = replace(self.peer, **changes)

    def bindings(self) -> dict[str, bytes]:
        return {name.replace("_", "-"): data for name, data in self._bindings.items()}

    def later(self, work: Any, failed: Reply) -> Any:
        self.coming = asyncio.ensure_future(work())
        return PENDING

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        assert name == "login"
        self.events.append(fields)

    async def hear(self, answer: Any) -> Reply:
        if answer is not PENDING:
            return answer
        assert self.coming is not None
        return await self.coming

    async def talk(
        self, auth: Authenticator, mechanism: str, *responses: bytes, initial: bytes | None = None
    ) -> list[Reply]:
        """The replies to AUTH and to each response, as far as the exchange goes."""
        exchange = Exchange(auth, self, mechanism)
        replies = [await self.hear(exchange.begin(initial))]
        for response in responses:
            if replies[-1].code != 334:
                break
            replies.append(await self.hear(exchange.respond(response)))
        return replies


@contextlib.asynccontextmanager
async def closing(part: Any) -> AsyncIterator[Any]:
    await part.start()
    try:
        yield part
    finally:
        await part.close()
