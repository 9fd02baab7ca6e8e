"""Rules in their compiled form, and how a list of them is gone through.

`RuleList.ask` is a guard's question: sessions ask it, and `mailflow policy test` does, with a witness that is told of each
step. A rule's check (`Check`) answers None (no opinion), a `Verdict`, or an awaitable of either. A PERMIT ends the list
without objection, a refusal ends it with one, other verdicts (HOLD, DISCARD, HEADER) are kept and the list goes on.

Invariants: rules are asked strictly in order, one at a time; the list waits only when a rule has to. A rule in
mode "log-only" changes nothing but the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mailflow.ingress.policy.relay import soften
from mailflow.ingress.policy.settings import RuleMode
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Ask, Finding, Situation, Verdict
from mailflow.smtp.reply import Reply

Check: TypeAlias = Ask
"""What a rule asks: `check(situation) -> None | Verdict | awaitable`. Verdicts need no `rule`: the list fills it in."""
Condition = Callable[[Situation], bool]
"""One condition of a rule. All that it needs is known when it is asked (`Rule.needs_name`)."""

PERMIT = Verdict(Action.PERMIT)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    title: str
    """Its name, or its check."""
    origin: str
    """Where it is written: "mailflow.toml:12"; "" for one made by a program."""
    conditions: tuple[Condition, ...]
    check: Check
    mode: RuleMode = "enforce"
    name_conditions: tuple[Condition, ...] = ()
    """Those that look at the client's verified name; asked behind the others."""
    needs_name: bool = False
    """The name is needed, by them or by the check."""
    reply: Callable[[Reply], Reply] | None = None
    """Puts the operator's words in place of the check's."""
    relays: bool = False
    """It may let strangers relay."""

    def applies(self, situation: Situation) -> bool:
        """Whether all conditions hold; the client's name must be known if it is needed."""
        return all(condition(situation) for condition in (*self.conditions, *self.name_conditions))

    @property
    def label(self) -> str:
        """What the log says for `rule`."""
        return f"{self.title} ({self.origin})" if self.origin else self.title


Witness = Callable[[Rule, bool, Finding], None]
"""Is told of each rule that was reached: the rule, whether its conditions held, and what came of it."""


class RuleList:
    """The rules of one list; `ask` goes through them."""

    __slots__ = ("_steps", "name", "rules", "witness")

    def __init__(self, name: str, rules: Sequence[Rule]) -> None:
        self.name = name
        self.rules = tuple(rules)
        self.witness: Witness | None = None
        self._steps = tuple(_step(rule) for rule in rules)

    def __repr__(self) -> str:
        return f"<RuleList {self.name} {len(self.rules)}>"

    def ask(self, situation: Situation) -> Finding | Awaitable[Finding]:
        """Asks the rules in order; gives the refusal, or all that is to be noted in one verdict, or None."""
        rest = iter(zip(self.rules, self._steps, strict=True))
        if self.witness is not None:
            return self._go_on(situation, rest, None, None, None)
        kept: Finding = None
        for rule, step in rest:
            found = step(situation)
            if found is None:
                continue
            if not isinstance(found, Verdict):
                return self._go_on(situation, rest, kept, rule, found)
            kept = _join(kept, found)
            if found.reply is not None or found.action is Action.PERMIT:
                break
        return _sum(kept)

    async def _go_on(
        self,
        situation: Situation,
        rest: Iterator[tuple[Rule, Check]],
        kept: Finding,
        rule: Rule | None,
        answer: Finding | Awaitable[Finding],
    ) -> Finding:
        """Goes on from a rule that has to wait; with a witness, all the way."""
        while True:
            found = answer if answer is None or isinstance(answer, Verdict) else await answer
            if rule is not None and self.witness is not None:
                self.witness(rule, rule.applies(situation), found)
            if found is not None:
                kept = _join(kept, found)
                if found.reply is not None or found.action is Action.PERMIT:
                    break
            following = next(rest, None)
            if following is None:
                break
            rule, answer = following[0], following[1](situation)
        return _sum(kept)


def _sum(kept: Finding) -> Finding:
    """What the list says in the end: nothing, when all there is is a permission that changes nothing."""
    if kept is None or (kept.action is Action.PERMIT and not (kept.relay or kept.edit or kept.header)):
        return None
    return kept


class RuleGuard:
    """A list as a guard: asked at its stage, or later when the policy delays it."""

    __slots__ = ("rules", "stages")

    def __init__(self, rules: RuleList, stage: Stage) -> None:
        self.rules = rules
        self.stages: Collection[Stage] = (stage,)

    def __repr__(self) -> str:
        return f"<RuleGuard {self.rules}>"

    def at(self, stage: Stage) -> Ask:  # noqa: ARG002 - it has one
        """The list's question."""
        return self.rules.ask


def _join(kept: Finding, found: Verdict) -> Verdict:
    """Two verdicts as one: a refusal stands alone; discarding outdoes holding, holding outdoes the rest."""
    if kept is None or found.reply is not None:
        return found
    first = min(kept, found, key=lambda verdict: _WEIGHT[verdict.action])
    edit = kept.edit
    if found.edit is not None:
        changes = {name: value for name, value in found.edit._asdict().items() if value is not None}
        edit = found.edit if edit is None else edit._replace(**changes)
    return first._replace(header=kept.header + found.header, edit=edit, relay=kept.relay or found.relay)


_WEIGHT = {Action.DISCARD: 0, Action.HOLD: 1, Action.EDIT: 2, Action.HEADER: 3, Action.PERMIT: 4}


def _step(rule: Rule) -> Check:
    """The whole rule as one question: conditions, check, words, mode. It waits for the client's name only if the rest holds."""
    conditions, check = rule.conditions, rule.check

    def step(situation: Situation) -> Finding | Awaitable[Finding]:
        for condition in conditions:
            if not condition(situation):
                return None
        if rule.needs_name:
            waiting = situation.named()
            if waiting is not None:
                return when_named(situation, waiting)
        return named(situation)

    def named(situation: Situation) -> Finding | Awaitable[Finding]:
        for condition in rule.name_conditions:
            if not condition(situation):
                return None
        found = check(situation)
        if found is None:
            return None
        return _finish(rule, situation, found) if isinstance(found, Verdict) else later(situation, found)

    async def when_named(situation: Situation, waiting: Awaitable[None]) -> Finding:
        await waiting
        found = named(situation)
        return found if found is None or isinstance(found, Verdict) else await found

    async def later(situation: Situation, waiting: Awaitable[Finding]) -> Finding:
        found = await waiting
        return None if found is None else _finish(rule, situation, found)

    return step


def _finish(rule: Rule, situation: Situation, found: Verdict) -> Finding:
    """What the rule makes of its check's verdict."""
    answer = found.reply
    if answer is not None and rule.reply is not None:
        answer = rule.reply(answer)
    if answer is not None and rule.mode == "soft-fail":
        answer = soften(answer)
    if rule.mode == "log-only":
        reason = answer.text if answer is not None else ""
        situation.event(
            "policy", mode=rule.mode, would=found.action.value, rule=rule.label, why=found.reason, reason=reason
        )
        return None
    action = found.action
    if answer is not None:
        action = Action.CLOSE if answer.code == 421 else Action.REFUSE if found.action is Action.CLOSE else action
    return found._replace(action=action, reply=answer, rule=rule.label)
