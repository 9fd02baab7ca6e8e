"""Logins that PAM knows (extra `pam`: python-pam). PAM may block for seconds, so it has threads of its own.

A module that never returns takes one of them for good; when all are taken, clients hear 454.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.ingress.auth.backend import Attempt, Base, Pool, Unavailable

REFUSALS = frozenset({6, 7, 8, 10, 11, 12, 13, 27})
"""PAM_PERM_DENIED, AUTH_ERR, CRED_INSUFFICIENT, USER_UNKNOWN, MAXTRIES, NEW_AUTHTOK_REQD, ACCT_EXPIRED, AUTHTOK_EXPIRED;
any other code is trouble of the machine's (pam(3))."""

Ask = Callable[[str, str, str], int]
"""Service, login and password; gives PAM's code, 0 for success. Blocks."""


class Pam(Base):
    """The back end."""

    def __init__(self, service: str, pool: Pool, ask: Ask | None = None) -> None:
        """`ask` is python-pam's unless another is given."""
        self._service = service
        self._pool = pool
        self._ask = ask

    def __repr__(self) -> str:
        return f"<Pam {self._service} {self._pool}>"

    async def start(self) -> None:
        """Raises ConfigError when PAM cannot be asked here."""
        if self._ask is None:
            self._ask = python_pam()

    async def close(self) -> None:
        """Ends the threads that do not hang."""
        self._pool.close()

    async def verify(self, attempt: Attempt) -> str | None:
        """Authenticates and checks the account."""
        if self._ask is None:
            raise Unavailable("PAM was not started")
        code = await self._pool.run(partial(self._ask, self._service, attempt.login, attempt.password))
        if code and code not in REFUSALS:
            raise Unavailable(f"PAM answers with code {code}")
        return None if code else attempt.login


def python_pam() -> Ask:
    """PAM by python-pam. Raises ConfigError."""
    try:
        import pam

        pam.PamAuthenticator()
    except (ImportError, OSError, AttributeError) as error:
        problem = ConfigProblem(f"PAM cannot be used here: {error}", key="auth.pam", accepted="mailflow[pam] installed")
        raise ConfigError([problem]) from error

    def ask(service: str, login: str, password: str) -> int:
        asked = pam.PamAuthenticator()
        # Credentials are not set: no session is opened for the user.
        return 0 if asked.authenticate(login, password, service=service, resetcreds=False) else int(asked.code) or 7

    return ask
