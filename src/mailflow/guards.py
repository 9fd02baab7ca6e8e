"""Which guards a server has: the policy of its listeners, put together from the settings.

The order is that of asking: abuse control, then the policy's rules, then what others say (`ingress/checks`), then an
embedding program's hooks. A guard that the settings do not ask for is not made, so that it costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailflow.ingress.asking import Panel
from mailflow.ingress.auth.parts import Auth
from mailflow.ingress.auth.program import Authenticate
from mailflow.ingress.checks.parts import Checks
from mailflow.ingress.ports import Events
from mailflow.ingress.verdict import Guard, Watcher
from mailflow.net.dns import Resolver
from mailflow.settings import Settings


@dataclass(frozen=True, slots=True)
class Programs:
    """What an embedding program decides by itself."""

    authenticate: Authenticate | None = None
    """Knows logins and passwords."""
    check_token: Authenticate | None = None
    """Knows whom a bearer token is for; asked with the claimed login ("" for none) and the token."""


NO_PROGRAMS = Programs()


class Guards:
    """All guards of one server, and what they need."""

    def __init__(self, settings: Settings, dns: Resolver, log: Events, *, programs: Programs = NO_PROGRAMS) -> None:
        """Raises ConfigError when a setting names what is not there."""
        self.settings = settings
        self.checks = Checks(
            settings.dnsbl,
            settings.greylist,
            settings.policy_service,
            settings.policy_hook,
            dns=dns,
            log=log,
            spool=settings.spool,
        )
        self.auth = Auth(
            settings.auth,
            spool=settings.spool,
            log=log,
            authenticate=programs.authenticate,
            check_token=programs.check_token,
        )
        self._guards: list[Guard] = []
        self._watchers: list[Watcher] = []

    def __repr__(self) -> str:
        return f"<Guards {self._guards}>"

    async def start(self) -> None:
        """Opens what guards need. Raises ConfigError."""
        await self.auth.start()
        await self.checks.start()
        self._guards += self.auth.guards
        self._guards += self.checks.guards

    async def close(self) -> None:
        """Closes it again; also after a `start` that failed."""
        await self.checks.close()
        await self.auth.close()

    def panel(self) -> Panel:
        """The questions for the sessions of a listener."""
        return Panel(self._guards, self._watchers)
