"""`mailflow policy …`: the rules for incoming mail, and what they would do. Needs no server, only the configuration.

`test` plays a session through the rules, with live answers of the name service; greylisting, policy services and functions
are not asked, so that a test leaves no traces.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from mailflow.cli.context import State, common

if TYPE_CHECKING:
    from mailflow.ingress.policy.rules import Check
    from mailflow.ingress.policy.trial import Client, Outcome, Step
    from mailflow.ingress.settings import ListenerSettings
    from mailflow.ingress.stage import Stage
    from mailflow.ingress.verdict import Situation
    from mailflow.settings import Settings

EXIT_REFUSED = 1
EXIT_REFUSED_FOR_NOW = 75  # EX_TEMPFAIL of sysexits.h


@click.group("policy")
@common
def command(state: State) -> None:
    """Show the rules for incoming mail, and what they would do."""


@command.command("test")
@click.option("--client", "address", metavar="ADDRESS", required=True, help="The client's IP address.")
@click.option("--name", metavar="HOST", help='Its verified name, "" for none; without this the name service is asked.')
@click.option("--helo", metavar="HOST", default="client.example", show_default=True, help="What it says with EHLO.")
@click.option("--from", "sender", metavar="ADDRESS", default="", help='The sender; "" is the null sender.')
@click.option("--to", "recipients", metavar="ADDRESS", multiple=True, help="A recipient; may be repeated.")
@click.option("--login", metavar="USER", default="", help="The user that it has logged in as.")
@click.option("--certificate", metavar="FINGERPRINT", default="", help="Of its certificate: SHA-256, ab:cd:…")
@click.option("--tls", is_flag=True, help="The session is encrypted.")
@click.option("--size", metavar="BYTES", type=int, default=0, help="The size that it announces.")
@click.option("--listener", metavar="NAME", default="", help="The listener; default: the first one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@common
def test(
    state: State,
    address: str,
    name: str | None,
    helo: str,
    sender: str,
    recipients: tuple[str, ...],
    login: str,
    certificate: str,
    tls: bool,
    size: int,
    listener: str,
    as_json: bool,
) -> int:
    """Say step by step what would happen to a client, and which line decides.

    Exit code 0 when the client is let in and its message taken, 1 when something is refused for good, 75 when for now. JSON fields:
    accepted, reply, decided_by, steps (stage, about, rules, rule, origin, outcome, why, reply), and, for a message that is
    taken, recipients, hold, header.
    """
    import asyncio

    from mailflow.ingress.policy.trial import Client

    _check_address(address)
    settings = state.load()
    client = Client(address, name, helo, sender, recipients, login, certificate, "TLSv1.3" if tls else "", size)
    outcome = asyncio.run(_try(settings, _listener(settings, listener), client))
    if as_json:
        print(json.dumps(_as_json(outcome), ensure_ascii=False))
    else:
        _print(outcome)
    code = outcome.answer.code
    return EXIT_REFUSED if code >= 500 else EXIT_REFUSED_FOR_NOW if code >= 400 else 0


@command.command("show")
@common
def show(state: State) -> None:
    """Show what is in force, in the order in which it is asked, and where it is written."""
    from mailflow.ingress.policy.settings import EARLY, LISTS, SUBMISSION, RuleLists

    settings = state.load()
    policy = settings.policy
    print("always; for clients that may send anywhere, only reject_unlisted_recipient")
    for name, mode in policy.modes.items():
        place = settings.written(("policy", name.removeprefix("reject_")))
        print(f"  {name:<30}  {mode:<9}  {place}".rstrip())
    print(f"  {'reject_unauth_destination':<30}  enforce")
    for name, lists in {"": policy, SUBMISSION: RuleLists(), **policy.set}.items():
        print(f"policy.set.{name}" if name else "policy")
        if name == SUBMISSION:
            print("  login, asked at mail\n    1. reject_unauthenticated")
        for listed in LISTS:
            rules = getattr(lists, listed)
            delayed = policy.delay and listed in EARLY
            print(f"  {listed}{', asked at rcpt' if delayed else ''}{'' if rules else ': nothing'}")
            for i, rule in enumerate(rules):
                place = settings.origin(f"policy.{f'set.{name}.' if name else ''}{listed}[{i}]")
                print(f"    {i + 1}. {_in_words(rule)}  {place}".rstrip())


@command.command("checks")
@common
def checks(state: State) -> None:  # noqa: ARG001 - takes the shared options as every command does
    """List the checks that a rule may name."""
    from mailflow.ingress.policy.catalog import CATALOG

    for name, kind in CATALOG.items():
        argument = f" {kind.argument.upper()}" if kind.argument else ""
        print(f"{name}{f' [{argument.strip()}]' if argument and kind.optional else argument}")
        postfix = f" (Postfix: {kind.postfix})" if kind.postfix else ""
        print(f"    from {kind.stage.value} on. {kind.about}{postfix}")


def _in_words(rule: object) -> str:
    """A rule on one line: what it is called, when it applies, what it does."""
    fields = {key: value for key, value in rule if value not in (None, "", "enforce")}  # type: ignore[attr-defined]
    name = fields.pop("name", "")
    does = fields.pop("check", "") or fields.pop("action", "")
    fields.pop("action", None)
    words = [
        f'"{name}":' if name else "",
        does,
        *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()),
    ]
    return " ".join(filter(None, words))


def _check_address(address: str) -> None:
    from mailflow.tables.kinds import address_of

    if address_of(address) is None:
        raise click.UsageError(f"--client: {address!r} is not an IP address")


def _listener(settings: Settings, name: str) -> ListenerSettings:
    from mailflow.ingress.settings import ListenerSettings

    found = [each for each in settings.listener if not name or name in (each.name, each.service)]
    if found:
        return found[0]
    if name:
        known = ", ".join(each.service for each in settings.listener)
        raise click.UsageError(f"--listener: there is no listener {name!r} (there are: {known or 'none'})")
    return ListenerSettings.model_validate({"bind": "127.0.0.1:25"})


async def _try(settings: Settings, listener: ListenerSettings, client: Client) -> Outcome:
    from mailflow.guards import policy_parts, rules_for
    from mailflow.ingress.checks.parts import Checks
    from mailflow.ingress.policy.compiling import Policy
    from mailflow.ingress.policy.names import ClientNames
    from mailflow.ingress.policy.relay import RelayControl
    from mailflow.ingress.policy.trial import Trial
    from mailflow.net.dns import Resolver as DnsResolver
    from mailflow.rewrite import Resolver
    from mailflow.tables.opening import Tables

    routing = (settings.local, settings.relay, settings.route)
    recipients = Resolver(*routing, hostname=settings.hostname, origin=settings.origin)
    dns = DnsResolver(settings.dns)
    others = Checks(settings.dnsbl, settings.greylist, (), (), dns=dns, log=_Silence(), spool=settings.spool)

    def check(name: str, argument: str, stage: Stage) -> Check:
        if name in ("reject_dnsbl", "permit_dnswl"):
            return others.check(name, argument, stage)

        def not_asked(situation: Situation) -> None:
            situation.event("policy", mode="not asked in a test", rule=f"{name} {argument}".strip())

        return not_asked

    names = ClientNames(dns, settings.policy.client_names, settings.policy.client_name_wait)
    try:
        policy = Policy(policy_parts(settings, recipients, dns, Tables(settings.table)), check, settings.origin)
        rules = rules_for(listener)
        trial = Trial(
            policy.guards(rules),
            RelayControl(settings.relay.networks, everyone=listener.trusted),
            recipients,
            others=others.guards,
            relays=policy.relays(rules),
            modes=settings.policy.modes,
            names=names,
            service=listener.service,
        )
        return await trial.run(client)
    finally:
        await names.close()
        await dns.close()


class _Silence:
    """A log that nobody reads."""

    def event(self, name: str, /, level: int = 20, **fields: object) -> None: ...


def _print(outcome: Outcome) -> None:
    for step in outcome.steps:
        print(_line(step))
    if outcome.decided_by:
        print(f"refused by {outcome.decided_by}: {outcome.answer.text}")
    elif outcome.answer.code >= 400:
        print(f"refused: {outcome.answer.text}")
    elif outcome.envelope is not None:
        print(f"accepted{', and kept in the queue: ' + outcome.envelope.hold if outcome.envelope.hold else ''}")
    else:
        print("no objection so far")


def _line(step: Step) -> str:
    if step.rules:
        place = f" ({step.origin})" if step.origin else ""
        words = f"    {step.rules}: {step.rule}{place}: {step.outcome}"
    elif step.about or not step.rule:
        words = f"{step.stage} {step.about}".strip() + f": {step.outcome}"
    else:
        words = f"    {step.rule}: {step.outcome}"
    return words + (f", {step.reply}" if step.reply else "") + (f" ({step.why})" if step.why else "")


def _as_json(outcome: Outcome) -> dict[str, object]:
    from dataclasses import asdict

    accepted = outcome.answer.code < 400
    fields: dict[str, object] = {
        "accepted": accepted,
        "reply": outcome.answer.text,
        "decided_by": outcome.decided_by,
        "steps": [asdict(step) for step in outcome.steps],
    }
    envelope = outcome.envelope
    if accepted and envelope is not None:
        fields |= {
            "recipients": [each.address for each in envelope.recipients],
            "hold": envelope.hold,
            "header": envelope.header.decode("utf-8", "replace"),
        }
    return fields
