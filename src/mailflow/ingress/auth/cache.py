"""Passwords that were right a moment ago, so that a busy client does not cost a slow hash each time. Pure: `now` is given.

Kept is a keyed hash of login and password, never either; the key is random, and lives as long as the process. A wrong password
is never kept. What is kept counts for one generation of the back end: a changed password file makes all of it void.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict


class PasswordCache:
    """A bounded memory; beyond the bound what was used least recently goes."""

    __slots__ = ("_entries", "_found", "_key", "_seconds")

    def __init__(self, key: bytes, seconds: float, entries: int) -> None:
        """`key`: 32 random bytes; `seconds`: how long a password counts, 0 for not at all."""
        self._key = key
        self._seconds = seconds
        self._entries = entries
        self._found: OrderedDict[bytes, tuple[float, int, str]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<PasswordCache {len(self._found)}/{self._entries}>"

    def get(self, place: int, login: str, password: str, generation: int, now: float) -> str | None:
        """The login that this password was right for; None when it is not known to be. `place` numbers the back end."""
        key = self._hash(place, login, password)
        entry = self._found.get(key)
        if entry is None:
            return None
        until, made_in, known_as = entry
        if now >= until or made_in != generation:
            del self._found[key]
            return None
        self._found.move_to_end(key)
        return known_as

    def put(self, place: int, login: str, password: str, known_as: str, generation: int, now: float) -> None:
        """The password was right."""
        if not self._seconds:
            return
        key = self._hash(place, login, password)
        self._found[key] = (now + self._seconds, generation, known_as)
        self._found.move_to_end(key)
        if len(self._found) > self._entries:
            self._found.popitem(last=False)

    def _hash(self, place: int, login: str, password: str) -> bytes:
        # A login holds no NUL (smtp/sasl.py), so two pairs never look alike.
        return hashlib.blake2b(f"{place}\0{login}\0{password}".encode(), digest_size=16, key=self._key).digest()
