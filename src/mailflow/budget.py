"""How much content may be in memory, all messages together, and how its pieces are kept so that the count is true.

Counting only; intake and read-back decide by it.
"""

from __future__ import annotations

SMALL = 64 * 1024
"""Bytes that every message may hold in memory, however full the budget is."""
FRAGMENT = 1024
"""Pieces below this many bytes are kept together: an object for each costs twenty times what it holds, when a client
sends two bytes at a time."""


def keep(pieces: list[bytes | bytearray], piece: bytes) -> None:
    """Appends a piece of a message; the first one stays as it is."""
    if len(piece) >= FRAGMENT or not pieces:
        pieces.append(piece)
        return
    last = pieces[-1]
    if isinstance(last, bytearray):
        last += piece
    else:
        pieces.append(bytearray(piece))


class Budget:
    """Bytes of content in memory, over all messages: on their way in, and waiting for their delivery."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def __repr__(self) -> str:
        return f"<Budget {self.used}/{self.limit}>"

    def exhausted(self) -> bool:
        """Whether content should stay on disk from now on."""
        return self.used > self.limit
