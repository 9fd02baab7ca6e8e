"""Which guards a server has: the policy of its listeners, put together from the settings.

The order is that of asking: abuse control, then the policy's rules, then what others say (`ingress/checks`), then an
embedding program's hooks. A guard that the settings do not ask for is not made, so that it costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mailflow.hooks.program import NO_PROGRAMS, Programs
from mailflow.ingress.abuse.parts import Abuse
from mailflow.ingress.asking import STAGE_SECONDS, Panel
from mailflow.ingress.auth.parts import Auth
from mailflow.ingress.checks.hook import Read
from mailflow.ingress.checks.parts import Checks
from mailflow.ingress.policy.compiling import Policy, parts_of
from mailflow.ingress.policy.names import LOOKUPS, ClientNames
from mailflow.ingress.policy.parts import Parts
from mailflow.ingress.policy.settings import SUBMISSION
from mailflow.ingress.ports import Events, Intake, Recipients
from mailflow.ingress.settings import ListenerSettings
from mailflow.ingress.verdict import Guard, Watcher
from mailflow.net.dns import Resolver as DnsResolver
from mailflow.setting import Endpoint
from mailflow.settings import Settings
from mailflow.tables import Table
from mailflow.tables.opening import Tables

POLICY_LOOKUPS = 1000
"""Questions of rules to name servers at one time. Deliveries and clients' names have look-ups of their own."""
LIST_LOOKUPS = 1000
"""Questions to lists in the DNS at one time: mute name servers of senders must not keep them from being asked."""

if TYPE_CHECKING:
    from mailflow.hooks.part import Part


class Guards:
    """All guards of one server, and what they need."""

    def __init__(
        self,
        settings: Settings,
        log: Events,
        *,
        recipients: Recipients,
        programs: Programs = NO_PROGRAMS,
    ) -> None:
        """To be made in the running loop. Raises ConfigError when a setting names what is not there, TypeError for bad hooks."""
        self.settings = settings
        self._recipients = recipients
        self._log = log
        self._dns = DnsResolver(settings.dns, lookups=POLICY_LOOKUPS)
        self._names_dns = DnsResolver(settings.dns, lookups=LOOKUPS)
        self._lists_dns = DnsResolver(settings.dns, lookups=LIST_LOOKUPS)
        self._names: ClientNames | None = None
        self._part: Part | None = None
        if programs.hooks is not None or programs.handler is not None:
            from mailflow.hooks.part import Part

            sizes = [listener.limits.of(settings.limits).message_size for listener in settings.listener]
            limits = settings.limits.model_copy(
                update={"message_size": max(sizes, default=settings.limits.message_size)}
            )
            self._part = Part(programs, settings.hooks, limits, recipients, log, hostname=settings.hostname)
        self.checks = Checks(
            settings.dnsbl,
            settings.greylist,
            settings.policy_service,
            settings.policy_hook,
            dns=self._lists_dns,
            log=log,
            spool=settings.spool,
            read=_reading(settings),
        )
        self.auth = Auth(
            settings.auth,
            spool=settings.spool,
            log=log,
            authenticate=self._part.authenticate if self._part else programs.authenticate,
            check_token=programs.check_token,
        )
        self.abuse = Abuse(settings.abuse, log, sessions=settings.limits.sessions, networks=settings.relay.networks)
        self._guards: list[Guard] = [*self.abuse.guards]
        """Those of all listeners that are asked before the rules."""
        self._last: list[Guard] = []
        """Those that are asked behind them."""
        self._watchers: list[Watcher] = []
        self._watching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Guards {self._guards} {self._last}>"

    async def start(self) -> None:
        """Opens what guards need. Raises ConfigError."""
        await self.auth.start()
        await self.checks.start()
        self._last += self.checks.guards
        if self._part is not None:
            self._last += self._part.guards
        settings = self.settings
        self.tables = await asyncio.to_thread(Tables, settings.table)
        self._guards += self.auth.guards(self.tables)
        parts = policy_parts(settings, self._recipients, self._dns, self.tables)
        self.policy = Policy(parts, self.checks.check, settings.origin)
        wanted = settings.policy.client_names
        if wanted != "none" or self.policy.needs_names():
            self._names = ClientNames(self._names_dns, wanted, settings.policy.client_name_wait)
        if self.tables.change:
            self._watching = asyncio.get_running_loop().create_task(self.tables.watch(self._warn))

    async def close(self) -> None:
        """Closes it again; also after a `start` that failed."""
        if self._watching is not None:
            self._watching.cancel()
        if self._names is not None:
            await self._names.close()
        await self._names_dns.close()
        await self.checks.close()
        await self._lists_dns.close()
        await self.auth.close()
        if self._part is not None:
            await self._part.close()
        await self._dns.close()

    def intake(self, intake: Intake) -> Intake:
        """What the sessions hand messages to; in the end, `intake`."""
        return intake if self._part is None else self._part.intake(intake)

    def panel(self, listener: ListenerSettings) -> Panel:
        """The questions for the sessions of a listener."""
        rules = rules_for(listener)
        return Panel(
            [*self._guards, *self.policy.guards(rules), *self._last],
            self._watchers,
            seconds=STAGE_SECONDS + (self.settings.hooks.time_limit if self._part else 0.0),
            session=self._part.session if self._part else None,
            conduct=self.abuse.conduct,
            relays=self.policy.relays(rules),
            modes=self.settings.policy.modes,
            names=self._names,
        )

    def _warn(self, words: str) -> None:
        self._log.event("warning", level=30, reason=words)


def _reading(settings: Settings) -> Read:
    """How the answers of `[[policy_hook]]` functions are read; loads the decisions only where there are such functions."""
    if not settings.policy_hook:
        return lambda found: found
    from mailflow.hooks.plain import plain

    return plain


def rules_for(listener: ListenerSettings) -> str:
    """The set of rules of a listener; "" is the main one."""
    return listener.policy or (SUBMISSION if listener.protocol in ("submission", "submissions") else "")


def policy_parts(settings: Settings, recipients: Recipients, dns: DnsResolver, tables: Mapping[str, Table]) -> Parts:
    """What the rules' checks are made from."""
    binds = [listener.bind.host for listener in settings.listener if isinstance(listener.bind, Endpoint)]
    own = [settings.hostname, *binds]
    return parts_of(settings.policy, settings.relay.networks, own, recipients, dns, tables)
