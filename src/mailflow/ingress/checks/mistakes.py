"""What the settings of the checks cannot mean, found before anything starts: names that are taken or not there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mailflow.ingress.checks.settings import (
    DnsblSettings,
    GreylistSettings,
    PolicyHookSettings,
    PolicyServiceSettings,
)


def taken(
    services: Sequence[PolicyServiceSettings], hooks: Sequence[PolicyHookSettings]
) -> Iterator[tuple[str, int, str]]:
    """Names that stand there twice: the setting's key, the place in its list, and the name."""
    for key, parts in (("policy_service", services), ("policy_hook", hooks)):
        names = [part.title for part in parts]
        yield from ((key, i, name) for i, name in enumerate(names) if name in names[:i])


def missing(
    check: str,
    argument: str,
    dnsbl: DnsblSettings,
    greylist: GreylistSettings,
    services: Sequence[PolicyServiceSettings],
    hooks: Sequence[PolicyHookSettings],
) -> tuple[str, str] | None:
    """Why there is no such check with these settings, and what would be accepted; None when there is, or it is not ours."""
    match check:
        case "reject_dnsbl" | "permit_dnswl" if not dnsbl.list:
            return f"{check} has no list to ask", "a [[dnsbl.list]]"
        case "greylist" if greylist.use == "never":
            return "greylisting is off", 'greylist.use = "by_rule"'
        case "check_policy_service":
            return _unknown("[[policy_service]]", argument, [service.title for service in services])
        case "hook":
            return _unknown("[[policy_hook]]", argument, [hook.title for hook in hooks])
        case _:
            return None


def _unknown(section: str, name: str, known: Iterable[str]) -> tuple[str, str] | None:
    """A name may be left out where there is only one."""
    names = list(known)
    if name in names or (not name and len(names) == 1):
        return None
    accepted = ", ".join(f'"{each}"' for each in names) if names else f"a {section}"
    return (f'there is no {section} "{name}"' if name else f"which {section} is meant?"), accepted
