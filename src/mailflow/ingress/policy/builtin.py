"""Checks that need nothing but the session: networks, logins, the form of names and addresses, the envelope.

Each function makes a check from the server's parts and the rule's argument (`catalog.Make`). The replies are those that
postmasters know from Postfix, with its codes.
"""

from __future__ import annotations

import re

from mailflow.envelope import Route
from mailflow.ingress.policy.parts import Parts
from mailflow.ingress.policy.relay import RECIPIENT_INCOMPLETE, RELAY_DENIED, SENDER_INCOMPLETE, check_recipient
from mailflow.ingress.policy.rules import PERMIT, Check
from mailflow.ingress.verdict import Action, Finding, Situation, Verdict
from mailflow.smtp.reply import Reply, reply
from mailflow.tables.kinds import address_of

ACCESS_DENIED = reply(554, "5.7.1", "Access denied")
TRY_LATER = reply(450, "4.7.1", "Access denied, try again later")
LOGIN_REQUIRED = reply(530, "5.7.0", "Authentication required")
# RFC 3207 §4: the code for commands before STARTTLS.
TLS_REQUIRED = reply(530, "5.7.0", "Must issue a STARTTLS command first")
HELO_INVALID = reply(501, "5.5.2", "Helo command rejected: invalid name")
HELO_INCOMPLETE = reply(504, "5.5.2", "Helo command rejected: need fully-qualified hostname")
CLIENT_UNKNOWN = reply(450, "4.7.25", "Client host rejected: cannot find your hostname")
CLIENT_NAMELESS = reply(450, "4.7.25", "Client host rejected: cannot find your reverse hostname")
MANY_BOUNCED = reply(550, "5.5.3", "Multi-recipient bounce")

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)


def refuse(answer: Reply, reason: str = "") -> Verdict:
    """A refusal."""
    return Verdict(Action.REFUSE, answer, reason)


def permit_mynetworks(parts: Parts, _: str) -> Check:
    """Clients in relay.networks."""
    trusts = parts.relay.trusts
    return lambda situation: PERMIT if trusts(situation.peer.address) else None


def permit_sasl_authenticated(_: Parts, __: str) -> Check:
    """Clients that have logged in."""
    return lambda situation: PERMIT if situation.peer.login else None


def permit_tls_all_clientcerts(_: Parts, __: str) -> Check:
    """Clients with a certificate that was verified."""
    return lambda situation: PERMIT if situation.peer.certificate else None


def reject_unauthenticated(_: Parts, __: str) -> Check:
    """Clients that may not send anywhere and have not logged in (RFC 4954 §6, RFC 6409 §4.3)."""
    refusal = refuse(LOGIN_REQUIRED)
    return lambda situation: None if situation.trusted else refusal


def reject_plaintext_session(_: Parts, __: str) -> Check:
    """Sessions that are not encrypted."""
    refusal = refuse(TLS_REQUIRED)
    return lambda situation: None if situation.peer.tls else refusal


def reject_unauth_destination(parts: Parts, _: str) -> Check:
    """Recipients that are not ours; always in force for strangers, here for all clients."""
    refusal = refuse(RELAY_DENIED)
    is_ours = parts.recipients.is_ours
    return lambda situation: refusal if situation.recipient and not is_ours(situation.recipient) else None


def permit_auth_destination(parts: Parts, _: str) -> Check:
    """Recipients that are ours."""
    is_ours = parts.recipients.is_ours
    return lambda situation: PERMIT if situation.recipient and is_ours(situation.recipient) else None


def reject_unlisted_recipient(parts: Parts, _: str) -> Check:
    """Recipients that do not exist (wish 5); always in force."""

    def check(situation: Situation) -> Finding:
        return _unlisted(parts, situation.recipient)

    return check


def reject_unlisted_sender(parts: Parts, _: str) -> Check:
    """Senders in our domains that do not exist."""

    def check(situation: Situation) -> Finding:
        found = _unlisted(parts, situation.sender or "")
        if found is None or found.reply is None:
            return None
        return refuse(reply(550, "5.1.0", "Sender address rejected: no such user"), found.reason)

    return check


def _unlisted(parts: Parts, address: str) -> Finding:
    route = parts.recipients.resolve(address) if address else None
    if route is None or isinstance(route, Route):
        return None
    return refuse(Reply(route.code, route.status, (route.text,)), route.why)


def reject_non_fqdn_sender(_: Parts, __: str) -> Check:
    """Senders without a full domain (wish 36)."""
    refusal = refuse(SENDER_INCOMPLETE)
    return lambda situation: refusal if situation.sender and _incomplete(situation.sender) else None


def reject_non_fqdn_recipient(_: Parts, __: str) -> Check:
    """Recipients without a full domain (wish 36)."""
    refusal = refuse(RECIPIENT_INCOMPLETE)

    def check(situation: Situation) -> Finding:
        recipient = situation.recipient
        if not recipient or (not check_recipient(recipient) and "@" not in recipient):
            return None
        return refusal if _incomplete(recipient) else None

    return check


def _incomplete(address: str) -> bool:
    domain = address.rpartition("@")[2] if "@" in address else ""
    return not domain.startswith("[") and "." not in domain.strip(".")


def reject_invalid_helo_hostname(_: Parts, __: str) -> Check:
    """Names at HELO that are neither a host name nor an address literal."""
    refusal = refuse(HELO_INVALID)
    return lambda situation: refusal if situation.peer.helo and not _is_host(situation.peer.helo) else None


def reject_non_fqdn_helo_hostname(_: Parts, __: str) -> Check:
    """Names at HELO that are not full names (RFC 5321 §4.1.1.1)."""
    refusal = refuse(HELO_INCOMPLETE)

    def check(situation: Situation) -> Finding:
        helo = situation.peer.helo
        return refusal if helo and not helo.startswith("[") and "." not in helo.strip(".") else None

    return check


def _is_host(name: str) -> bool:
    if name.startswith("["):
        return name.endswith("]") and address_of(re.sub(r"(?i)^IPv6:", "", name[1:-1])) is not None
    return len(name) <= 255 and _HOST.fullmatch(name) is not None and address_of(name) is None


def reject_unknown_client_hostname(_: Parts, __: str) -> Check:
    """Clients whose address has no name that leads back to it."""
    refusal = refuse(CLIENT_UNKNOWN)
    return lambda situation: None if situation.peer.name else refusal


def reject_unknown_reverse_client_hostname(_: Parts, __: str) -> Check:
    """Clients whose address has no name."""
    refusal = refuse(CLIENT_NAMELESS)
    return lambda situation: None if situation.peer.name or situation.peer.reverse else refusal


def reject_multi_recipient_bounce(_: Parts, __: str) -> Check:
    """Messages from the null sender to more than one recipient."""
    refusal = refuse(MANY_BOUNCED)
    return lambda situation: refusal if situation.sender == "" and len(situation.recipients) > 1 else None
