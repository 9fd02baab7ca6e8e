"""How fast a client may go: limits such as "100/1h", and the buckets that keep them. Pure: `now` is given.

A bucket is a token bucket in the form of one number: the time at which it would be full again (the "theoretical
arrival time" of ITU-T I.371's generic cell rate algorithm). "100/1h" lets a hundred pass at once and then one every 36
seconds; a client that keeps below the rate is never stopped, and none gets more than twice the count in any such time.
Memory: one int and one float for each client, and their place in a dict, about 130 bytes (tests/abuse/test_rates.py).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from mailflow.ingress.abuse.memory import Recent
from mailflow.units import format_duration, parse_duration


class Excess(Enum):
    """What becomes of what is over a limit."""

    DELAY = "delay"
    """It waits for `abuse.delay`, then it is let pass."""
    DEFER = "defer"
    """It is told to try again later: 450 4.7.1, at the beginning of a session 421."""
    REFUSE = "refuse"
    """It is refused for good: 550 5.7.1, at the beginning of a session 554."""
    CLOSE = "close"
    """The session ends with 421."""
    DROP = "drop"
    """The connection is closed without a word."""


class RateLimit(NamedTuple):
    """So many in so many seconds, and what becomes of more."""

    number: int
    seconds: float
    excess: Excess = Excess.DEFER

    def __str__(self) -> str:
        excess = "" if self.excess is Excess.DEFER else f" {self.excess.value}"
        return f"{self.number}/{format_duration(self.seconds)}{excess}"


def parse_rate(value: object) -> RateLimit | None:
    """A limit from "100/1h" or "100/1h drop"; None from "off". Raises ValueError with the accepted form."""
    if value is None or value == "off" or isinstance(value, RateLimit):
        return value if isinstance(value, RateLimit) else None
    match = re.fullmatch(r"(\d{1,9}) ?/ ?(\S+)(?: (\w+))?", value) if isinstance(value, str) else None
    try:
        if match and int(match[1]) and (seconds := parse_duration(match[2])):
            return RateLimit(int(match[1]), seconds, Excess(match[3] or "defer"))
    except ValueError:
        pass
    words = ", ".join(excess.value for excess in Excess)
    raise ValueError(f'not a rate (accepted: "off", a count per time such as "100/1h", and behind it one of {words})')


Rate = Annotated[
    RateLimit | None,
    BeforeValidator(parse_rate),
    PlainSerializer(lambda rate: str(rate) if rate else "off", when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["100/1h", "20/1m delay", "off"]}),
]
"""A limit of a rate, None for no limit; written "100/1h", "20/1m delay" or "off"."""


class Buckets:
    """One limit, kept for each of many keys."""

    __slots__ = ("_full", "_seconds", "_step", "limit")

    def __init__(self, limit: RateLimit, entries: int) -> None:
        """`entries`: how many keys are remembered at most; one that is forgotten has a fresh start."""
        self.limit = limit
        self._step = limit.seconds / limit.number
        self._seconds = limit.seconds + self._step / 1024  # many small steps must not sum up to more
        self._full: Recent[int, float] = Recent(entries)

    def __repr__(self) -> str:
        return f"<Buckets {self.limit} keys={len(self._full)}>"

    def __len__(self) -> int:
        """Keys remembered."""
        return len(self._full)

    def take(self, key: int, now: float) -> bool:
        """Counts one; False, and nothing is counted, when the limit is reached. `now` in seconds, never going back."""
        before = self._full.get(key) or now
        full = max(before, now) + self._step
        passes = full <= now + self._seconds
        self._full.put(key, full if passes else before)  # who comes again and again is not forgotten
        return passes

    def charge(self, key: int, now: float) -> None:
        """Counts one that has happened already; beyond the limit nothing is added, so that patience is rewarded."""
        self.take(key, now)

    def spent(self, key: int, now: float) -> bool:
        """Whether the limit is reached."""
        full = self._full.get(key)
        if full is None or full + self._step <= now + self._seconds:
            return False
        self._full.put(key, full)
        return True
