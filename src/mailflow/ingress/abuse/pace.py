"""Clients that send too slowly, so as to keep sessions occupied ("slow loris"). Pure: `now` is given.

The idle limit does not catch who sends a byte now and then. Here each command line has a time in which it must end, each
message has one, and a message has to come with a minimum rate. Nothing is counted while a client sends: `late` looks
at all connections every few seconds, and only one that is caught in the middle of a line or message has a `Pace`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, TypeVar

from mailflow.ingress.abuse.settings import AbuseSettings

LOOK_SECONDS = 15.0
"""The longest time between two looks."""
LOOKS_PER_LIMIT = 4

Unfinished = int | bytes | None
"""A number that grows with each byte of a message, the beginning of a command line, or None when the client waits for us or
owes nothing."""


class Pace:
    """What is known of the line or message that a client is sending."""

    __slots__ = ("last", "marked", "since", "size")

    def __init__(self, unfinished: int | bytes, now: float) -> None:
        self.since = self.marked = now
        self.last = unfinished
        self.size = unfinished if isinstance(unfinished, int) else 0
        """The number at `marked`."""


class Paced(Protocol):
    """A connection, as it is looked at."""

    pace: Pace | None
    """Kept here by `Paces.late`, None at first."""

    @property
    def unfinished(self) -> Unfinished:
        """What the client is sending."""
        ...

    @property
    def favoured(self) -> bool:
        """Whether it keeps its usual limits under stress."""
        ...


Connection = TypeVar("Connection", bound=Paced)


class Paces:
    """The limits of one server."""

    __slots__ = ("_command", "_message", "_rate", "_window", "interval")

    def __init__(self, settings: AbuseSettings) -> None:
        self._rate, self._window = settings.data_rate, settings.data_window
        self._command, self._message = settings.command_timeout, settings.message_timeout
        self.interval = min(LOOK_SECONDS, min(self._window, self._command, self._message) / LOOKS_PER_LIMIT)
        """Seconds between two calls of `late`."""

    def late(
        self, connections: Iterable[Connection], now: float, hurry: float = math.inf
    ) -> list[tuple[Connection, str]]:
        """The connections that are too slow, and why; `now` in seconds. `hurry`: seconds that all who are not favoured
        have at most for a line, and over which the rate of their messages is measured."""
        found = []
        for connection in connections:
            unfinished = connection.unfinished
            if unfinished is None:
                connection.pace = None
                continue
            pace = connection.pace
            if pace is None or not _same(pace.last, unfinished):
                connection.pace = Pace(unfinished, now)
                continue
            pace.last = unfinished
            most = math.inf if hurry == math.inf or connection.favoured else hurry
            if why := self._judge(pace, unfinished, now, most):
                found.append((connection, why))
        return found

    def _judge(self, pace: Pace, unfinished: int | bytes, now: float, most: float) -> str:
        if isinstance(unfinished, bytes):
            return "a command line takes too long" if now - pace.since > min(self._command, most) else ""
        if now - pace.since > self._message:
            return "a message takes too long"
        seconds = now - pace.marked
        if seconds < min(self._window, most):
            return ""
        if unfinished - pace.size < self._rate * seconds:
            return "a message comes too slowly"
        pace.marked, pace.size = now, unfinished
        return ""


def _same(before: int | bytes, now: int | bytes) -> bool:
    """Whether this is the line or the message that was looked at before, with no or some bytes more."""
    if isinstance(before, int):
        return isinstance(now, int) and now >= before
    return isinstance(now, bytes) and now.startswith(before)
