"""How many sessions there are, in all, from each client and from each network, and how many TLS handshakes.

A client without an address (a UNIX socket's, or one that a balancer has not named yet) counts among all only. Memory is
bounded by the number of sessions: the entry of a client or network goes with its last session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mailflow.ingress.abuse.stress import Stress


class NetworkLimit(NamedTuple):
    """Sessions at the same time from one network."""

    sessions: int
    key: Callable[[str], int | None]
    """The network of an address; None for an address that belongs to none."""


class SessionCounts:
    """Admits sessions up to the limits. Each admitted one must be released once, with the same address."""

    __slots__ = (
        "_by_client",
        "_by_network",
        "_exempt",
        "_limit",
        "_limit_per_client",
        "_network",
        "_open",
        "_strained",
        "_stress",
        "total",
    )

    def __init__(
        self,
        limit: int,
        limit_per_client: int,
        exempt: Callable[[str], bool] = lambda _client: False,
        *,
        network: NetworkLimit | None = None,
        stress: Stress | None = None,
    ) -> None:
        """`exempt`: whether only the limit for all counts for a client, always the same for an address. `stress` keeps
        the last sessions for those it knows."""
        self._limit = limit
        self._limit_per_client = limit_per_client
        self._exempt = exempt
        self._network = network
        self._stress = stress
        self._open = stress.open if stress else limit
        self._strained = stress.begin if stress else limit + 1
        self._by_client: dict[str, int] = {}
        self._by_network: dict[int, int] = {}
        self.total = 0

    def __repr__(self) -> str:
        return f"<SessionCounts {self.total}/{self._limit} clients={len(self._by_client)}>"

    def admit(self, client: str, limit_per_client: int = 0) -> bool:
        """Counts a session of the client at this address; False when there are too many already.

        `limit_per_client`: where the client's listener has one of its own.
        """
        total = self.total
        if total >= self._limit or (client and not self._admit_client(client, limit_per_client)):
            return False
        self.total = total + 1
        if total + 1 >= self._strained and self._stress is not None:
            self._stress.follow(total + 1)
        return True

    def release(self, client: str) -> None:
        """A session that was admitted has ended."""
        self.total -= 1
        if client:
            self._release_client(client)
        if self._stress is not None and self._stress.on:
            self._stress.follow(self.total)

    def _admit_client(self, client: str, limit_per_client: int) -> bool:
        count = self._by_client.get(client, 0)
        exempt = self._exempt(client)
        if not exempt:
            if count >= (limit_per_client or self._limit_per_client):
                return False
            if self.total >= self._open and self._stress is not None and not self._stress.lets_in(client, self.total):
                return False
            if self._network is not None and not self._admit_network(self._network, client):
                return False
        self._by_client[client] = count + 1
        return True

    def _admit_network(self, network: NetworkLimit, client: str) -> bool:
        key = network.key(client)
        if key is None:
            return True
        count = self._by_network.get(key, 0)
        if count >= network.sessions:
            return False
        self._by_network[key] = count + 1
        return True

    def _release_client(self, client: str) -> None:
        _less(self._by_client, client)
        if self._network is not None and not self._exempt(client):
            key = self._network.key(client)
            if key is not None:
                _less(self._by_network, key)


def _less(counts: dict[Any, int], key: str | int) -> None:
    count = counts[key] - 1
    if count:
        counts[key] = count
    else:
        del counts[key]


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
