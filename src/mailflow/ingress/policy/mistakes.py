"""What no rule can mean, found before anything starts: each with the key and what would be accepted. Pure.

Most of all: no rule makes an open relay.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping

from mailflow.ingress.policy.catalog import ALIASES, CATALOG, kind_of
from mailflow.ingress.policy.settings import LISTS, TABLE, PolicySettings, RuleSettings, asked_at
from mailflow.ingress.stage import Stage
from mailflow.setting import parse_network

Missing = Callable[[str, str], tuple[str, str] | None]
"""Tells of a check that comes with parts of its own, and its argument, what is missing and what would be accepted."""


def mistakes(
    settings: PolicySettings, tables: Mapping[str, object], missing: Missing
) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """What no rule can mean: the path of the value, what is wrong, and what would be accepted."""
    for place, lists in [((), settings), *((("set", name), each) for name, each in settings.set.items())]:
        for name in LISTS:
            asked = asked_at(name, settings)
            for i, rule in enumerate(getattr(lists, name)):
                for key, message, accepted in _rule_mistakes(rule, asked, tables, missing):
                    yield ("policy", *place, name, i, key), message, accepted


_ORDER = list(Stage)

ELSEWHERE = {
    "warn_if_reject": 'mode = "log-only" in the rule',
    "reject_rbl_client": '[[dnsbl.list]], and "reject_dnsbl"',
    "reject_rhsbl_client": '[[dnsbl.list]], and "reject_dnsbl"',
    "reject_rhsbl_helo": '[[dnsbl.list]] with kind = "helo", and "reject_dnsbl"',
    "reject_rhsbl_sender": '[[dnsbl.list]] with kind = "sender", and "reject_dnsbl"',
    "permit_dnswl_client": '[[dnsbl.list]] with a weight below 0, and "permit_dnswl"',
    "reject_sender_login_mismatch": "auth.sender_login",
    "reject_authenticated_sender_login_mismatch": "auth.sender_login",
    "reject_unauth_pipelining": "[abuse], which notices clients that talk too early",
    "defer_unauth_destination": '"reject_unauth_destination" with mode = "soft-fail"',
    "permit_inet_interfaces": "relay.networks",
}
"""What stands for checks of Postfix that are none here."""


def _rule_mistakes(
    rule: RuleSettings, asked: Stage, tables: Mapping[str, object], missing: Missing
) -> Iterator[tuple[str, str, str]]:
    if bool(rule.check) == bool(rule.action):
        message = "a rule has an action or a check" + (", not both" if rule.check else "; this one has none")
        yield "check" if rule.check else "action", message, 'such as action = "reject" or check = "greylist"'
    if rule.check:
        yield from _check_mistakes(rule, asked, tables, missing)
    needs = [("sender", Stage.MAIL), ("recipient", Stage.RCPT), ("helo", Stage.HELO)]
    for key, stage in needs:
        if getattr(rule, key) is not None and _ORDER.index(asked) < _ORDER.index(stage):
            yield key, f"the {key} is not known yet when this list is asked", "policy.delay = true, or a later list"
    yield from _list_mistakes(rule, tables)
    if rule.action in ("discard", "hold") and asked in (Stage.CONNECT, Stage.HELO):
        yield (
            "action",
            f"there is no message to {rule.action} when this list is asked",
            "policy.delay = true, or a later list",
        )
    if rule.action == "permit_relay":
        yield from _open_relay(rule, asked)


def _list_mistakes(rule: RuleSettings, tables: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Elements of conditions that are none."""
    for key in ("client", "helo", "sender", "recipient", "login", "certificate"):
        for element in getattr(rule, key) or ():
            name = element.lstrip("!").removeprefix(TABLE)
            if element.lstrip("!").startswith(TABLE) and name not in tables:
                yield key, f"there is no [table.{name}]", _known(tables)
    for element in rule.client or ():
        if "/" in element and not element.lstrip("!").startswith(TABLE):
            try:
                parse_network(element.lstrip("!"))
            except ValueError:
                yield "client", f'"{element}" is not a network', '"192.0.2.0/24", no bits set behind the prefix'


def _check_mistakes(
    rule: RuleSettings, asked: Stage, tables: Mapping[str, object], missing: Missing
) -> Iterator[tuple[str, str, str]]:
    name, _, argument = rule.check.partition(" ")
    argument = argument.strip()
    kind = kind_of(name)
    if kind is None:
        from difflib import get_close_matches

        near = get_close_matches(name, [*CATALOG, *ALIASES], 1)
        accepted = f'"{near[0]}"' if near else "see `mailflow policy checks`"
        yield "check", f'there is no check "{name}"', ELSEWHERE.get(name, accepted)
        return
    if bool(argument) != bool(kind.argument) and not kind.optional:
        need = f'"{name} {kind.argument.upper()}"' if kind.argument else f'"{name}"'
        yield "check", f"{name} takes {'a ' + kind.argument if kind.argument else 'no argument'}", need
    elif kind.argument == "table" and argument not in tables:
        yield "check", f"there is no [table.{argument}]", _known(tables)
    else:
        lacking = missing(name, argument)
        if lacking is not None:
            yield "check", *lacking
    if _ORDER.index(asked) < _ORDER.index(kind.stage):
        message = f"{name} has nothing to look at when this list is asked"
        yield "check", message, f'policy.delay = true, or the list "{_list_of(kind.stage)}" or a later one'
    if kind.relays and asked is not Stage.RCPT:
        yield "check", f"{name} decides about a recipient", 'the list "rcpt"'


def _open_relay(rule: RuleSettings, asked: Stage) -> Iterator[tuple[str, str, str]]:
    """An open relay is never meant: some condition must hold for few, and be one that a stranger cannot just claim."""
    if asked is not Stage.RCPT:
        yield "action", "permit_relay decides about a recipient", 'the list "rcpt"'
    for key in ("client", "login", "certificate", "recipient"):
        elements = getattr(rule, key)
        if elements is not None and all(map(_narrow, elements)) and not all(e.startswith("!") for e in elements):
            return
    accepted = "a condition client, login, certificate or recipient that not everybody fulfils"
    yield "action", "permit_relay without a condition that limits it makes an open relay", accepted


def _narrow(element: str) -> bool:
    """Whether an element of a list stands for less than everybody."""
    if element.startswith("!"):
        return True
    if element == "*":
        return False
    try:
        network = parse_network(element)
    except ValueError:
        return element.strip(".") != ""
    return network.prefixlen >= (8 if isinstance(network, ipaddress.IPv4Network) else 16)


def _known(tables: Mapping[str, object]) -> str:
    return "one of " + ", ".join(f'"{name}"' for name in list(tables)[:5]) if tables else "a table of the configuration"


def _list_of(stage: Stage) -> str:
    return next(name for name, asked in LISTS.items() if asked is stage)
