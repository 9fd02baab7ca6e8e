"""What is remembered of clients: a mapping that never holds more than so many entries.

Two generations: entries are written into the young one; when it holds half of what is allowed, the old one is
forgotten and the young one becomes old. What is looked up in the old one moves to the young one, so the entries that
are in use stay, and every operation takes the same short time whatever the number of clients. It remembers at
least the last half, and at most all, of the entries it is allowed.
"""

from __future__ import annotations

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A bounded mapping of the entries used most recently."""

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, entries: int) -> None:
        """`entries`: how many it holds at most, 2 or more."""
        self._half = entries // 2
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def __repr__(self) -> str:
        return f"<Recent {len(self)}/{2 * self._half}>"

    def __len__(self) -> int:
        """Entries held; one that is in both generations counts twice, as it takes its memory twice."""
        return len(self._young) + len(self._old)

    def __contains__(self, key: Key) -> bool:
        return key in self._young or key in self._old

    def get(self, key: Key) -> Value | None:
        """The entry, None when there is none or it was forgotten."""
        value = self._young.get(key)
        return self._old.get(key) if value is None else value

    def put(self, key: Key, value: Value) -> None:
        """Makes or changes an entry, and forgets others for it when there are too many."""
        young = self._young
        if len(young) >= self._half and key not in young:
            self._old, self._young = young, {}
            young = self._young
        young[key] = value
