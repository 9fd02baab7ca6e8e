"""What all connections of a listener share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailflow.ingress.desk import Desk
from mailflow.ingress.limits import Handshakes, SessionCounts
from mailflow.ingress.services import Served
from mailflow.net.turn import Turn
from mailflow.smtp.profile import Profile

if TYPE_CHECKING:
    from mailflow.ingress.connection import Connection


@dataclass(slots=True)
class Hall:
    """One listener."""

    profile: Profile
    trusted_profile: Profile
    """For clients that may send anywhere."""
    desk: Desk
    counts: SessionCounts
    sessions: int = 0
    """How many sessions this listener may have; 0 = only the limit for all counts."""
    sessions_per_client: int = 0
    """How many of one client; 0 = only the limit for all counts."""
    context: Callable[[], ssl.SSLContext] | None = None
    """The TLS context for a handshake; None where there is no TLS."""
    handshakes: Handshakes = field(default_factory=lambda: Handshakes(1))
    tls_first: bool = False
    """TLS from the first byte."""
    is_balancer: Callable[[str], bool] | None = None
    """Whether the connection comes from a balancer, and so begins with a PROXY header."""
    leaving: bool = False
    """The server is shutting down."""
    connections: set[Connection] = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever the last connection leaves."""
    turn: Turn = field(default_factory=Turn)
    """Replies leave when the loop comes round."""
    may_log_in_clear: Callable[[str], bool] | None = None
    """Tells by its address whether a client may log in without TLS; None: nobody may."""
    clear_profiles: tuple[Profile, Profile] | None = None
    """For these clients: strangers, and those that may send anywhere."""

    def profile_for(self, session: Served) -> Profile:
        """The profile that a new session begins with."""
        if self.may_log_in_clear and self.clear_profiles and self.may_log_in_clear(session.address):
            return self.clear_profiles[session.trusted]
        return self.trusted_profile if session.trusted else self.profile
