"""How much content may be in memory, all messages together. Counting only; intake and read-back decide by it."""

from __future__ import annotations

SMALL = 64 * 1024
"""Bytes that every message may hold in memory, however full the budget is."""


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
