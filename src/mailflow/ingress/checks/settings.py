"""The settings of what others say about a client: `[dnsbl]`, `[greylist]`, `[[policy_service]]`, `[[policy_hook]]`."""

from __future__ import annotations

import builtins
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from mailflow.ingress.checks.answers import parse_filter
from mailflow.setting import Duration, Network, Section, setting

Use = Literal["always", "by_rule"]


def _filter(value: str) -> str:
    parse_filter(value)
    return value


def _zone(value: str) -> str:
    zone = value.strip(".").lower()
    if not re.fullmatch(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+", zone) or len(zone) > 200:
        raise ValueError(f'"{value}" is not the zone of a list (accepted: a domain, such as "zen.example.org")')
    return zone


def parse_service_address(value: str) -> tuple[str, int]:
    """Host and port of "inet:host:port", or the path of "unix:/path" with port 0. Raises ValueError with the forms."""
    kind, _, rest = value.partition(":")
    if kind == "unix" and rest.startswith("/"):
        return rest, 0
    match = re.fullmatch(r"(?:\[([^\]\s]+)\]|([^:\[\]\s]+)):(\d{1,5})", rest)
    if kind != "inet" or not match or not 0 < int(match[3]) < 65536:
        raise ValueError(
            f'"{value}" is not the address of a service (accepted: "inet:127.0.0.1:10023", "inet:[::1]:10023", "unix:/path/to/socket")'
        )
    return match[1] or match[2], int(match[3])


def _service(value: str) -> str:
    parse_service_address(value)
    return value


def _action(value: str) -> str:
    # imported here: it knows SMTP's replies and addresses, which commands that only read settings need not load
    from mailflow.ingress.checks.delegation import PolicyReplyError, understand

    try:
        understand(value, "")
    except PolicyReplyError as error:
        raise ValueError(f'{error} (accepted: "DUNNO", "OK", "451 4.3.5 text", "REJECT text", …)') from None
    return value


def _function(value: str) -> str:
    if not re.fullmatch(r"[\w.]+:\w+", value):
        raise ValueError(f'"{value}" is not a function (accepted: "module:function", such as "mypolicy.rules:check")')
    return value


class DnsblListSettings(Section):
    """One list in the DNS (RFC 5782), asked about strangers. A zone may stand here more than once, with other replies
    and another weight."""

    zone: Annotated[str, AfterValidator(_zone)] = setting(
        postfix="reject_rbl_client, reject_rhsbl_sender, permit_dnswl_client"
    )
    """The list's zone. Many lists ask for an account when you ask much, and answer nothing to public resolvers."""
    kind: Literal["client", "helo", "sender"] = setting("client")
    """What is looked up: the client's address, the name it gave with EHLO, or the domain of the envelope sender."""
    weight: int = setting(1, ge=-1000, le=1000, postfix="postscreen_dnsbl_sites")
    """What a listing adds to the client's score. Below 0: a list that speaks in the client's favour."""
    replies: list[Annotated[str, AfterValidator(_filter)]] = setting([])
    """Only these answers mean "listed": "127.0.0.2", "127.0.0.0/24", "127.0.0.[2..11]", "127.0.[0..255].[1;3]"; empty = all in
    127.0.0.0/8. Never counted are 127.0.0.1, 127.255.255.x, answers outside of 127.0.0.0/8, refusals and time-outs."""


class DnsblSettings(Section):
    """Block and allow lists in the DNS. Every list's weight is added to a score, and the score decides."""

    list: builtins.list[DnsblListSettings] = setting([])
    """The lists; without any, nothing is asked."""
    use: Use = setting("always")
    """Whether every recipient from a stranger is checked, or only where a rule of the policy says `reject_dnsbl`."""
    reject_at: int = setting(1, ge=1, postfix="postscreen_dnsbl_threshold")
    """A score of this or more is refused with 554 5.7.1."""
    defer_at: int = setting(0, ge=0)
    """A score of this or more (and below `reject_at`) is refused for now with 450 4.7.1; 0 = never."""
    permit_at: int = setting(-1, le=-1, postfix="postscreen_dnsbl_allowlist_threshold")
    """A score of this or less is what `permit_dnswl` permits, and what greylisting spares."""
    exempt: builtins.list[Network] = setting([])
    """Clients that no list is asked about, besides those that may relay and private addresses."""
    time_limit: Duration = setting("5s", gt=0)
    """For all lists together; what has not answered by then does not count."""
    reasons: bool = setting(default=True)
    """Whether the list's own words (its TXT record) are asked for and given to a client that is refused."""
    self_test: Duration = setting("1h", ge=0)
    """How often every list is asked for what it must and must not hold (RFC 5782 §5); one that lists everybody is left out
    until it does so no more. 0s = never."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.defer_at >= self.reject_at:
            raise ValueError(
                f"defer_at = {self.defer_at} has no effect (accepted: less than reject_at = {self.reject_at})"
            )
        return self


class GreylistSettings(Section):
    """Greylisting: the first attempt of an unknown sender is refused for now; a real mail server comes again."""

    use: Literal["never", "always", "by_rule"] = setting("never")
    """Whether strangers are greylisted: "never", "always", or where a rule of the policy says `greylist`."""
    delay: Duration = setting("5m", gt=0)
    """How long an unknown client, sender and recipient must wait, from their first attempt on."""
    retry_window: Duration = setting("2d", gt=0)
    """How long after the first attempt the second one may come; later it counts as a first one."""
    lifetime: Duration = setting("35d", gt=0)
    """How long what has passed is remembered after it was last seen: a monthly newsletter is not delayed each time."""
    auto_allow: int = setting(5, ge=0)
    """After so many senders or recipients that passed, all mail from the client's network passes. 0 = never."""
    ipv4_prefix: int = setting(24, ge=8, le=32)
    """Clients of one IPv4 network of this size are one: large senders come again from another address."""
    ipv6_prefix: int = setting(64, ge=16, le=128)
    """The same for IPv6."""
    fold_senders: bool = setting(default=True)
    """Whether numbers, tags and extensions in the sender's local part are left out: senders that are different for each
    message (VERP, SRS, BATV) would be delayed each time."""
    exempt: list[Network] = setting([])
    """Clients that are not greylisted, besides those that may relay and those that `dnsbl.permit_at` speaks for."""
    entries: int = setting(1_000_000, ge=1000)
    """At most this many are kept on disk (about 50 bytes each); the ones that would end first go first."""
    memory_entries: int = setting(50_000, ge=100)
    """At most this many are kept in memory, so that the disk is asked for others only."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.delay >= self.retry_window:
            raise ValueError("nobody would pass (accepted: a delay shorter than retry_window)")
        return self


class PolicyServiceSettings(Section):
    """A server that speaks Postfix's policy delegation protocol (SMTPD_POLICY_README)."""

    name: str = setting("", max_length=100)
    """What rules of the policy and the log call it; empty = its address."""
    address: Annotated[str, AfterValidator(_service)] = setting(postfix="check_policy_service")
    """Where it is: "inet:127.0.0.1:10023", "inet:[::1]:10023" or "unix:/path/to/socket"."""
    use: Use = setting("always")
    """Whether strangers are always checked, or only where a rule of the policy says `check_policy_service`."""
    stages: list[Literal["connect", "helo", "mail", "rcpt", "data", "end-of-data"]] = setting(["rcpt"], min_length=1)
    """When it is asked, for `use = "always"`. DISCARD, HOLD and PREPEND mark a message, so they have no effect before "mail"."""
    time_limit: Duration = setting("30s", gt=0, postfix="smtpd_policy_service_timeout")
    """For one question, connecting included."""
    default_action: Annotated[str, AfterValidator(_action)] = setting(
        "451 4.3.5 Server configuration problem", postfix="smtpd_policy_service_default_action", max_length=500
    )
    """The answer when there is none, as the service would write it; "DUNNO" lets the mail pass."""
    connections: int = setting(20, ge=1, le=1000)
    """At the same time; more questions wait for one of them."""
    idle_timeout: Duration = setting("5m", gt=0, postfix="smtpd_policy_service_max_idle")
    """How long a connection is kept that nothing is asked on."""
    policy_context: str = setting("", postfix="smtpd_policy_service_policy_context", max_length=200)
    """Told to the service, which may serve several purposes."""

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or self.address


class PolicyHookSettings(Section):
    """A Python function that is asked, sync or async: `def check(situation)`. It answers None, a verdict, or `reject(…)`
    and the other decisions of `mailflow.hooks` but edits."""

    name: str = setting("", max_length=100)
    """What rules of the policy and the log call it; empty = the function's name."""
    call: Annotated[str, AfterValidator(_function)] = setting()
    """"module:function"; the module is imported when the server starts. A sync function must not wait for anything."""
    use: Use = setting("always")
    """Whether it is always asked, about trusted clients too, or only where a rule of the policy says `hook`."""
    stages: list[Literal["connect", "helo", "mail", "rcpt", "data", "end-of-data"]] = setting(["rcpt"], min_length=1)
    """When it is asked, for `use = "always"`."""
    time_limit: Duration = setting("10s", gt=0)
    """For one question; then, and when it raises, the client gets 451 4.3.0."""

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or self.call
