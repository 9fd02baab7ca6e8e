"""AUTH of one server: made from the settings and an embedding program's functions, opened, closed, and given out.

`authenticator` is None until `start`, and stays so where nothing is configured; then AUTH is not offered.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.auth.backend import Backend, Pool, TokenCheck
from mailflow.ingress.auth.program import Authenticate, Program, ProgramTokens
from mailflow.ingress.auth.senders import Owners, SenderLogins
from mailflow.ingress.auth.settings import AuthSettings
from mailflow.ingress.ports import Events
from mailflow.ingress.verdict import Guard
from mailflow.tables import Table

SECRET_FILE = "auth.secret"  # noqa: S105 - a name
"""Below the spool: what unknown users' SCRAM salts are made from, so that they are the same after a restart."""
SECRET_OCTETS = 32


class Auth:
    """The parts of AUTH."""

    def __init__(
        self,
        settings: AuthSettings,
        *,
        spool: Path,
        log: Events,
        authenticate: Authenticate | None = None,
        check_token: Authenticate | None = None,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._log = log
        self._authenticate = authenticate
        self._check_token = check_token
        self.authenticator: Authenticator | None = None

    def __repr__(self) -> str:
        return f"<Auth {self.authenticator}>"

    async def start(self) -> None:
        """Opens what the settings name. Raises ConfigError."""
        tokens = self._tokens()
        wanted = self._settings.has_backend or self._authenticate is not None
        if not wanted and tokens is None:
            return
        secret = await asyncio.to_thread(read_secret, self._spool / SECRET_FILE)
        pool = Pool("auth", self._settings.threads, self._settings.waiting)
        backends = self._backends(pool, secret)
        self.authenticator = Authenticator(self._settings, backends, tokens, pool=pool, secret=secret)
        await self.authenticator.start()

    async def close(self) -> None:
        """Closes it again; also after a `start` that failed."""
        if self.authenticator is not None:
            await self.authenticator.close()

    def guards(self, tables: Mapping[str, Table]) -> list[Guard]:
        """The comparison of senders with logins, where it is wanted; `tables` by name."""
        settings = self._settings
        if settings.sender_check == "no" or not (settings.sender_login or settings.sender_login_tables):
            return []
        owners = Owners(settings.sender_login, [tables[name] for name in settings.sender_login_tables])
        return [SenderLogins(owners, settings.sender_check)]

    def _backends(self, pool: Pool, secret: bytes) -> list[Backend]:
        settings = self._settings
        backends: list[Backend] = []
        if settings.file is not None:
            from mailflow.ingress.auth.password_file import PasswordFile

            backends.append(PasswordFile(settings.file, pool, secret, self._log, time.monotonic))
        if settings.sql.database:
            from mailflow.ingress.auth.sql import SqlTable

            backends.append(SqlTable(settings.sql, pool))
        if settings.pam:
            from mailflow.ingress.auth.pam import Pam

            backends.append(Pam(settings.pam, Pool("pam", settings.threads, settings.waiting)))
        if settings.dovecot is not None:
            from mailflow.ingress.auth.dovecot import Dovecot

            backends.append(Dovecot(settings.dovecot))
        if self._authenticate is not None:
            backends.append(Program(self._authenticate))
        return backends

    def _tokens(self) -> TokenCheck | None:
        if self._check_token is not None:
            return ProgramTokens(self._check_token)
        if self._settings.oauth.introspection:
            from mailflow.ingress.auth.oauth import Introspection  # and aiohttp

            return Introspection(self._settings.oauth)
        return None


def read_secret(path: Path) -> bytes:
    """The secret in a file, made when there is none. Raises ConfigError."""
    try:
        try:
            place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            secret = path.read_bytes()
        else:
            secret = secrets.token_bytes(SECRET_OCTETS)
            with os.fdopen(place, "wb") as file:
                file.write(secret)
    except OSError as error:
        raise ConfigError([ConfigProblem(f"{path}: {error.strerror or error}", key="auth")]) from error
    # One that was cut off by a crash serves only this time.
    return secret if len(secret) == SECRET_OCTETS else secrets.token_bytes(SECRET_OCTETS)
