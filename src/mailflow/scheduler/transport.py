"""The ready destinations of one transport, in four rings, and how many slots each ring may use.

Callers: the scheduler. A destination from which a job may start stands in exactly one ring: `BUSY` when it has
deliveries under way, else that of its speed. The rings differ in how many slots may be taken when one of theirs
starts a job: the last slots are for those that have nothing under way, and the very last for those known to be
quick. So a thousand slow destinations cannot keep a quiet good one waiting.
"""

from __future__ import annotations

from enum import IntEnum

from mailflow.scheduler.ring import Ring
from mailflow.scheduler.settings import SchedulerSettings, TransportSettings

BUSY = 0
"""Index of the ring for destinations that have deliveries under way."""


class Speed(IntEnum):
    """What the last delivery of a destination said; the index of its ring while it has nothing under way."""

    SLOW = 1
    UNKNOWN = 2
    QUICK = 3


def slot_limits(slots: int, reserve: float) -> tuple[int, int, int, int]:
    """How many slots may be taken in all, by ring index. At least one slot is open to everyone."""
    kept = min(int(slots * reserve), slots - 1)
    return slots - kept, slots - kept * 2 // 3, slots - kept // 3, slots


class Transport:
    """One transport: its limits and its rings."""

    __slots__ = (
        "allowance",
        "initial_window",
        "interval",
        "max_window",
        "name",
        "retried",
        "rings",
        "running",
        "slots",
    )

    def __init__(self, name: str, settings: SchedulerSettings) -> None:
        own = settings.transport.get(name) or TransportSettings()
        self.name = name
        self.slots = min(own.slots or settings.slots, settings.slots)
        self.max_window = own.max_window or settings.max_window
        self.initial_window = min(own.initial_window or settings.initial_window, self.max_window)
        self.interval = settings.interval if own.interval is None else own.interval
        self.allowance = ((own.burst or settings.burst) - 1) * self.interval
        """How far a burst may run ahead of even spacing, in seconds."""
        self.running = 0
        self.retried = 0
        """Deferred jobs that wait, of all its destinations."""
        own_limits = slot_limits(self.slots, settings.reserve)
        all_limits = slot_limits(settings.slots, settings.reserve)
        self.rings = tuple(Ring(self, own, all_) for own, all_ in zip(own_limits, all_limits, strict=True))
        """By index."""
