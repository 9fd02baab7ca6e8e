"""Which guards a server has: the policy of its listeners, put together from the settings.

The order is that of asking: abuse control, then the policy's rules, then what others say (`ingress/checks`), then an
embedding program's hooks. A guard that the settings do not ask for is not made, so that it costs nothing.
"""

from __future__ import annotations

from mailflow.ingress.asking import Panel
from mailflow.ingress.checks.parts import Checks
from mailflow.ingress.ports import Events
from mailflow.ingress.verdict import Guard, Watcher
from mailflow.net.dns import Resolver
from mailflow.settings import Settings


class Guards:
    """All guards of one server, and what they need."""

    def __init__(self, settings: Settings, dns: Resolver, log: Events) -> None:
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
        self._guards: list[Guard] = []
        self._watchers: list[Watcher] = []

    def __repr__(self) -> str:
        return f"<Guards {self._guards}>"

    async def start(self) -> None:
        """Opens what guards need. Raises ConfigError."""
        await self.checks.start()
        self._guards += self.checks.guards

    async def close(self) -> None:
        """Closes it again; also after a `start` that failed."""
        await self.checks.close()

    def panel(self) -> Panel:
        """The questions for the sessions of a listener."""
        return Panel(self._guards, self._watchers)
