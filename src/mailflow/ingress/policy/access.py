"""Access tables: a table's value says what happens to those that its key matches.

Values, as in Postfix's access(5): OK or PERMIT (ends the list), DUNNO (nothing), REJECT, DEFER, DISCARD, HOLD, WARN, each with
words behind it if wanted; "550 5.7.1 words" or "450 words"; PREPEND and a header field. Anything else is
refused for now and logged, so that a slip of the pen neither opens the door nor loses mail.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mailflow.ingress.policy.builtin import ACCESS_DENIED, TRY_LATER, refuse
from mailflow.ingress.policy.parts import Parts
from mailflow.ingress.policy.rules import PERMIT, Check
from mailflow.ingress.policy.settings import parse_reply
from mailflow.ingress.verdict import Action, Finding, Situation, Verdict
from mailflow.smtp.reply import reply
from mailflow.tables.keys import address_keys, client_keys, domain_keys, find

BROKEN = reply(451, "4.3.5", "Server configuration error")
_FIELD = re.compile(r"[!-9;-~]{1,70}: [ -~]{0,900}")  # RFC 5322 §2.2; one line, below 998 octets

Keys = Callable[[Situation], list[str]]


def client_access(parts: Parts, name: str) -> Check:
    """By the client's address, IPv4 prefix, verified name and that one's parents."""
    return _access(
        parts,
        name,
        "Client host",
        lambda s: client_keys(s.peer.address, s.peer.name),
        whole=lambda s: [key for key in (s.peer.address, s.peer.name) if key],
    )


def reverse_access(parts: Parts, name: str) -> Check:
    """By the name that the client's address has, verified or not: for refusals, not for permits."""
    return _access(parts, name, "Client host", lambda s: domain_keys(s.peer.name or s.peer.reverse))


def helo_access(parts: Parts, name: str) -> Check:
    """By the name given with EHLO or HELO and its parents."""
    return _access(parts, name, "Helo command", lambda s: domain_keys(s.peer.helo))


def sender_access(parts: Parts, name: str) -> Check:
    """By the sender: user+ext@domain, user@domain, domain, .parent, +ext, user@; "<>" for the null sender."""
    delimiter = parts.settings.delimiter
    return _access(
        parts, name, "Sender address", lambda s: [] if s.sender is None else address_keys(s.sender, delimiter)
    )


def recipient_access(parts: Parts, name: str) -> Check:
    """By the recipient, with the same keys (wish 29)."""
    delimiter = parts.settings.delimiter
    return _access(
        parts, name, "Recipient address", lambda s: address_keys(s.recipient, delimiter) if s.recipient else []
    )


def login_access(parts: Parts, name: str) -> Check:
    """By the user that has logged in."""
    return _access(parts, name, "Login", lambda s: [s.peer.login] if s.peer.login else [])


def certificate_access(parts: Parts, name: str) -> Check:
    """By the fingerprint of the client's certificate."""
    return _access(parts, name, "Client certificate", lambda s: [s.peer.certificate] if s.peer.certificate else [])


def permit_certificates(parts: Parts, name: str) -> Check:
    """Clients whose certificate's fingerprint is a key of the table."""
    table = parts.tables[name]
    return lambda s: PERMIT if s.peer.certificate and table.get(s.peer.certificate) is not None else None


def _access(parts: Parts, name: str, subject: str, keys: Keys, whole: Keys | None = None) -> Check:
    table = parts.tables[name]

    def check(situation: Situation) -> Finding:
        wanted = keys(situation)
        found = find(table, wanted, None if whole is None else whole(situation))
        if found is None:
            return None
        key, value = found
        return decide(value, situation, subject=subject, reason=f"{name}: {key}")

    return check


def decide(value: str, situation: Situation, *, subject: str, reason: str) -> Finding:
    """What a table's value means. `subject` begins the usual words: "Client host rejected: Access denied"."""
    word, _, rest = value.strip().partition(" ")
    rest = rest.strip()
    match word.upper():
        case "OK" | "PERMIT":
            return PERMIT._replace(reason=reason)
        case "DUNNO" | "":
            return None
        case "DISCARD":
            return Verdict(Action.DISCARD, reason=rest or reason)
        case "HOLD":
            return Verdict(Action.HOLD, reason=rest or reason)
        case "WARN" | "INFO":
            situation.event("policy", mode="warn", why=f"{reason} {rest}".strip())
            return None
        case "PREPEND" if _FIELD.fullmatch(rest):
            return Verdict(Action.HEADER, header=rest.encode() + b"\r\n", reason=reason)
    default = ACCESS_DENIED if word.upper() != "DEFER" else TRY_LATER
    default = default._replace(lines=(f"{subject} rejected: {default.lines[0]}",))
    try:
        if word.upper() in ("REJECT", "DEFER"):
            return refuse(parse_reply(rest, default) if rest else default, reason)
        if re.fullmatch(r"[45]\d\d", word):
            return refuse(parse_reply(value.strip(), default), reason)
    except ValueError:
        pass
    situation.event("warning", level=40, reason=f'the value "{value}" of {reason} is not understood')
    return refuse(BROKEN, reason)
