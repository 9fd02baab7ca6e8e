"""Asks the back ends who a client is, through the cache and past the locks. One for all sessions of a server.

`exchange.py` calls `locked` before anything else, `password`, `token` and `keys` as the mechanism asks, and `failed` or
`passed` at the end. Nobody is asked for a client or login that is locked.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from mailflow.ingress.auth.backend import Attempt, Backend, Pool, TokenCheck, Unavailable
from mailflow.ingress.auth.cache import PasswordCache
from mailflow.ingress.auth.lockout import Limits, Lockouts
from mailflow.ingress.auth.settings import AuthSettings
from mailflow.smtp.sasl import Bearer, Login, Mechanism, Plain, XOAuth2
from mailflow.smtp.scram import Keys, Scram, made_up_keys

NONCE_OCTETS = 18
SCRAM = "SCRAM-SHA-256"
PLUS = "SCRAM-SHA-256-PLUS"
TOKEN_MECHANISMS = ("OAUTHBEARER", "XOAUTH2")


class Authenticator:
    """What all AUTH exchanges share."""

    def __init__(
        self,
        settings: AuthSettings,
        backends: Sequence[Backend],
        tokens: TokenCheck | None = None,
        *,
        pool: Pool | None = None,
        secret: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """
        Args:
            settings: section `[auth]`.
            backends: asked in this order.
            tokens: who tells whom a token is for.
            pool: the threads of the back ends, closed with them.
            secret: 32 bytes that stay the same over restarts; unknown users' SCRAM salts are made from it.
            clock: seconds, for locks and cache.
            sleep: waits, before a refusal.
        """
        self.settings = settings
        self._backends = tuple(backends)
        self._tokens = tokens
        self._pool = pool
        self._secret = secret or secrets.token_bytes(32)
        self._clock = clock
        self.sleep = sleep
        self._cache = PasswordCache(secrets.token_bytes(32), settings.cache, settings.cache_entries)
        self._locks = Lockouts(
            Limits(
                failures=settings.failures,
                login_failures=settings.login_failures,
                first=settings.lockout,
                longest=settings.longest_lockout,
                memory=settings.lockout_memory,
                entries=settings.lockout_entries,
                exempt=settings.lockout_exempt,
            )
        )
        self.mechanisms = tuple(name for name in dict.fromkeys(settings.mechanisms) if self._can(name))
        """Offered over TLS."""
        self.clear_mechanisms = tuple(name for name in self.mechanisms if name == SCRAM and settings.scram_without_tls)
        """Offered to strangers without TLS."""
        self.plaintext_mechanisms = tuple(name for name in self.mechanisms if name != PLUS)
        """Offered without TLS to the clients in `allow_plaintext`."""

    def __repr__(self) -> str:
        return f"<Authenticator {' '.join(self.mechanisms)} {list(self._backends)}>"

    async def start(self) -> None:
        """Opens the back ends. Raises ConfigError."""
        for part in self._parts():
            await part.start()

    async def close(self) -> None:
        """Closes the back ends."""
        for part in self._parts():
            await part.close()
        if self._pool is not None:
            self._pool.close()

    def mechanism(self, name: str, bindings: Mapping[str, bytes]) -> Mechanism:
        """A new exchange of a mechanism that is offered; `bindings` are the connection's channel bindings."""
        oauth = self.settings.oauth
        match name:
            case "PLAIN":
                return Plain()
            case "LOGIN":
                return Login()
            case "OAUTHBEARER":
                return Bearer(oauth.scope, oauth.configuration)
            case "XOAUTH2":
                return XOAuth2(oauth.scope, oauth.configuration)
        nonce = secrets.token_urlsafe(NONCE_OCTETS)
        return Scram(nonce, bindings, plus=name == PLUS, plus_offered=bool(bindings) and PLUS in self.mechanisms)

    # Locks

    def locked(self, client: str, login: str = "") -> float:
        """Seconds for which this client, or this login for it, is not listened to; 0 for none."""
        now = self._clock()
        return self._locks.client_lock(client, now) or (self._locks.login_lock(client, login, now) if login else 0.0)

    def failed(self, client: str, login: str) -> None:
        """An exchange ended with a wrong password."""
        self._locks.failed(client, login, self._clock())

    def passed(self, client: str, login: str) -> None:
        """An exchange ended well."""
        self._locks.passed(client, login)

    # Questions

    async def password(self, attempt: Attempt) -> str | None:
        """The login as it is to be known; None for a wrong password or an unknown user. Raises Unavailable."""
        trouble: Unavailable | None = None
        for place, backend in enumerate(self._backends):
            try:
                known_as = await self._ask(place, backend, attempt)
            except Unavailable as error:
                trouble = error
            else:
                if known_as is not None:
                    return known_as
        if trouble is not None or not self._backends:
            raise trouble or Unavailable("no place for passwords is configured")
        return None

    async def keys(self, login: str) -> tuple[str, Keys]:
        """The login as it is to be known, and its SCRAM keys; made-up ones for who has none. Raises Unavailable."""
        for backend in self._backends:
            await backend.refresh()
            found = await backend.keys(login)
            if found is not None:
                return found
        iterations = self._backends[0].iterations(login) if self._backends else 0
        return login, made_up_keys(self._secret, login.lower(), iterations)

    async def token(self, login: str, token: str) -> str | None:
        """The login that a token is for, or None. Raises Unavailable."""
        if self._tokens is None:
            raise Unavailable("nobody is configured who knows tokens")
        return await self._tokens.check(login, token)

    async def _ask(self, place: int, backend: Backend, attempt: Attempt) -> str | None:
        if not backend.cached:
            return await backend.verify(attempt)
        await backend.refresh()
        login, password, generation = attempt.login, attempt.password, backend.generation
        known_as = self._cache.get(place, login, password, generation, self._clock())
        if known_as is None:
            known_as = await backend.verify(attempt)
            if known_as is not None:
                self._cache.put(place, login, password, known_as, generation, self._clock())
        return known_as

    def _parts(self) -> list[Backend | TokenCheck]:
        return [*self._backends, *([self._tokens] if self._tokens is not None else [])]

    def _can(self, mechanism: str) -> bool:
        """Whether there is somebody to ask for a mechanism."""
        if mechanism in TOKEN_MECHANISMS:
            return self._tokens is not None
        if mechanism in ("PLAIN", "LOGIN"):
            return bool(self._backends)
        return any(backend.has_keys for backend in self._backends)
