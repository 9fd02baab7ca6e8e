"""What goes through the writer together, and what became of it; an administrator's step. Only data: `writer.py` fills it, `commit.py` writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from mailflow.envelope import Message
from mailflow.errors import QueueError
from mailflow.store.fresh import Packed
from mailflow.store.sqlite import Store
from mailflow.store.values import Settlement

Done: TypeAlias = Callable[[QueueError | None], None]


class Task(Protocol):
    """Work of an administrator's that is done in steps beside the mail: `AdminTask`, `CompactTask`."""

    def step(self, store: Store) -> list[Any]:
        """The next part, in a transaction of its own. Raises QueueError."""
        ...


@dataclass(slots=True)
class Admin:
    """A step of an administrator's command, on its way."""

    task: Task
    done: Callable[[Any], None]
    """Gets what the step returned, or a QueueError."""


@dataclass(slots=True)
class Batch:
    """One group commit. It belongs to the loop or to the thread at any time, so there is no lock."""

    patient: bool = False
    """Nobody waits for anything in it yet: it has settlements only."""
    messages: list[Message] = field(default_factory=list)
    message_done: list[Done] = field(default_factory=list)
    work: list[Settlement] = field(default_factory=list)
    work_done: list[Done] = field(default_factory=list)
    weight: int = 0
    """Bytes of its messages and of the settlements' new ones, rows included (`room.weight`)."""
    packed: Packed | None = None
    """A record of the redo log with all of it, which may be tried first."""
    last_id: int = 0
    """The newest id handed out."""
    look: bool = False
    """Free space is to be looked up, and what does not fit refused."""
    fold: list[Callable[[QueueError | None], None]] = field(default_factory=list)
    """To be told when all that was acknowledged is in the tables (`fold.py`), or why it is not."""
    lookers: list[asyncio.Future[None]] = field(default_factory=list)
    """To be told when that has been done."""
    promised: int = 0
    """What `Room` had promised when the batch was handed over, the batch included."""
    # Filled in by the thread:
    refused: dict[int, QueueError] = field(default_factory=dict)
    """Place of a message → why it is not in the queue."""
    unsettled: dict[int, QueueError] = field(default_factory=dict)
    """Place of a settlement → why it is not on disk. QueueFull: it is to be tried again."""
    aside: dict[int, QueueError] = field(default_factory=dict)
    """Place of a settlement → why the database cannot take it, nor ever will before it is repaired: its recipients are left
    alone until then. It is durable all the same, unless it is in `unsettled` too."""
    left: dict[int, int] = field(default_factory=dict)
    """Message id → recipients left, for messages of which only some have been settled."""
    free: int | None = None
    """Free space after the commit, when it was looked up."""
    folded: QueueError | None = None
    """Why what somebody wanted in the tables is not there."""
    kept: list[tuple[int, int, Message | None, QueueError]] = field(default_factory=list)
    """Messages that have left and that a damaged database keeps: id, number of the last recipient, both noted in `aside`."""
    broken: QueueError | None = None
    """The store has failed for good."""
