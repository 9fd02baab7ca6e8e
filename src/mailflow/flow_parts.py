"""What a flow is made of; the server puts it together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mailflow.bouncing import Bouncing
from mailflow.budget import Budget
from mailflow.cleanup import Cleaner
from mailflow.delivery.request import Agent
from mailflow.envelope import Message
from mailflow.ids import format_id
from mailflow.journal import Journal
from mailflow.queue import Queue
from mailflow.report import DeliveryReport
from mailflow.scheduler import Scheduler
from mailflow.settle import RetryPolicy

Reported = Callable[[Message, list[DeliveryReport]], None]


@dataclass(frozen=True, slots=True)
class FlowParts:
    """The parts, and the few values that the flow itself needs."""

    queue: Queue
    scheduler: Scheduler
    agents: Mapping[str, Agent]
    cleaner: Cleaner
    bouncing: Bouncing
    journal: Journal
    policy: RetryPolicy
    budget: Budget
    threshold: int
    """Bytes above which content is streamed to a file while it arrives."""
    origin_domain: str
    """Completes a sender's address that has no domain; only trusted clients may leave it out."""
    recipients_per_delivery: int
    """Recipients of one message that are given to an agent at a time."""
    now: Callable[[], float]
    """Seconds since 1970."""
    clock: Callable[[], float]
    """The event loop's time."""
    reported: Reported
    """Told of every outcome once it is on disk: receipts of the Python API."""

    def lost(self, message_id: int) -> None:
        """A message's envelope is damaged: who is left of its recipients waits, on hold, for the operator (wish 82)."""
        if self.queue.quarantine(message_id, lambda _changed: None):
            self.journal.lost(format_id(message_id))
