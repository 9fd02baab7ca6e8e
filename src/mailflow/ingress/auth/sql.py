"""Logins in a database table: SQLite by the standard library, PostgreSQL by psycopg (extra `postgres`).

One query finds the stored password (the forms of `hashes.py`). Query and comparison run in a thread of the pool. SQLite files
are opened for reading only, and anew for each query (50 µs, against the hash's 50 ms): no lock is held and a replaced file is noticed.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.ingress.auth import hashes
from mailflow.ingress.auth.backend import Attempt, Base, Pool, Unavailable
from mailflow.ingress.auth.settings import SqlSettings
from mailflow.smtp.scram import Keys

QUERY_SECONDS = 10.0
"""How long a locked or unreachable database is waited for."""


class SqlTable(Base):
    """The back end."""

    has_keys = True

    def __init__(self, settings: SqlSettings, pool: Pool) -> None:
        self._database = settings.database
        self._is_postgres = settings.is_postgres
        self._query = settings.query
        self._pool = pool

    def __repr__(self) -> str:
        return "<SqlTable>"  # the database's name may hold a password

    async def start(self) -> None:
        """Asks once, for nobody. Raises ConfigError."""
        try:
            await self._pool.run(partial(self._find, ""))
        except Unavailable as error:
            raise ConfigError([ConfigProblem(str(error), key="auth.sql")]) from error

    async def verify(self, attempt: Attempt) -> str | None:
        """Compares with the stored password; an unknown user's with a decoy."""
        return await self._pool.run(partial(self._verify, attempt))

    async def keys(self, login: str) -> tuple[str, Keys] | None:
        """The keys of a {SCRAM-SHA-256} entry."""
        return await self._pool.run(partial(self._keys, login))

    # In a thread

    def _verify(self, attempt: Attempt) -> str | None:
        found = self._find(attempt.login)
        try:
            right = hashes.verify(found[1] if found else hashes.decoy(), attempt.password)
        except ValueError as error:
            raise Unavailable(f"stored password of {attempt.login}: {error}") from None
        return found[0] if found and right else None

    def _keys(self, login: str) -> tuple[str, Keys] | None:
        found = self._find(login)
        try:
            keys = hashes.keys_in(found[1]) if found else None
        except ValueError as error:
            raise Unavailable(f"stored password of {login}: {error}") from None
        return (found[0], keys) if found and keys else None

    def _find(self, login: str) -> tuple[str, str] | None:
        """The login as it is to be known, and the stored password."""
        row = self._postgres(login) if self._is_postgres else self._sqlite(login)
        if row is None or row[0] is None:
            return None
        known_as = row[1] if len(row) > 1 and row[1] else login
        return str(known_as), str(row[0])

    def _sqlite(self, login: str) -> Any:
        try:
            uri = f"file:{quote(str(Path(self._database).absolute()))}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=QUERY_SECONDS)) as database:
                return database.execute(self._query, {"login": login} if ":login" in self._query else ()).fetchone()
        except sqlite3.Error as error:
            raise Unavailable(f"{self._database}: {error}") from error

    def _postgres(self, login: str) -> Any:
        try:
            import psycopg
        except ImportError:
            raise Unavailable("PostgreSQL needs psycopg: install mailflow[postgres]") from None
        query = re.sub(r"(?<!:):login\b", "%(login)s", self._query.replace("%", "%%"))
        try:
            with psycopg.connect(self._database, connect_timeout=int(QUERY_SECONDS)) as database:
                return database.execute(query, {"login": login}).fetchone()
        except psycopg.Error as error:
            raise Unavailable(f"PostgreSQL: {type(error).__name__}") from error
