"""The settings of the policy: `[policy]`, its lists of rules, and sets of such lists for single listeners.

A rule is conditions, and an action or a check. In short form it is the check alone, as one text:
`rcpt = ["permit_mynetworks", "check_client_access partners", {client = [".example.org"], action = "reject"}]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator

from mailflow.ingress.stage import Stage
from mailflow.setting import Duration, Network, Section, setting
from mailflow.smtp.reply import Reply

REPLY_CHARACTERS = 400
"""Longest text of a reply: with code and status it must fit into one line of 512 octets (RFC 5321 §4.5.3.1.5)."""

TABLE = "table:"
"""In front of a table's name, among the elements of a condition."""

RuleAction = Literal["permit", "permit_relay", "reject", "defer", "discard", "hold", "warn"]
RuleMode = Literal["enforce", "soft-fail", "log-only"]

SUBMISSION = "submission"
"""The set of the listeners that only take mail from users who have logged in, and trusted clients; there without being written."""

LOGIN = "login"
"""The list that is there only in that set, asked at MAIL before all others."""

LISTS: Mapping[str, Stage] = {
    "connect": Stage.CONNECT,
    "helo": Stage.HELO,
    "mail": Stage.MAIL,
    "rcpt": Stage.RCPT,
    "data": Stage.DATA,
    "end": Stage.END,
}
"""The lists in the order of a session, and when each is asked unless it is delayed."""
EARLY = ("connect", "helo", "mail")
"""Those that `policy.delay` has asked at RCPT."""

_ACTIONS = ("permit", "reject", "defer", "discard", "hold")
_REPLY = re.compile(r"(?:([45]\d\d)(?: |\Z))?(?:([45])(\.\d{1,3}\.\d{1,3})(?: |\Z))?(.*)", re.DOTALL)


def parse_reply(text: str, default: Reply) -> Reply:
    """The reply for "550 5.7.1 Go away", "550 Go away" or "Go away"; what is missing comes from `default`.

    Raises ValueError with the accepted form.
    """
    match = _REPLY.fullmatch(text)
    code, kind, rest, words = match.groups() if match else (None, None, None, "")
    if len(text) > REPLY_CHARACTERS or not text.isprintable() or (code and kind and code[0] != kind):
        raise ValueError(
            f'not a reply (accepted: one line of at most {REPLY_CHARACTERS} characters, such as "550 5.7.1 Go away", '
            '"450 4.7.1 Come again" or "Go away"; code and status both begin with 4 or both with 5)'
        )
    number = int(code) if code else default.code
    if not code and kind and int(kind) != number // 100:
        number = 450 if kind == "4" else 550
    status = f"{kind}{rest}" if kind else f"{number // 100}{default.status[1:]}"
    return Reply(number, status, (words.strip() or " ".join(default.lines),))


