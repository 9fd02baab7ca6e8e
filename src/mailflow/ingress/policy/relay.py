"""Who may send anywhere, and the refusals that are in force without any rule. Pure: decisions on values, no I/O.

Callers: `session.py`, at every command; the compiled rules ask the same questions. `RelayControl` knows the clients
of `relay.networks`; `check_sender` and `check_recipient` are the demand for complete addresses from strangers (wish 36).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from mailflow.envelope import Peer
from mailflow.setting import Network
from mailflow.smtp.reply import Reply, reply

RELAY_DENIED = reply(554, "5.7.1", "Relay access denied")
SENDER_INCOMPLETE = reply(504, "5.5.2", "Sender address rejected: need fully-qualified address")
RECIPIENT_INCOMPLETE = reply(504, "5.5.2", "Recipient address rejected: need fully-qualified address")

CACHED_CLIENTS = 4096
"""Client addresses whose answer is remembered; beyond it the memory starts afresh."""


class RelayControl:
    """Knows the clients that may send anywhere."""

    __slots__ = ("_everyone", "_known", "_networks")

    def __init__(self, networks: Iterable[Network], *, everyone: bool = False) -> None:
        """`everyone`: for a listener that only the right clients can reach."""
        self._everyone = everyone
        self._networks = tuple(networks)
        self._known: dict[str, bool] = {}

    def trusts(self, client: str) -> bool:
        """Whether the client at this IP address may send anywhere. False for what is no IP address."""
        known = self._known.get(client)
        if known is None:
            if len(self._known) >= CACHED_CLIENTS:
                self._known.clear()
            known = self._known[client] = self._everyone or self._find(client)
        return known

    def admits(self, peer: Peer) -> bool:
        """Whether this client may send anywhere: by its address, or because it has logged in.

        Who has come through a proxy has not reached the listener himself: for him its address decides, everyone or not.
        """
        if peer.login:
            return True
        return self._find(peer.address) if peer.via and self._everyone else self.trusts(peer.address)

    def _find(self, client: str) -> bool:
        try:
            address = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def soften(answer: Reply) -> Reply:
    """A refusal for now in place of one for good."""
    if answer.code < 500:
        return answer
    return Reply(450, f"4{answer.status[1:]}" if answer.status else "4.7.1", answer.lines)


def is_source_routed(recipient: str) -> bool:
    """Whether the local part names another destination ("user%other@ours", "other!user@ours", "user@other@ours").

    The host behind us may go by it, and would relay for a stranger since the mail comes from us.
    """
    local = recipient.rpartition("@")[0]
    return "%" in local or "!" in local or "@" in local


def check_sender(sender: str) -> Reply | None:
    """The refusal of a stranger's sender, or None. Trusted clients may leave the domain out: the flow adds it."""
    return None if not sender or "@" in sender else SENDER_INCOMPLETE


def check_recipient(recipient: str) -> Reply | None:
    """The refusal of a stranger's recipient, or None. Everybody may write to Postmaster (RFC 5321 §4.5.1)."""
    return None if "@" in recipient or recipient.lower() == "postmaster" else RECIPIENT_INCOMPLETE
