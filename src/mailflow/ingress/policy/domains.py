"""Checks that ask the name service: does the domain of a sender, a recipient, a HELO name exist, does it take mail?

Fail safe: what the name service cannot answer now is a refusal for now (4xx), never for good. Answers are cached by
`net/dns.py`, so a second question for the same domain costs no look-up; each check waits, and only its own session.
"""

from __future__ import annotations

from collections.abc import Awaitable

from mailflow.ingress.policy.builtin import refuse
from mailflow.ingress.policy.parts import Parts
from mailflow.ingress.policy.rules import Check
from mailflow.ingress.verdict import Finding, Situation
from mailflow.net.dns import DnsTemporary, NoSuchDomain, NullMx, Resolver
from mailflow.smtp.reply import Reply, reply

SENDER_UNKNOWN = reply(550, "5.1.8", "Sender address rejected: Domain not found")
# RFC 7505 §4.2
SENDER_TAKES_NO_MAIL = reply(550, "5.7.27", "Sender address rejected: Domain does not accept mail (nullMX)")
SENDER_UNCERTAIN = reply(450, "4.1.8", "Sender address rejected: Domain not found for now")
RECIPIENT_UNKNOWN = reply(550, "5.1.2", "Recipient address rejected: Domain not found")
# RFC 7505 §4.1
RECIPIENT_TAKES_NO_MAIL = reply(556, "5.1.10", "Recipient address rejected: Domain does not accept mail (nullMX)")
RECIPIENT_UNCERTAIN = reply(450, "4.1.2", "Recipient address rejected: Domain not found for now")
HELO_UNKNOWN = reply(450, "4.7.1", "Helo command rejected: Host not found")


def reject_unknown_sender_domain(parts: Parts, _: str) -> Check:
    """Senders whose domain has neither mail hosts nor addresses, or takes no mail."""

    def check(situation: Situation) -> Finding | Awaitable[Finding]:
        domain = _domain(situation.sender)
        if not domain or parts.recipients.is_ours(situation.sender or ""):
            return None
        return _exists(parts.dns, domain, SENDER_UNKNOWN, SENDER_TAKES_NO_MAIL, SENDER_UNCERTAIN)

    return check


def reject_unknown_recipient_domain(parts: Parts, _: str) -> Check:
    """Recipients whose domain, where it is not ours, has neither mail hosts nor addresses, or takes no mail."""

    def check(situation: Situation) -> Finding | Awaitable[Finding]:
        domain = _domain(situation.recipient)
        if not domain or parts.recipients.is_ours(situation.recipient):
            return None
        return _exists(parts.dns, domain, RECIPIENT_UNKNOWN, RECIPIENT_TAKES_NO_MAIL, RECIPIENT_UNCERTAIN)

    return check


def reject_unknown_helo_hostname(parts: Parts, _: str) -> Check:
    """Names at HELO that have neither addresses nor mail hosts. A refusal for now, as the name service may be behind."""

    def check(situation: Situation) -> Finding | Awaitable[Finding]:
        helo = situation.peer.helo
        if not helo or helo.startswith("["):
            return None
        return _exists(parts.dns, helo, HELO_UNKNOWN, HELO_UNKNOWN, HELO_UNKNOWN)

    return check


def _domain(address: str | None) -> str:
    """The domain of an address; "" for what has none that could be looked up."""
    domain = (address or "").rpartition("@")[2] if "@" in (address or "") else ""
    return "" if domain.startswith("[") else domain


async def _exists(dns: Resolver, domain: str, unknown: Reply, takes_none: Reply, uncertain: Reply) -> Finding:
    try:
        hosts = await dns.mail_hosts(domain)
        if [host.name for host in hosts] == [domain.lower().rstrip(".")]:
            await dns.addresses(domain)  # no MX record: the domain's own address counts (RFC 5321 §5.1)
    except NullMx:
        return refuse(takes_none, f"{domain} has a null MX")
    except NoSuchDomain:
        return refuse(unknown, f"{domain} has no MX and no address")
    except DnsTemporary:
        return refuse(uncertain, f"no name server could tell about {domain}")
    return None
