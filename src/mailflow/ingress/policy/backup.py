"""Backup MX: relaying for destinations, senders and clients whose domain lists us as a mail host (wishes 13, 14).

Anybody can write our name into the MX records of a domain of theirs, claim any sender, and name the reverse zone of their
addresses. So the records alone permit nothing. permit_sender_backup_mx and permit_client_backup_mx let only clients
in `policy.backup_mx_networks` relay; permit_mx_backup relays only to domains one of whose better mail hosts is in these
networks. Fail safe: as long as the name service cannot tell, a recipient that is not ours hears 450, neither yes nor no.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from mailflow.ingress.policy.builtin import refuse
from mailflow.ingress.policy.parts import Parts
from mailflow.ingress.policy.relay import is_source_routed
from mailflow.ingress.policy.rules import Check
from mailflow.ingress.verdict import Action, Finding, Situation, Verdict
from mailflow.net.dns import DnsError, DnsTemporary, MailHost
from mailflow.smtp.reply import reply
from mailflow.tables.kinds import address_of

UNCERTAIN = reply(450, "4.4.3", "Relay access cannot be decided for now: name service failure")
RELAY = Verdict(Action.PERMIT, relay=True)
MAIL_HOSTS = 20
"""Mail hosts of one domain whose addresses are looked up; a domain with more is not what backup is for."""
PARENTS = 3
"""Parent domains of a client's name that are looked at."""


def permit_sender_backup_mx(parts: Parts, _: str) -> Check:
    """Clients in backup_mx_networks, when the sender's domain lists us as a mail host (wish 13)."""

    def check(situation: Situation) -> Finding | Awaitable[Finding]:
        domain = (situation.sender or "").rpartition("@")[2]
        if not domain or domain.startswith("[") or not _listed(parts, situation.peer.address):
            return None
        return _lists_us(parts, situation, [domain])

    return check


def permit_client_backup_mx(parts: Parts, _: str) -> Check:
    """Clients in backup_mx_networks, when their verified name or a domain above it lists us as a mail host (wish 14)."""

    def check(situation: Situation) -> Finding | Awaitable[Finding]:
        name = situation.peer.name
        if not name or not _listed(parts, situation.peer.address):
            return None
        labels = name.split(".")
        above = [".".join(labels[i:]) for i in range(min(PARENTS + 1, max(1, len(labels) - 1)))]
        return _lists_us(parts, situation, above)

    return check


def permit_mx_backup(parts: Parts, _: str) -> Check:
    """Recipients whose domain lists us as a mail host behind one in backup_mx_networks; no source routes, for that host
    may trust us and follow them."""

    def check(situation: Situation) -> Finding | Awaitable[Finding]:
        recipient = situation.recipient
        domain = recipient.rpartition("@")[2] if "@" in recipient else ""
        if not domain or domain.startswith("[") or not parts.settings.backup_mx_networks:
            return None
        if parts.recipients.is_ours(recipient) or is_source_routed(recipient):
            return None
        return _behind(parts, domain)

    return check


async def _lists_us(parts: Parts, situation: Situation, domains: Iterable[str]) -> Finding:
    uncertain = False
    for domain in domains:
        try:
            hosts = await parts.dns.mail_hosts(domain)
            if await _our_place(parts, hosts) is not None and not _is_itself(hosts, domain):
                return RELAY._replace(reason=f"{domain} lists this server as a mail host")
        except DnsTemporary:
            uncertain = True
        except DnsError:
            continue
    # Mail that is taken anyway needs no permission, so the trouble does not matter to it.
    if uncertain and situation.recipient and not parts.recipients.is_ours(situation.recipient):
        return refuse(UNCERTAIN, "the name service did not answer")
    return None


async def _behind(parts: Parts, domain: str) -> Finding:
    try:
        hosts = await parts.dns.mail_hosts(domain)
        ours = await _our_place(parts, hosts)
        if ours is None:
            return None
        for host in hosts:
            if host.preference < ours:
                addresses = await parts.dns.addresses(host.name)
                if any(_listed(parts, address) for address in addresses):
                    return RELAY._replace(
                        reason=f"{host.name} is the primary mail host of {domain}, this server a backup"
                    )
    except DnsTemporary:
        return refuse(UNCERTAIN, "the name service did not answer")
    except DnsError:
        pass
    return None


async def _our_place(parts: Parts, hosts: list[MailHost]) -> int | None:
    """The preference of the mail host that is this server; None when none is. By name first: that needs no look-up."""
    for host in hosts:
        if host.name in parts.own:
            return host.preference
    uncertain: DnsTemporary | None = None
    for host in hosts[:MAIL_HOSTS]:
        try:
            if not parts.own.isdisjoint(await parts.dns.addresses(host.name)):
                return host.preference
        except DnsTemporary as error:
            uncertain = error
        except DnsError:
            continue
    if uncertain is not None:
        raise uncertain
    return None


def _is_itself(hosts: list[MailHost], domain: str) -> bool:
    """Whether there is no MX record: the domain stands for itself, and lists nobody."""
    return len(hosts) == 1 and hosts[0].preference == 0 and hosts[0].name == domain.lower().rstrip(".")


def _listed(parts: Parts, address: str) -> bool:
    found = address_of(address)
    return found is not None and any(found in network for network in parts.settings.backup_mx_networks)
