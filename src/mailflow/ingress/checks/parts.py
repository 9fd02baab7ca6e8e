"""All checks of one server that ask somebody else: made from the settings, opened, closed, and given out.

`guards` are those that are always asked (`use = "always"`), in this order: lists in the DNS, greylisting, policy services,
functions; what is asked first is cheaper. `check` gives the same checks to the rules of the policy, by name:

    reject_dnsbl · permit_dnswl · greylist · check_policy_service NAME · hook NAME

Trusted clients are asked about by functions only; a rule that says `check_policy_service` asks about whom it says.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.ingress.checks.dnsbl import Dnsbl, Lookups
from mailflow.ingress.checks.dnsbl_selftest import SelfTest
from mailflow.ingress.checks.greylist_store import GreylistStore
from mailflow.ingress.checks.greylisting import Greylisting
from mailflow.ingress.checks.hook import PolicyHook, Read
from mailflow.ingress.checks.mistakes import missing
from mailflow.ingress.checks.policy_service import PolicyService
from mailflow.ingress.checks.settings import (
    DnsblSettings,
    GreylistSettings,
    PolicyHookSettings,
    PolicyServiceSettings,
)
from mailflow.ingress.ports import Events
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Ask, Finding, Guard, Situation, Verdict

GREYLIST_FILE = "greylist.db"
"""Below the spool."""

PERMIT = Verdict(Action.PERMIT)

OnStage = Callable[[Stage], Ask]


class CheckGuard:
    """A check that is always asked, at the stages of the settings."""

    def __init__(self, name: str, stages: Collection[Stage], at: OnStage) -> None:
        self.name, self.stages, self._at = name, stages, at

    def __repr__(self) -> str:
        return f"<CheckGuard {self.name}>"

    def at(self, stage: Stage) -> Ask:
        """The question of a stage."""
        return self._at(stage)


class Checks:
    """The checks of one server. Made and used in one event loop."""

    def __init__(
        self,
        dnsbl: DnsblSettings,
        greylist: GreylistSettings,
        services: Sequence[PolicyServiceSettings],
        hooks: Sequence[PolicyHookSettings],
        *,
        dns: Lookups,
        log: Events,
        spool: Path,
        read: Read = lambda found: found,
    ) -> None:
        """`read` makes verdicts of what functions answer. Raises ConfigError when a function cannot be imported."""
        self._settings = dnsbl, greylist, services, hooks
        self._log, self._spool = log, spool
        self._dnsbl = Dnsbl(dnsbl, dns, time.monotonic, self._warn)
        self._test = SelfTest(self._dnsbl, dns, dnsbl.self_test, self._warn) if dnsbl.list and dnsbl.self_test else None
        self._greylisting: Greylisting | None = None
        self._store: GreylistStore | None = None
        self._services = [(settings, PolicyService(settings)) for settings in services]
        self._hooks = [(settings, _hook(number, settings, read)) for number, settings in enumerate(hooks)]

    def __repr__(self) -> str:
        return f"<Checks {self._dnsbl} {self._greylisting} {self._services} {self._hooks}>"

    async def start(self) -> None:
        """Opens greylisting's file and begins to test the lists. Raises ConfigError."""
        settings = self._settings[1]
        if settings.use != "never":
            path = self._spool / GREYLIST_FILE
            try:
                self._store = GreylistStore(path, settings.entries, _now, self._warn)
            except (OSError, sqlite3.Error) as error:
                raise ConfigError([ConfigProblem(f"cannot open {path}: {error}", key="greylist")]) from error
            self._greylisting = Greylisting(settings, self._store, _now, spared=self._dnsbl.permits)
        if self._test is not None:
            self._test.start()

    async def close(self) -> None:
        """Closes everything; greylisting's memory is on disk then."""
        if self._test is not None:
            await self._test.close()
        for _, service in self._services:
            await service.close()
        if self._store is not None:
            await self._store.close()

    @property
    def guards(self) -> list[Guard]:
        """The checks that are always asked."""
        dnsbl, greylist, _, _ = self._settings
        found: list[Guard] = []
        if dnsbl.list and dnsbl.use == "always":
            found.append(CheckGuard("dnsbl", {Stage.RCPT}, lambda _stage: self._dnsbl.reject))
        if self._greylisting is not None and greylist.use == "always":
            ask = self._greylisting.ask
            found.append(CheckGuard("greylist", {Stage.RCPT}, lambda _stage: ask))
        found += [
            CheckGuard(service.name, _stages(settings.stages), _of_strangers(service))
            for settings, service in self._services
            if settings.use == "always"
        ]
        found += [
            CheckGuard(hook.name, _stages(settings.stages), lambda _stage, ask=hook.ask: ask)  # type: ignore[misc]
            for settings, hook in self._hooks
            if settings.use == "always"
        ]
        return found

    def check(self, name: str, argument: str = "", stage: Stage = Stage.RCPT) -> Ask:
        """A check for a rule, asked at `stage`. Raises ValueError, in words for the operator, for what is not there."""
        wrong = missing(name, argument, *self._settings)
        if wrong:
            raise ValueError(f"{wrong[0]} (accepted: {wrong[1]})")
        match name:
            case "reject_dnsbl":
                return self._dnsbl.reject
            case "permit_dnswl":
                return self._permit_dnswl
            case "greylist" if self._greylisting is not None:
                return self._greylisting.ask
            case "check_policy_service":
                return _permitting(_named(argument, self._services), stage)
            case "hook":
                return _named(argument, self._hooks).ask
        raise ValueError(f"there is no check {name}")

    def _permit_dnswl(self, situation: Situation) -> Finding | Awaitable[Finding]:
        permits = self._dnsbl.permits(situation)
        if isinstance(permits, bool):
            return PERMIT if permits else None
        return _permit_later(permits)

    def _warn(self, text: str) -> None:
        self._log.event("warning", level=30, reason=text)


async def _permit_later(permits: Awaitable[bool]) -> Finding:
    return PERMIT if await permits else None


def _of_strangers(service: PolicyService) -> OnStage:
    """The service's questions, for clients that may not send anywhere."""

    def at(stage: Stage) -> Ask:
        async def consult(situation: Situation) -> Finding:
            return (await service.consult(situation, stage)).verdict

        return lambda situation: None if situation.trusted else consult(situation)

    return at


def _permitting(service: PolicyService, stage: Stage) -> Ask:
    """The service's question in a list of rules, which its OK ends."""

    async def consult(situation: Situation) -> Finding:
        answer = await service.consult(situation, stage)
        return PERMIT if answer.permits else answer.verdict

    return consult


T = TypeVar("T", PolicyService, PolicyHook)


def _named(name: str, parts: Sequence[tuple[object, T]]) -> T:
    """The part with this name; without a name, the only one."""
    return next(part for _, part in parts if name in ("", part.name))


def _hook(number: int, settings: PolicyHookSettings, read: Read) -> PolicyHook:
    try:
        return PolicyHook(settings, read)
    except ValueError as error:
        raise ConfigError([ConfigProblem(str(error), key=f"policy_hook[{number}].call")]) from error


def _stages(names: Sequence[str]) -> set[Stage]:
    return {Stage(name) for name in names}


def _now() -> int:
    return int(time.time())
