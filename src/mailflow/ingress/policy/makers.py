"""Who makes the checks of `catalog.py`.

A maker takes the server's parts and the rule's argument, and gives the check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mailflow.ingress.policy import access, backup, builtin, domains
from mailflow.ingress.policy.parts import Parts
from mailflow.ingress.policy.rules import Check

Make = Callable[[Parts, str], Check]
"""Makes the check from the server's parts and the argument of the rule. Raises ValueError when the argument is no good."""

MAKERS: Mapping[str, Make] = {
    "permit_mynetworks": builtin.permit_mynetworks,
    "permit_sasl_authenticated": builtin.permit_sasl_authenticated,
    "permit_tls_clientcerts": access.permit_certificates,
    "permit_tls_all_clientcerts": builtin.permit_tls_all_clientcerts,
    "permit_auth_destination": builtin.permit_auth_destination,
    "permit_mx_backup": backup.permit_mx_backup,
    "permit_sender_backup_mx": backup.permit_sender_backup_mx,
    "permit_client_backup_mx": backup.permit_client_backup_mx,
    "check_client_access": access.client_access,
    "check_reverse_client_hostname_access": access.reverse_access,
    "check_helo_access": access.helo_access,
    "check_sender_access": access.sender_access,
    "check_recipient_access": access.recipient_access,
    "check_sasl_access": access.login_access,
    "check_ccert_access": access.certificate_access,
    "reject_unknown_client_hostname": builtin.reject_unknown_client_hostname,
    "reject_unknown_reverse_client_hostname": builtin.reject_unknown_reverse_client_hostname,
    "reject_invalid_helo_hostname": builtin.reject_invalid_helo_hostname,
    "reject_non_fqdn_helo_hostname": builtin.reject_non_fqdn_helo_hostname,
    "reject_unknown_helo_hostname": domains.reject_unknown_helo_hostname,
    "reject_plaintext_session": builtin.reject_plaintext_session,
    "reject_unauthenticated": builtin.reject_unauthenticated,
    "reject_unqualified_sender": builtin.reject_non_fqdn_sender,
    "reject_unknown_sender_domain": domains.reject_unknown_sender_domain,
    "reject_unlisted_sender": builtin.reject_unlisted_sender,
    "reject_unqualified_recipient": builtin.reject_non_fqdn_recipient,
    "reject_unknown_recipient_domain": domains.reject_unknown_recipient_domain,
    "reject_unlisted_recipient": builtin.reject_unlisted_recipient,
    "reject_unauth_destination": builtin.reject_unauth_destination,
    "reject_multi_recipient_bounce": builtin.reject_multi_recipient_bounce,
}
"""By the names of the catalog."""
