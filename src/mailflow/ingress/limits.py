"""How many sessions there are, in all and from each client.

Memory is bounded by the number of sessions: a client's entry goes with its last session.
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

    def admit(self, client: str) -> bool:
        """Counts a session of the client at this address; False when there are too many already."""
        count = self._by_client.get(client, 0)
        if self.total >= self._limit or (count >= self._limit_per_client and not self._exempt(client)):
            return False
        self._by_client[client] = count + 1
        self.total += 1
        return True

    def release(self, client: str) -> None:
        """A session that was admitted has ended."""
        self.total -= 1
        count = self._by_client[client] - 1
        if count:
            self._by_client[client] = count
        else:
            del self._by_client[client]
