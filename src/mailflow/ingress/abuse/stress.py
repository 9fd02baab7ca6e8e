"""Who is let in when nearly all sessions are taken (wish 75). Pure.

From `abuse.stress` percent of the sessions on the server is under stress, until a tenth less are open. Then clients that
are not known have shorter limits, and the last `abuse.stress_reserve` percent are for those that are: the clients in
relay.networks, and those whose mail was accepted before. The beginning and the end are told once each.
"""

from __future__ import annotations

from collections.abc import Callable

from mailflow.ingress.abuse.memory import Recent
from mailflow.ingress.abuse.networks import Keys
from mailflow.ingress.abuse.settings import AbuseSettings

RELIEF = 0.9
"""Stress ends at so much of the sessions that it begins at, so that it does not come and go with each session."""


class Stress:
    """The state of one server."""

    __slots__ = ("_changed", "_end", "_keys", "_known", "_ours", "began", "begin", "idle", "on", "open", "tolerance")

    def __init__(
        self,
        settings: AbuseSettings,
        sessions: int,
        ours: Callable[[str], bool] = lambda _address: False,
        changed: Callable[[bool, int], None] = lambda _on, _sessions: None,
    ) -> None:
        """`sessions`: the limit of all. `ours`: whether an address is in relay.networks. `changed` is told of
        beginning (True) and end, with the number of sessions."""
        share = settings.stress or 1000
        self.begin = max(1, sessions * share // 100)
        """Sessions from which on there is stress."""
        self._end = int(self.begin * RELIEF)
        self.open = sessions - (sessions * settings.stress_reserve // 100 if settings.stress else 0)
        """Sessions that are open to everybody."""
        self._known: Recent[int, bool] = Recent(settings.known_clients)
        self._keys = Keys(settings.ipv4_prefix, settings.ipv6_prefix)
        self._ours = ours
        self._changed = changed
        self.idle = settings.stress_idle_timeout
        """Seconds of silence that clients have under stress that are not known."""
        self.tolerance = settings.stress_tolerance
        """Percent of the limits of errors that they have."""
        self.on = False
        self.began = 0
        """How many times it has begun."""

    def __repr__(self) -> str:
        return f"<Stress on={self.on} at={self.begin} known={len(self._known)}>"

    def learn(self, address: str) -> None:
        """A message of this client was accepted."""
        key = self._keys.client(address)
        if key is not None:
            self._known.put(key, True)  # noqa: FBT003

    def knows(self, address: str) -> bool:
        """Whether mail of this client was accepted before."""
        key = self._keys.client(address)
        return key is not None and key in self._known

    def favours(self, address: str) -> bool:
        """Whether this client keeps its usual limits."""
        return self._ours(address) or self.knows(address)

    def lets_in(self, address: str, sessions: int) -> bool:
        """Whether one session more is for this client, when there are so many already."""
        return sessions < self.open or self.favours(address)

    def follow(self, sessions: int) -> None:
        """The number of sessions has changed."""
        if self.on:
            if sessions <= self._end:
                self.on = False
                self._changed(False, sessions)  # noqa: FBT003
        elif sessions >= self.begin:
            self.on = True
            self.began += 1
            self._changed(True, sessions)  # noqa: FBT003
