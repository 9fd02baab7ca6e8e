"""Limits of rates, for each client and each network (wish 75), as a guard that sessions ask.

Connections, messages, recipients and TLS handshakes are counted when they are asked for; errors and failed logins when
they have happened. A client that is over a limit of the latter, or of handshakes, meets it at its next connection. Limits that are
off have no bucket and no question, so they cost nothing. Trusted clients are let pass before anything is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from mailflow.ingress.abuse.networks import Keys, NetworkList
from mailflow.ingress.abuse.notices import Notices
from mailflow.ingress.abuse.rates import Buckets, Excess, RateLimit
from mailflow.ingress.abuse.settings import AbuseSettings, RatesSettings
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Ask, Finding, Situation, Verdict
from mailflow.smtp.replies import blames_client
from mailflow.smtp.reply import Reply, reply

MOST_DELAYED = 1000
"""Sessions that are delayed at the same time; what is over a limit beyond that is told to try again later."""

_STAGES = {Stage.CONNECT: ("connections",), Stage.MAIL: ("messages",), Stage.RCPT: ("recipients",)}
"""What is counted when it is asked for."""
_FAULTS = ("errors", "auth_failures", "tls_handshakes")
"""What is looked at when a connection begins."""
_WORDS = {
    "connections": "Too many connections",
    "messages": "Too many messages",
    "recipients": "Too many recipients",
    "errors": "Too many errors",
    "auth_failures": "Too many failed logins",
    "tls_handshakes": "Too many TLS handshakes",
}


class _Limit(NamedTuple):
    """One limit of the settings."""

    name: str
    """Its key in [abuse]."""
    what: str
    key: Callable[[str], int | None]
    buckets: Buckets


class RateGuard:
    """Counts what clients do, and stops those that do too much."""

    def __init__(
        self,
        settings: AbuseSettings,
        clock: Callable[[], float],
        *,
        known: Callable[[str], bool] = lambda _address: False,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`clock`: seconds that never go back. `known`: whether a client's mail was accepted before. `pause` waits."""
        self._settings = settings
        self._clock = clock
        self._known = known
        self._pause = pause
        self._networks = NetworkList(settings.exempt_networks)
        self._trusted_pass = {"relay", "login"} <= set(settings.exempt)
        self._delayed = 0
        self.notices = Notices()
        keys = Keys(settings.ipv4_prefix, settings.ipv6_prefix)
        limits = [
            *_limits("client", settings.client, keys.client, settings.entries),
            *_limits("network", settings.network, keys.network, settings.entries),
        ]
        self._by_kind = {what: tuple(x for x in limits if x.what == what) for what in _WORDS}

    def __repr__(self) -> str:
        return f"<RateGuard {[x.name for limits in self._by_kind.values() for x in limits]} delayed={self._delayed}>"

    # For the panel

    @property
    def stages(self) -> frozenset[Stage]:
        """Where there is something to ask."""
        faults = any(self._by_kind[what] for what in _FAULTS)
        return frozenset(
            stage
            for stage, kinds in _STAGES.items()
            if any(self._by_kind[what] for what in kinds) or (faults and stage is Stage.CONNECT)
        )

    def at(self, stage: Stage) -> Ask:
        """The question of a stage."""
        taken = tuple(limit for what in _STAGES[stage] for limit in self._by_kind[what])
        faults = tuple(limit for what in _FAULTS for limit in self._by_kind[what]) if stage is Stage.CONNECT else ()

        def ask(situation: Situation) -> Finding | Awaitable[Finding]:
            if self.exempts(situation):
                return None
            address, now = situation.address, self._clock()
            for limit in faults:
                key = limit.key(address)
                if key is not None and limit.buckets.spent(key, now):
                    return self._over(limit, stage, situation, now)
            for limit in taken:
                key = limit.key(address)
                if key is not None and not limit.buckets.take(key, now):
                    return self._over(limit, stage, situation, now)
            return None

        return ask

    # For the judge of conduct

    def charge(self, what: str, situation: Situation) -> None:
        """Counts what a client has done."""
        limits = self._by_kind[what]
        if limits and not self.exempts(situation):
            now = self._clock()
            for limit in limits:
                key = limit.key(situation.address)
                if key is not None:
                    limit.buckets.charge(key, now)

    def takes_handshake(self, address: str, *, ours: bool) -> bool:
        """Counts a TLS handshake that is about to begin; False when there were too many. `ours`: in relay.networks."""
        limits = self._by_kind["tls_handshakes"]
        if not limits or (ours and "relay" in self._settings.exempt) or self._exempts_address(address):
            return True
        now = self._clock()
        for limit in limits:
            key = limit.key(address)
            if key is not None and not limit.buckets.take(key, now):
                return False
        return True

    def refused(self, situation: Situation, answer: Reply) -> None:
        """A command was refused: an error, and perhaps a failed login."""
        if answer.code == 535:
            self.charge("auth_failures", situation)
        if blames_client(answer):
            self.charge("errors", situation)

    def exempts(self, situation: Situation) -> bool:
        """Whether this client has no limits."""
        if situation.trusted and (self._trusted_pass or self._trusted_exempt(situation)):
            return True
        return self._exempts_address(situation.address)

    # Helpers

    def _exempts_address(self, address: str) -> bool:
        return address in self._networks or ("known" in self._settings.exempt and self._known(address))

    def _trusted_exempt(self, situation: Situation) -> bool:
        return ("login" if situation.peer.login else "relay") in self._settings.exempt

    def _over(self, limit: _Limit, stage: Stage, situation: Situation, now: float) -> Finding | Awaitable[Finding]:
        rate = limit.buckets.limit
        excess = rate.excess
        if excess is Excess.DELAY:
            if self._delayed < MOST_DELAYED:
                return self._wait()
            excess = Excess.DEFER
        left_out = self.notices.due(limit.name, situation.address, now)
        return _verdict(limit, excess, stage, left_out)

    async def _wait(self) -> Finding:
        self._delayed += 1
        try:
            await self._pause(self._settings.delay)
        finally:
            self._delayed -= 1
        return None


