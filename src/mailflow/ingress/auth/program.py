"""Logins that an embedding program knows: `Mailflow(settings, authenticate=function)`.

The function is a coroutine function of login and password, and answers True (the login is right as given), the login as it is to
be known, or False or None. What it raises is logged, and the client hears 454. It runs in the event loop, so it must not
block; nothing of it is cached.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable

from mailflow.ingress.auth.backend import Attempt, Base, Unavailable

Authenticate = Callable[[str, str], Awaitable[str | bool | None]]
"""Login and password; see above."""


class ProgramTokens:
    """A `backend.TokenCheck`: `Mailflow(settings, check_token=function)`, as `Program` with a token for a password."""

    def __init__(self, function: Authenticate) -> None:
        self._function = function

    def __repr__(self) -> str:
        return f"<ProgramTokens {self._function!r}>"

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def check(self, login: str, token: str) -> str | None:
        """The login that the token is for, or None. Raises Unavailable."""
        return await ask(self._function, login, token)


class Program(Base):
    """The back end."""

    cached = False

    def __init__(self, authenticate: Authenticate) -> None:
        self._authenticate = authenticate

    def __repr__(self) -> str:
        return f"<Program {self._authenticate!r}>"

    async def verify(self, attempt: Attempt) -> str | None:
        """Asks the program."""
        return await ask(self._authenticate, attempt.login, attempt.password)


async def ask(function: Authenticate, login: str, secret: str) -> str | None:
    """The login that the function gives, or None. Raises Unavailable with the traceback when it raises."""
    try:
        answer = await function(login, secret)
    except Exception:  # noqa: BLE001 - whatever the program's function does, the client gets an answer
        raise Unavailable(traceback.format_exc()) from None
    if answer is True:
        return login or None
    return answer if isinstance(answer, str) and answer else None
