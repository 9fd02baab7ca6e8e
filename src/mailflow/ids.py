"""Queue ids: 64-bit, ordered by time, never used twice (wishes 60 and 81).

An id is the arrival time in microseconds since 1970, moved up where the clock did not move on.
Its text form is base 32 with an alphabet without look-alikes (no i, l, o, u), 11 characters until the
year 3111, and sorts as the number does. Reading is lenient: upper case and look-alikes are understood.
Pure: the clock and the high-water mark that survives restarts are given by the caller.
"""

from __future__ import annotations

from functools import lru_cache

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
WIDTH = 11
_VALUE = {c: i for i, c in enumerate(ALPHABET)} | {"o": 0, "i": 1, "l": 1}
_PAIRS = [a + b for a in ALPHABET for b in ALPHABET]


def format_id(number: int) -> str:
    """The text form of an id, e.g. 1787000000000000 -> "1js8he3dc00"."""
    pairs = _PAIRS
    return _first_seven(number >> 20) + pairs[(number >> 10) & 1023] + pairs[number & 1023]


@lru_cache(maxsize=64)
def _first_seven(number: int) -> str:
    """The first seven characters: the same for all ids of about a second."""
    pairs = _PAIRS
    return (
        ALPHABET[(number >> 30) & 31]
        + pairs[(number >> 20) & 1023]
        + pairs[(number >> 10) & 1023]
        + pairs[number & 1023]
    )


def parse_id(text: str) -> int:
    """The number behind a text form. Raises ValueError when the text is no queue id."""
    if len(text) != WIDTH:
        raise ValueError(f"not a queue id: {text!r} (accepted: {WIDTH} characters)")
    number = 0
    for char in text.lower():
        if char not in _VALUE:
            raise ValueError(f"not a queue id: {text!r} (accepted: digits and letters without u)")
        number = number << 5 | _VALUE[char]
    return number


def is_id(value: object) -> bool:
    """Whether a value that stood in an id's place can be one."""
    return type(value) is int and value > 0


class IdSource:
    """Hands out ids: `max(now, last + 1)`, so they rise even when the clock steps back."""

    __slots__ = ("last",)

    def __init__(self, high_water: int = 0) -> None:
        self.last = high_water

    def next(self, now: float) -> int:
        """The next id; `now` in seconds since 1970."""
        number = int(now * 1_000_000)
        if number <= self.last:
            number = self.last + 1
        self.last = number
        return number
