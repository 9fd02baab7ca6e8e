"""Puts a program's hooks or handler together with the ingress: which guards, sessions and intake it needs.

`Part` is made by `guards.Guards` when the program gave something, and asked by it; without a program there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.hooks.collecting import Collecting, Telling
from mailflow.hooks.native import HookGuard, QueuedTeller, written
from mailflow.hooks.program import Programs
from mailflow.hooks.running import Runner
from mailflow.hooks.settings import HooksSettings
from mailflow.ingress.auth.backend import Pool
from mailflow.ingress.auth.program import Authenticate
from mailflow.ingress.ports import Events, Intake, Recipients
from mailflow.ingress.session import Session
from mailflow.ingress.settings import LimitsSettings
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Guard


class Part:
    """A program's part in the sessions of a server."""

    def __init__(
        self,
        programs: Programs,
        settings: HooksSettings,
        limits: LimitsSettings,
        recipients: Recipients,
        log: Events,
        *,
        hostname: str,
    ) -> None:
        """To be made in the running loop. Raises ConfigError when aiosmtpd is needed and missing, TypeError for hooks that are none."""
        runner = Runner(settings)
        self.guards: list[Guard] = []
        self.session: Callable[..., Session] | None = None
        """Makes sessions that talk to a handler."""
        self.authenticate: Authenticate | None = programs.authenticate
        """AUTH's back end, if the program brings one."""
        self._stores = True
        """Whether messages go to disk, as a rule."""
        self._collects = False
        self._limit = max(settings.content_memory, limits.message_size)
        self._teller: QueuedTeller | None = None
        self._pool: Pool | None = None
        if programs.hooks is not None:
            guard = HookGuard(programs.hooks, runner, recipients, limits)
            self.guards.append(guard)
            self._collects = Stage.END in guard.stages
            queued = written(programs.hooks, "on_queued")
            self._teller = QueuedTeller(queued, runner, log) if queued else None
        if programs.handler is not None:
            self._handle(programs, runner, limits, recipients, log, hostname)

    def _handle(
        self,
        programs: Programs,
        runner: Runner,
        limits: LimitsSettings,
        recipients: Recipients,
        log: Events,
        hostname: str,
    ) -> None:
        if find_spec("aiosmtpd") is None:
            words = 'a handler needs the package aiosmtpd: install "mailflow[aiosmtpd]"'
            raise ConfigError([ConfigProblem(words, key="handler")])
        from mailflow.hooks.aiosmtpd_identity import authenticate
        from mailflow.hooks.aiosmtpd_server import Host  # aiosmtpd is an extra
        from mailflow.hooks.aiosmtpd_session import HandledSession

        mode = programs.handler_mode
        host = Host(
            programs.handler,
            mode,
            runner,
            recipients,
            authenticator=programs.authenticator,
            hostname=hostname,
            message_size=limits.message_size,
        )
        self.session, self._pool = partial(HandledSession, host), host.pool
        if programs.authenticator is not None:
            self.authenticate = authenticate
        self._stores = host.filters
        self._collects = not host.filters or "DATA" in host.hooks
        ignored = [name for name in dir(programs.handler) if name == "handle_AUTH" or name.startswith("auth_")]
        if ignored:
            log.event(
                "warning", level=30, reason=f"{', '.join(ignored)}: AUTH is mailflow's; give an authenticator instead"
            )
        if not host.filters and "DATA" not in host.hooks:
            name = type(programs.handler).__name__
            log.event(
                "warning", level=30, reason=f"{name} has no handle_DATA: every message is acknowledged and dropped"
            )

    def intake(self, intake: Intake) -> Intake:
        """What sessions hand messages to; in the end, `intake`."""
        if self._teller is not None:
            intake = Telling(intake, self._teller.tell)
        if not self._collects:
            return intake
        return Collecting(intake, self._limit, intake.room if self._stores else lambda _size: None)

    async def close(self) -> None:
        """Breaks off what still runs."""
        if self._pool is not None:
            self._pool.close()
        if self._teller is not None:
            await self._teller.close()
