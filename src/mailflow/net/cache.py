"""A bounded cache whose entries expire. Pure: the clock is given.

When it is full the entry that was put in first goes: name service answers are cheap to get again, and strict
least-recently-used order would cost on every hit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """At most `size` entries, each until its time is over; `now` gives seconds."""

    __slots__ = ("_entries", "_now", "_size")

    def __init__(self, size: int, now: Callable[[], float]) -> None:
        self._size = size
        self._now = now
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        """Ordered, as a plain dict takes ever longer to find its first entry while its first entries are deleted."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, None when there is none or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= self._now():
            del self._entries[key]
            return None
        return entry[1]

    def put(self, key: K, value: V, ttl: float) -> None:
        """Keeps a value for `ttl` seconds."""
        self._entries.pop(key, None)
        if self._size <= 0:
            return
        if len(self._entries) >= self._size:
            self._entries.popitem(last=False)
        self._entries[key] = (self._now() + ttl, value)
