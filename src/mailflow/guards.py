"""Which guards a server has: the policy of its listeners, put together from the settings.

The order is that of asking: abuse control, then the policy's rules, then what others say (`ingress/checks`), then an
embedding program's hooks. A guard that the settings do not ask for is not made, so that it costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailflow.hooks.program import NO_PROGRAMS, Programs
from mailflow.ingress.abuse.parts import Abuse
from mailflow.ingress.asking import Panel
from mailflow.ingress.auth.parts import Auth
from mailflow.ingress.checks.parts import Checks
from mailflow.ingress.ports import Events, Intake, Recipients
from mailflow.ingress.settings import ListenerSettings
from mailflow.ingress.verdict import Guard, Watcher
from mailflow.net.dns import Resolver
from mailflow.settings import Settings

if TYPE_CHECKING:
    from mailflow.hooks.part import Part


class Guards:
    """All guards of one server, and what they need."""

    def __init__(
        self,
        settings: Settings,
        dns: Resolver,
        log: Events,
        *,
        recipients: Recipients,
        programs: Programs = NO_PROGRAMS,
    ) -> None:
        """To be made in the running loop. Raises ConfigError when a setting names what is not there, TypeError for bad hooks."""
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
        self._part: Part | None = None
        self.abuse = Abuse(settings.abuse, log, sessions=settings.limits.sessions, networks=settings.relay.networks)
        self._guards: list[Guard] = [*self.abuse.guards]
        self._watchers: list[Watcher] = []
        if programs.hooks is not None or programs.handler is not None:
            from mailflow.hooks.part import Part

            self._part = Part(programs, settings.hooks, settings.limits, recipients, log, hostname=settings.hostname)

    def __repr__(self) -> str:
        return f"<Guards {self._guards}>"

    async def start(self) -> None:
        """Opens what guards need. Raises ConfigError."""
        await self.auth.start()
        await self.checks.start()
        self._guards += self.auth.guards
        self._guards += self.checks.guards
        if self._part is not None:
            self._guards += self._part.guards

    async def close(self) -> None:
        """Closes it again; also after a `start` that failed."""
        await self.checks.close()
        await self.auth.close()
        if self._part is not None:
            await self._part.close()

    def intake(self, intake: Intake) -> Intake:
        """What the sessions hand messages to; in the end, `intake`."""
        return intake if self._part is None else self._part.intake(intake)

    def panel(self, listener: ListenerSettings) -> Panel:  # noqa: ARG002 - all listeners have the same ones so far
        """The questions for the sessions of a listener."""
        session = self._part.session if self._part else None
        return Panel(self._guards, self._watchers, session=session, conduct=self.abuse.conduct)
