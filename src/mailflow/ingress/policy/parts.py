"""What checks are made from: the parts of a server that they may ask, each as the small thing they need.

In a running server the guards fill it in (`guards.py`); `mailflow policy test` does the same without a server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mailflow.ingress.policy.relay import RelayControl
from mailflow.ingress.policy.settings import PolicySettings
from mailflow.ingress.ports import Recipients
from mailflow.net.dns import Resolver
from mailflow.tables import Table


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one server."""

    recipients: Recipients
    relay: RelayControl
    dns: Resolver
    tables: Mapping[str, Table]
    settings: PolicySettings
    own: frozenset[str] = frozenset()
    """Names and addresses that are this server when they stand in an MX record."""
