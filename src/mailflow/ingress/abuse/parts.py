"""Abuse control of one server, put together from the settings: the judge of conduct, and the guards that go with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from mailflow.ingress.abuse.conduct import Conduct
from mailflow.ingress.abuse.guard import GreetDelay, RateGuard
from mailflow.ingress.abuse.networks import NetworkList
from mailflow.ingress.abuse.settings import AbuseSettings
from mailflow.ingress.abuse.stress import Stress
from mailflow.ingress.ports import Events
from mailflow.ingress.verdict import Guard
from mailflow.setting import Network


class Abuse:
    """All of it; nothing has to be opened or closed."""

    def __init__(
        self,
        settings: AbuseSettings,
        log: Events,
        *,
        sessions: int,
        networks: Iterable[Network],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sessions`: the limit of all (limits.sessions); `networks`: relay.networks; `clock`: seconds, never going back."""
        self._log = log
        self._sessions = sessions
        stress = Stress(settings, sessions, NetworkList(networks).__contains__, self._stress_changed)
        rates = RateGuard(settings, clock, known=stress.knows)
        self.conduct = Conduct(settings, rates, stress, clock)
        self.guards: list[Guard] = [rates] if rates.stages else []
        if settings.greet_delay:
            self.guards.append(GreetDelay(settings.greet_delay, rates))

    def __repr__(self) -> str:
        return f"<Abuse {self.conduct}>"

    def _stress_changed(self, on: bool, sessions: int) -> None:  # noqa: FBT001 - what `Stress` calls
        self._log.event("stress", 30, state="begins" if on else "ends", sessions=sessions, limit=self._sessions)
