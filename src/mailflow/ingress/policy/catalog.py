"""Every check that a rule may name: what is known of it without running anything.

`mailflow policy checks` prints this list, and the configuration is judged by it. The functions that make the checks are
in `makers.py`; block lists, greylisting, policy services and hooks come with parts of their own, and their makers are
given to `compiling.Policy` under the names here. Pure, and light: every command reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mailflow.ingress.stage import Stage


@dataclass(frozen=True, slots=True)
class CheckKind:
    """One kind of check."""

    stage: Stage
    """The first stage at which there is something to look at."""
    about: str
    """What it does, in one sentence: whom it lets in or refuses."""
    argument: str = ""
    """What stands behind the name: "table", "service", …; "" when nothing may."""
    optional: bool = False
    """The argument may be missing, where there is only one that could be meant."""
    postfix: str = ""
    """What Postfix calls it, where that is not its name here."""
    relays: bool = False
    """It may let strangers relay."""
    needs_name: bool = False
    """It looks at the client's verified name."""


CATALOG: Mapping[str, CheckKind] = {
    "permit_mynetworks": CheckKind(Stage.CONNECT, "Clients in relay.networks."),
    "permit_sasl_authenticated": CheckKind(Stage.MAIL, "Clients that have logged in."),
    "permit_tls_clientcerts": CheckKind(
        Stage.HELO, "Clients whose certificate's fingerprint is a key of the table.", argument="table"
    ),
    "permit_tls_all_clientcerts": CheckKind(Stage.HELO, "Clients with a certificate that was verified."),
    "permit_auth_destination": CheckKind(Stage.RCPT, "Recipients that are ours."),
    "permit_mx_backup": CheckKind(
        Stage.RCPT, "Recipients whose domain lists us as a mail host behind one in backup_mx_networks.", relays=True
    ),
    "permit_sender_backup_mx": CheckKind(
        Stage.RCPT,
        "Clients in backup_mx_networks, when the sender's domain lists us as a mail host (wish 13).",
        relays=True,
    ),
    "permit_client_backup_mx": CheckKind(
        Stage.RCPT,
        "Clients in backup_mx_networks, when their verified name or a domain above it lists us as a mail host (wish 14).",
        relays=True,
        needs_name=True,
    ),
    "check_client_access": CheckKind(
        Stage.CONNECT,
        "By the client's address, IPv4 prefix, verified name and that one's parents.",
        argument="table",
        needs_name=True,
    ),
    "check_reverse_client_hostname_access": CheckKind(
        Stage.CONNECT,
        "By the name that the client's address has, verified or not: for refusals, not for permits.",
        argument="table",
        needs_name=True,
    ),
    "check_helo_access": CheckKind(
        Stage.HELO, "By the name given with EHLO or HELO and its parents.", argument="table"
    ),
    "check_sender_access": CheckKind(
        Stage.MAIL,
        "By the sender: user+ext@domain, user@domain, domain, .parent, +ext, user@; '<>' for the null sender.",
        argument="table",
    ),
    "check_recipient_access": CheckKind(
        Stage.RCPT, "By the recipient, with the same keys (wish 29).", argument="table"
    ),
    "check_sasl_access": CheckKind(Stage.MAIL, "By the user that has logged in.", argument="table"),
    "check_ccert_access": CheckKind(Stage.HELO, "By the fingerprint of the client's certificate.", argument="table"),
    "reject_unknown_client_hostname": CheckKind(
        Stage.CONNECT, "Clients whose address has no name that leads back to it.", needs_name=True
    ),
    "reject_unknown_reverse_client_hostname": CheckKind(
        Stage.CONNECT, "Clients whose address has no name.", needs_name=True
    ),
    "reject_invalid_helo_hostname": CheckKind(
        Stage.HELO, "Names at HELO that are neither a host name nor an address literal."
    ),
    "reject_non_fqdn_helo_hostname": CheckKind(
        Stage.HELO, "Names at HELO that are not full names (RFC 5321 §4.1.1.1)."
    ),
    "reject_unknown_helo_hostname": CheckKind(
        Stage.HELO,
        "Names at HELO that have neither addresses nor mail hosts. A refusal for now, as the name service may be behind.",
    ),
    "reject_plaintext_session": CheckKind(Stage.HELO, "Sessions that are not encrypted."),
    "reject_unauthenticated": CheckKind(
        Stage.MAIL,
        "Clients that may not send anywhere and have not logged in (RFC 4954 §6, RFC 6409 §4.3).",
        postfix="permit_mynetworks, permit_sasl_authenticated, reject",
    ),
    "reject_unqualified_sender": CheckKind(
        Stage.MAIL, "Senders without a full domain (wish 36).", postfix="reject_non_fqdn_sender"
    ),
    "reject_unknown_sender_domain": CheckKind(
        Stage.MAIL, "Senders whose domain has neither mail hosts nor addresses, or takes no mail."
    ),
    "reject_unlisted_sender": CheckKind(Stage.MAIL, "Senders in our domains that do not exist."),
    "reject_unqualified_recipient": CheckKind(
        Stage.RCPT, "Recipients without a full domain (wish 36).", postfix="reject_non_fqdn_recipient"
    ),
    "reject_unknown_recipient_domain": CheckKind(
        Stage.RCPT,
        "Recipients whose domain, where it is not ours, has neither mail hosts nor addresses, or takes no mail.",
    ),
    "reject_unlisted_recipient": CheckKind(Stage.RCPT, "Recipients that do not exist (wish 5); always in force."),
    "reject_unauth_destination": CheckKind(
        Stage.RCPT, "Recipients that are not ours; always in force for strangers, here for all clients."
    ),
    "reject_multi_recipient_bounce": CheckKind(Stage.DATA, "Messages from the null sender to more than one recipient."),
    "reject_dnsbl": CheckKind(
        Stage.CONNECT, "Clients that block lists name, by weight.", postfix="reject_rbl_client, reject_rhsbl_…"
    ),
    "permit_dnswl": CheckKind(Stage.CONNECT, "Clients that allow lists name.", postfix="permit_dnswl_client"),
    "greylist": CheckKind(Stage.RCPT, "Strangers hear 450 the first time, and are let in when they come again."),
    "check_policy_service": CheckKind(Stage.CONNECT, "Asks a policy service.", argument="service", optional=True),
    "hook": CheckKind(Stage.CONNECT, "Asks a Python function.", argument="hook", optional=True),
}
"""All checks by name."""

ALIASES: Mapping[str, str] = {
    "reject_non_fqdn_sender": "reject_unqualified_sender",
    "reject_non_fqdn_recipient": "reject_unqualified_recipient",
    "reject_unknown_client": "reject_unknown_client_hostname",
    "reject_invalid_hostname": "reject_invalid_helo_hostname",
    "reject_non_fqdn_hostname": "reject_non_fqdn_helo_hostname",
    "reject_unknown_hostname": "reject_unknown_helo_hostname",
}
"""Postfix's other names for some of them."""


def kind_of(name: str) -> CheckKind | None:
    """The kind of a check by any of its names."""
    return CATALOG.get(ALIASES.get(name, name))
