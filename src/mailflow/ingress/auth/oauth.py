"""Bearer tokens: whom a token is for, by the authorization server's own word (RFC 7662).

The token goes to one URL of the configuration and nowhere else; redirections are not followed. Nothing is cached.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote_plus

import aiohttp

from mailflow.ingress.auth.backend import Unavailable
from mailflow.ingress.auth.settings import OAuthSettings
from mailflow.smtp.sasl import is_login

ANSWER_OCTETS = 64 * 1024
"""Longest answer of an authorization server."""
CONNECTIONS = 20
"""To the authorization server at the same time; further tokens wait."""


class Introspection:
    """Asks the authorization server; a `backend.TokenCheck`."""

    def __init__(self, settings: OAuthSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<Introspection {self._settings.introspection}>"

    async def start(self) -> None:
        """Opens nothing yet: connections are made when there is a token."""
        settings = self._settings
        self._session = aiohttp.ClientSession(
            headers={"Accept": "application/json"} | _authorization(settings),
            timeout=aiohttp.ClientTimeout(settings.timeout),
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
        )

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def check(self, login: str, token: str) -> str | None:
        """The login that the token is for; None when it is no good, or for another than `login`. Raises Unavailable."""
        found = await self._ask(token)
        settings = self._settings
        known_as = found.get(settings.login)
        if found.get("active") is not True or not isinstance(known_as, str) or not is_login(known_as):
            return None
        if settings.scope and settings.scope not in str(found.get("scope", "")).split():
            return None
        return known_as if login.lower() in ("", known_as.lower()) else None

    async def _ask(self, token: str) -> dict[str, Any]:
        if self._session is None:
            raise Unavailable("token check was not started")
        try:
            async with self._session.post(
                self._settings.introspection,
                data={"token": token, "token_type_hint": "access_token"},
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise Unavailable(f"token check answers with {response.status}")
                data = b""
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) > ANSWER_OCTETS:
                        break
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"token check: {type(error).__name__}") from error
        return _object(data)


def _authorization(settings: OAuthSettings) -> dict[str, str]:
    """HTTP's basic authentication; name and secret are form-encoded first (RFC 6749 §2.3.1)."""
    if not settings.client:
        return {}
    pair = f"{quote_plus(settings.client)}:{quote_plus(settings.secret)}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data) if len(data) <= ANSWER_OCTETS else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unavailable("token check answers with no JSON object")
    return found
