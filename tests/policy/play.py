"""Plays sessions against a configuration's rules, as text in TOML: real sessions, an imagined client (`policy/trial.py`)."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Mapping
from typing import Any

from mailflow.ingress.policy.compiling import Policy, parts_of
from mailflow.ingress.policy.mistakes import mistakes
from mailflow.ingress.policy.names import ClientNames
from mailflow.ingress.policy.relay import RelayControl
from mailflow.ingress.policy.settings import PolicySettings
from mailflow.ingress.policy.trial import Client, Outcome, Trial
from mailflow.net.dns import DnsTemporary, MailHost, NoSuchDomain
from mailflow.rewrite import Resolver
from mailflow.route_settings import LocalSettings, RelaySettings, RouteSettings
from mailflow.tables.opening import Tables
from mailflow.tables.settings import TableSettings

LOCAL = LocalSettings(domains=["here.test"], users=["alice", "bob"])
RELAY = RelaySettings(networks=["10.0.0.0/8"], domains=["backup.test"])
ROUTES = [RouteSettings(match="gone.test", transport="error"), RouteSettings(match="odd.test", transport="local")]
STRANGER, FRIEND = "192.0.2.7", "10.1.2.3"


class FakeDns:
    """A name service with the answers of a dict: "mx NAME", "a NAME", "ptr ADDRESS" to a list, or an exception."""

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[str] = []

    async def _find(self, key: str) -> Any:
        self.asked.append(key)
        await asyncio.sleep(0)
        found = self.answers.get(key, NoSuchDomain(key))
        if isinstance(found, Exception):
            raise found
        return found

    async def mail_hosts(self, domain: str) -> list[MailHost]:
        try:
            return [MailHost(name, preference) for preference, name in await self._find(f"mx {domain}")]
        except NoSuchDomain:
            if f"a {domain}" in self.answers:
                return [MailHost(domain, 0)]
            raise

    async def addresses(self, host: str) -> list[str]:
        return await self._find(f"a {host}")

    async def pointers(self, address: str) -> list[str]:
        return await self._find(f"ptr {address}")


TEMPORARY = DnsTemporary("x")


def recipients() -> Resolver:
    return Resolver(LOCAL, RELAY, ROUTES, hostname="mx.here.test")


def policy_of(text: str, dns: Any = None, others: Any = None, tables: Any = None) -> Policy:
    tree = tomllib.loads(text)
    settings = PolicySettings.model_validate(tree.get("policy", {}))
    named = Tables({name: TableSettings.model_validate(each) for name, each in tree.get("table", {}).items()})
    assert not list(mistakes(settings, named, lambda *_: None))
    own = ["mx.here.test", "192.0.2.25"]
    parts = parts_of(settings, RELAY.networks, own, recipients(), dns or FakeDns(), tables or named)
    return Policy(parts, others)


def play(
    text: str,
    address: str = STRANGER,
    *to: str,
    sender: str = "joe@there.test",
    rules: str = "",
    dns: Any = None,
    others: Any = None,
    policy: Policy | None = None,
    routing: Resolver | None = None,
    **client: Any,
) -> Outcome:
    """One session of a client with these words; `to` defaults to alice."""

    async def run() -> Outcome:
        compiled = policy or policy_of(text, dns, others)
        names = None if dns is None else ClientNames(dns, "strangers", 5.0)
        modes = PolicySettings.model_validate(tomllib.loads(text).get("policy", {})).modes
        trial = Trial(
            compiled.guards(rules),
            RelayControl(RELAY.networks),
            routing or recipients(),
            others=[],
            relays=compiled.relays(rules),
            modes=modes,
            names=names,
        )
        return await trial.run(Client(address, sender=sender, recipients=to or ("alice@here.test",), **client))

    return asyncio.run(run())


def answer(*words: Any, **more: Any) -> str:
    """What the client heard last."""
    return play(*words, **more).answer.text