class RuleSettings(Section):
    """One rule. All conditions that it has must hold; then its action is taken, or its check is asked.

    Lists of a condition: the first element that matches decides; "!" in front of one means that it does not hold. In a list with
    nothing but "!" elements, the rest holds. "*" matches what is not empty, "table:NAME" the keys of `[table.NAME]`.
    """

    name: str = setting("")
    """What the log calls this rule."""
    client: list[str] | None = setting(None)
    """The client: addresses, networks ("192.0.2.0/24"), verified host names ("mx.example.org"), all names in a domain
    (".example.org"), tables."""
    helo: list[str] | None = setting(None)
    """The name given with EHLO or HELO: names, ".domain", tables. The empty text "" matches when none was given."""
    sender: list[str] | None = setting(None)
    """The envelope sender: "user@example.org", "example.org" (all users), ".example.org" (all subdomains), "user@"
    (in all domains), "+extension", "<>" (the null sender), tables with such keys."""
    recipient: list[str] | None = setting(None)
    """The recipient, in the same forms. "user@example.org" holds for "user+extension@example.org" too."""
    login: list[str] | None = setting(None)
    """The user that has logged in: names, tables; "*" for anybody, "!*" for nobody."""
    certificate: list[str] | None = setting(None)
    """The SHA-256 fingerprint of the client's certificate ("ab:cd:…"), tables; "*" for any certificate."""
    tls: bool | None = setting(None)
    """Whether the session is encrypted."""
    trusted: bool | None = setting(None)
    """Whether the client may send anywhere: it is in `relay.networks`, or has logged in."""
    action: RuleAction | None = setting(None)
    """"permit" ends the list without objection; "permit_relay" does too, and lets a stranger send to this recipient although
    it is not ours; "reject" and "defer" refuse for good or for now; "discard" takes the message and throws it away, for all its recipients; "hold"
    takes it and keeps it in the queue until it is released; "warn" only writes a line in the log."""
    check: str = setting("", postfix="smtpd_recipient_restrictions")
    """Instead of an action: the name of a check, and its argument behind a blank: "reject_unknown_sender_domain",
    "check_client_access partners". `mailflow policy checks` lists them."""
    reply: str = setting("")
    """What the client hears, instead of the usual words: "550 5.7.1 Go away", or the words alone. 421 ends the session."""
    mode: RuleMode = setting("enforce", postfix="soft_bounce, warn_if_reject")
    """"enforce"; "soft-fail": refusals for good become refusals for now; "log-only": what the rule would do is only logged."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return _table(value)

    @field_validator("reply")
    @classmethod
    def _form(cls, value: str) -> str:
        parse_reply(value, Reply(550, "5.7.1", ("",)))
        return value

    @property
    def title(self) -> str:
        """How log and listings call it."""
        return self.name or self.check or self.action or ""


def asked_at(name: str, policy: PolicySettings) -> Stage:
    """The stage at which a list is asked. Whether a client must log in is told at MAIL in any case."""
    if name == LOGIN:
        return Stage.MAIL
    return Stage.RCPT if policy.delay and name in EARLY else LISTS[name]


def complete_rules(policy: Any) -> None:
    """Makes tables of the rules in short form, in a tree of values that has not been checked."""
    if not isinstance(policy, dict):
        return
    for name, value in policy.items():
        if name == "set" and isinstance(value, dict):
            for lists in value.values():
                complete_rules(lists)
        elif isinstance(value, list) and name in RuleLists.model_fields:
            value[:] = map(_table, value)


def _table(rule: Any) -> Any:
    if not isinstance(rule, str):
        return rule
    return {"action": rule} if rule in _ACTIONS else {"check": rule}


class RuleLists(Section):
    """Rules by stage, each list in the order in which it is asked. A "permit" ends its own list only."""

    connect: list[RuleSettings] = setting([], postfix="smtpd_client_restrictions")
    """Asked about the client."""
    helo: list[RuleSettings] = setting([], postfix="smtpd_helo_restrictions")
    """Asked about the name that the client gives itself."""
    mail: list[RuleSettings] = setting([], postfix="smtpd_sender_restrictions")
    """Asked about the sender."""
    rcpt: list[RuleSettings] = setting([], postfix="smtpd_recipient_restrictions, smtpd_relay_restrictions")
    """Asked about each recipient. Whatever the rules say, a stranger does not relay, except by "permit_relay" or a backup-MX check."""
    data: list[RuleSettings] = setting([], postfix="smtpd_data_restrictions")
    """Asked when the envelope is complete."""
    end: list[RuleSettings] = setting([], postfix="smtpd_end_of_data_restrictions")
    """Asked when the message is complete, its size known."""


class PolicySettings(RuleLists):
    """Who may send what to whom.

    Besides the rules, these are always in force, first and in this order: incomplete senders and recipients of strangers,
    unknown recipients, and relaying by strangers are refused.
    """

    delay: bool = setting(default=True, postfix="smtpd_delay_reject")
    """Ask the lists `connect`, `helo` and `mail` at RCPT, for each recipient, before the list `rcpt`. Then their rules see
    login, sender and recipient (a user at home is not refused for the address before it could log in), the log names whom
    a refused message was for, and clients that cannot cope with an early refusal hear it where they expect it.
    Without: each list is asked at its own command, which ends unwanted sessions sooner."""
    unqualified_sender: RuleMode = setting("enforce")
    """For strangers' senders without a domain (504 5.5.2)."""
    unqualified_recipient: RuleMode = setting("enforce")
    """For strangers' recipients without a domain (504 5.5.2); postmaster is always complete."""
    unlisted_recipient: Literal["enforce", "soft-fail"] = setting(
        "enforce", postfix="unknown_local_recipient_reject_code"
    )
    """For recipients that do not exist."""
    delimiter: str = setting("+", postfix="recipient_delimiter", max_length=1)
    """Stands between user and extension when addresses are matched by rules; empty: addresses have no extensions."""
    backup_mx_networks: list[Network] = setting([], postfix="permit_mx_backup_networks")
    """For permit_sender_backup_mx and permit_client_backup_mx: the clients that these may let relay. For permit_mx_backup:
    the networks of the primary mail hosts of the destinations. Empty: these checks let nobody relay."""
    backup_mx_names: list[str] = setting([], postfix="proxy_interfaces")
    """Further names and addresses that are this server when they stand in an MX record (it stands behind address translation);
    the host name and the listeners' addresses are known."""
    client_names: Literal["strangers", "all", "none"] = setting("strangers", postfix="smtpd_peername_lookup")
    """Whose names are looked up (PTR, and an address record that leads back) as soon as a client connects: for the log, the
    Received: header and rules. Names that a rule needs are looked up in any case. Loopback addresses never are."""
    client_name_wait: Duration = setting("5s", gt=0, le=60)
    """How long a session waits for the name where something needs it; after that the client has none."""
    set: dict[str, RuleLists] = setting({})
    """Lists of their own for the listeners whose `policy` names them; the lists above do not count there."""

    @property
    def modes(self) -> dict[str, str]:
        """The modes of the checks that are always in force, by the name that the log has for them."""
        return {
            "reject_unqualified_sender": self.unqualified_sender,
            "reject_unqualified_recipient": self.unqualified_recipient,
            "reject_unlisted_recipient": self.unlisted_recipient,
        }
