"""Which lines about misbehaving clients the log gets: one for each offence, client and minute; the others are counted.

So a flood of connections is no flood of lines: neither one client nor a million of them writes more than
`LINES_PER_MINUTE` of a kind. Pure: `now` is given.
"""

from __future__ import annotations

from collections.abc import Hashable

from mailflow.ingress.abuse.memory import Recent

SECONDS = 60.0
LINES_PER_MINUTE = 300
"""Lines of one kind, about all clients together."""
REMEMBERED = 20_000
"""Clients and kinds of offence that are remembered."""
KINDS = 100
"""Kinds of offence that are remembered; there are fewer."""


class Notices:
    """Decides about the lines of one server."""

    __slots__ = ("_kinds", "_lines")

    def __init__(self, entries: int = REMEMBERED) -> None:
        self._lines: Recent[tuple[str, Hashable], tuple[float, int]] = Recent(entries)
        """When the next line may be written, and how many were left out since the last one."""
        self._kinds: Recent[str, tuple[float, int]] = Recent(KINDS)
        """The end of the minute that is counted, and the lines in it."""

    def __repr__(self) -> str:
        return f"<Notices {self._lines}>"

    def due(self, kind: str, client: Hashable, now: float) -> int | None:
        """None: no line. Else there shall be one, that says how many such offences of the client had none."""
        key = kind, client
        until, left_out = self._lines.get(key) or (now, 0)
        if now < until or not self._has_room(kind, now):
            self._lines.put(key, (until, left_out + 1))
            return None
        self._lines.put(key, (now + SECONDS, 0))
        return left_out

    def _has_room(self, kind: str, now: float) -> bool:
        end, lines = self._kinds.get(kind) or (0.0, 0)
        if now >= end:
            end, lines = now + SECONDS, 0
        self._kinds.put(kind, (end, lines + 1))
        return lines < LINES_PER_MINUTE
