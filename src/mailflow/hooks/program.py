"""What an embedding program gives to `Mailflow`: its hooks, its handler, its check of passwords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from mailflow.ingress.auth.program import Authenticate

HandlerMode = Literal["take", "filter"]


class QueueIt(str):
    """The type of `QUEUE`."""

    __slots__ = ()


QUEUE: Final = QueueIt("250 OK")
"""What `handle_DATA` of an aiosmtpd handler returns when mailflow shall queue the message after all. Known by its type:
return this object, not its words. On aiosmtpd's own server it is a plain "250 OK"."""


@dataclass(frozen=True, slots=True)
class Programs:
    """What an embedding program decides by itself; `Mailflow` says what each is."""

    hooks: object | None = None
    handler: object | None = None
    handler_mode: HandlerMode = "take"
    authenticator: Callable[..., Any] | None = None
    """aiosmtpd's: (server, session, envelope, mechanism, LoginPassword) -> AuthResult."""
    authenticate: Authenticate | None = None
    """Knows logins and passwords."""
    check_token: Authenticate | None = None
    """Knows whom a bearer token is for; asked with the claimed login ("" for none) and the token."""


NO_PROGRAMS = Programs()
