"""From the settings to compiled rules, once, when a server starts (or a policy is tested). Pure.

`Policy` is the compiled whole: for each set of lists, the guards of its listeners. Always in force and not in any list: see `settings.PolicySettings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.ingress.policy import matching
from mailflow.ingress.policy.builtin import ACCESS_DENIED, TRY_LATER, reject_unauthenticated
from mailflow.ingress.policy.catalog import ALIASES, kind_of
from mailflow.ingress.policy.makers import MAKERS
from mailflow.ingress.policy.parts import Parts
from mailflow.ingress.policy.relay import RelayControl
from mailflow.ingress.policy.rules import PERMIT, Check, Condition, Rule, RuleGuard, RuleList
from mailflow.ingress.policy.settings import (
    LISTS,
    LOGIN,
    SUBMISSION,
    PolicySettings,
    RuleLists,
    RuleSettings,
    asked_at,
    parse_reply,
)
from mailflow.ingress.ports import Recipients
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Finding, Situation, Verdict
from mailflow.net.dns import Resolver
from mailflow.setting import Network
from mailflow.smtp.reply import Reply
from mailflow.tables import Table

Others = Callable[[str, str, Stage], Check]
"""Makes a check by its name, for an argument and the stage at which it will be asked. Raises ValueError."""
Origin = Callable[[str], str]
"""Tells where a configuration key was written."""


class Policy:
    """The rules of one configuration, compiled."""

    def __init__(self, parts: Parts, others: Others | None = None, origin: Origin = lambda _: "") -> None:
        """`others` makes the checks that come with parts of their own. Raises ConfigError."""
        self._parts = parts
        self._others = others
        self._origin = origin
        settings = parts.settings
        self.sets: dict[str, dict[str, RuleList]] = {"": self._lists(settings)}
        for name, lists in settings.set.items():
            self.sets[name] = self._lists(lists, name)
        login = Rule("reject_unauthenticated", "", (), reject_unauthenticated(parts, ""))
        self.sets[SUBMISSION] = {LOGIN: RuleList(LOGIN, [login])} | self.sets.get(SUBMISSION, {})

    def guards(self, name: str = "") -> list[RuleGuard]:
        """The guards of the listeners with this set of lists, in the order of asking; none for empty lists."""
        return [
            RuleGuard(rules, asked_at(rules.name, self._parts.settings))
            for rules in self.sets[name].values()
            if rules.rules
        ]

    def relays(self, name: str = "") -> bool:
        """Whether some rule of a set may let strangers relay."""
        return any(rule.relays for rules in self.sets[name].values() for rule in rules.rules)

    def needs_names(self) -> bool:
        """Whether some rule looks at clients' names."""
        return any(rule.needs_name for lists in self.sets.values() for rules in lists.values() for rule in rules.rules)

    def _lists(self, lists: RuleLists, policy: str = "") -> dict[str, RuleList]:
        key = f"policy.set.{policy}" if policy else "policy"
        made = {}
        for name in LISTS:
            stage = asked_at(name, self._parts.settings)
            rules = [self._rule(each, f"{key}.{name}[{i}]", stage) for i, each in enumerate(getattr(lists, name))]
            made[name] = RuleList(name, rules)
        return made

    def _rule(self, rule: RuleSettings, key: str, stage: Stage) -> Rule:
        try:
            kind = kind_of(rule.check.partition(" ")[0]) if rule.check else None
            names = any(map(matching.names_a_host, rule.client or ()))
            clients = () if rule.client is None else (matching.client_condition(rule.client, self._parts.tables),)
            return Rule(
                rule.title,
                self._origin(key),
                (*self._conditions(rule), *(() if names else clients)),
                self._check(rule, stage),
                rule.mode,
                clients if names else (),
                needs_name=names or (kind is not None and kind.needs_name),
                reply=partial(_with_words, rule.reply) if rule.reply else None,
                relays=rule.action == "permit_relay" or (kind is not None and kind.relays),
            )
        except (ValueError, KeyError) as error:
            raise ConfigError([ConfigProblem(str(error), key=key)]) from None

    def _conditions(self, rule: RuleSettings) -> Iterator[Condition]:
        tables, delimiter = self._parts.tables, self._parts.settings.delimiter
        if rule.trusted is not None:
            trusted = rule.trusted
            yield lambda situation: situation.trusted is trusted
        if rule.tls is not None:
            tls = rule.tls
            yield lambda situation: bool(situation.peer.tls) is tls
        if rule.login is not None:
            yield matching.login_condition(rule.login, tables)
        if rule.certificate is not None:
            yield matching.certificate_condition(rule.certificate, tables)
        if rule.helo is not None:
            yield matching.helo_condition(rule.helo, tables)
        if rule.sender is not None:
            yield matching.sender_condition(rule.sender, tables, delimiter)
        if rule.recipient is not None:
            yield matching.recipient_condition(rule.recipient, tables, delimiter)

    def _check(self, rule: RuleSettings, stage: Stage) -> Check:
        if not rule.check:
            return _act(rule)
        name, _, argument = rule.check.partition(" ")
        make = MAKERS.get(ALIASES.get(name, name))
        if make is not None:
            return make(self._parts, argument.strip())
        if self._others is None:
            raise ValueError(f"{name} is not available here")
        return self._others(name, argument.strip(), stage)


def parts_of(
    settings: PolicySettings,
    networks: Iterable[Network],
    own: Iterable[str],
    recipients: Recipients,
    dns: Resolver,
    tables: Mapping[str, Table],
) -> Parts:
    """What checks are made from. `own`: the server's names and addresses; unspecified ones do not count."""
    names = {name.lower().rstrip(".") for name in (*own, *settings.backup_mx_names)} - {"0.0.0.0", "::"}
    return Parts(recipients, RelayControl(networks), dns, tables, settings, frozenset(names))


def _with_words(words: str, answer: Reply) -> Reply:
    return parse_reply(words, answer)


def _act(rule: RuleSettings) -> Check:
    """The check of a rule that has an action."""
    match rule.action:
        case "warn":

            def warn(situation: Situation) -> Finding:
                situation.event("policy", mode="warn", rule=rule.title)
                return None

            return warn
        case "reject":
            verdict = Verdict(Action.REFUSE, ACCESS_DENIED)
        case "defer":
            verdict = Verdict(Action.REFUSE, TRY_LATER)
        case "discard":
            verdict = Verdict(Action.DISCARD, reason=rule.name)
        case "hold":
            verdict = Verdict(Action.HOLD, reason=rule.name)
        case "permit_relay":
            verdict = PERMIT._replace(relay=True)
        case _:
            verdict = PERMIT
    return lambda _: verdict
