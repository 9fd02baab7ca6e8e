"""How many sessions there are, in all and from each client, and how many TLS handshakes.

A client without an address (a UNIX socket's, or one that a balancer has not named yet) counts among all only. Memory is bounded by the number of sessions: a client's entry goes with its last session.
"""

from __future__ import annotations

from collections.abc import Callable


class SessionCounts:
    """Admits sessions up to the limits. Each admitted one must be released once."""

    __slots__ = ("_by_client", "_exempt", "_limit", "_limit_per_client", "total")

    def __init__(
        self, limit: int, limit_per_client: int, exempt: Callable[[str], bool] = lambda _client: False
    ) -> None:
        """`exempt` is asked for a client that has reached its own limit: whether only the limit for all counts."""
        self._limit = limit
        self._limit_per_client = limit_per_client
        self._exempt = exempt
        self._by_client: dict[str, int] = {}
        self.total = 0

    def __repr__(self) -> str:
        return f"<SessionCounts {self.total}/{self._limit} clients={len(self._by_client)}>"

    def admit(self, client: str, limit_per_client: int = 0) -> bool:
        """Counts a session of the client at this address; False when there are too many already.

        `limit_per_client`: where the client's listener has one of its own.
        """
        if self.total >= self._limit:
            return False
        if client:
            count = self._by_client.get(client, 0)
            if count >= (limit_per_client or self._limit_per_client) and not self._exempt(client):
                return False
            self._by_client[client] = count + 1
        self.total += 1
        return True

    def release(self, client: str) -> None:
        """A session that was admitted has ended."""
        self.total -= 1
        if not client:
            return
        count = self._by_client[client] - 1
        if count:
            self._by_client[client] = count
        else:
            del self._by_client[client]


class Handshakes:
    """TLS handshakes under way. Each one that was begun must be ended once."""

    __slots__ = ("_limit", "total")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.total = 0

    def begin(self) -> bool:
        """Counts one; False when there are too many already."""
        if self.total >= self._limit:
            return False
        self.total += 1
        return True

    def end(self) -> None:
        """One that was counted is over."""
        self.total -= 1