class GreetDelay:
    """Has strangers wait for the greeting; who talks meanwhile gives himself away (`Offence.EARLY`)."""

    stages = frozenset((Stage.CONNECT,))

    def __init__(
        self, seconds: float, rates: RateGuard, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._seconds = seconds
        self._rates = rates
        self._pause = pause

    def __repr__(self) -> str:
        return f"<GreetDelay {self._seconds}>"

    def at(self, stage: Stage) -> Ask:  # noqa: ARG002 - there is one
        """The question of CONNECT."""
        return self._ask

    def _ask(self, situation: Situation) -> Finding | Awaitable[Finding]:
        return None if self._rates.exempts(situation) else self._wait()

    async def _wait(self) -> Finding:
        await self._pause(self._seconds)
        return None


def _limits(scope: str, settings: RatesSettings, key: Callable[[str], int | None], entries: int) -> Iterable[_Limit]:
    for what in _WORDS:
        rate: RateLimit | None = getattr(settings, what)
        if rate is not None:
            yield _Limit(f"abuse.{scope}.{what}", what, key, Buckets(rate, entries))


def _verdict(limit: _Limit, excess: Excess, stage: Stage, left_out: int | None) -> Verdict:
    """The refusal of what is over a limit; its line in the log is a matter of debugging when there was one already."""
    text = f"{_WORDS[limit.what]}, try again later"
    at_start = stage is Stage.CONNECT
    if excess is Excess.REFUSE:
        answer = reply(554 if at_start else 550, "5.7.1", _WORDS[limit.what])
    elif at_start or excess is not Excess.DEFER:
        answer = reply(421, "4.7.1", text)
    else:
        answer = reply(450, "4.7.1", text)
    action = Action.DROP if excess is Excess.DROP else Action.CLOSE if excess is Excess.CLOSE else Action.REFUSE
    reason = f"{left_out} more were not logged" if left_out else ""
    rule = f"{limit.name} = {limit.buckets.limit}"
    return Verdict(action, answer, reason, rule, level=10 if left_out is None else 20)
