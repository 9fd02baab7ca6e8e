"""Content in memory: kept since it came in where there is room, else read back from disk for each delivery.

`ReadBack.fetch` is given a delivery whose turn it is; when its content is there, `begin` is called, and `give_back` when
the delivery has ended. What is read counts in the `Budget`. Small contents (`SMALL`) are read at once, so that their number
is bounded by the scheduler's slots; a larger one waits in line until its destination has less than a fourth of
what is free. So large messages for hosts that do not answer cannot use all memory up, nor keep those for others out.

Invariants: what was counted is given back once. No deadlock: while nothing is held, the first in line is read. The line is
no longer than the scheduler has slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from mailflow.budget import SMALL, Budget
from mailflow.delivery.request import Delivery, Fact, Stage, Trouble
from mailflow.envelope import Content, Message
from mailflow.errors import QueueDamaged
from mailflow.queue import Queue

KEPT_SHARE = 2
"""Content that is kept as it comes in fills half of the budget: it may be all for a host that does not answer, and then
nothing could be read back for the others."""
MEMORY_SHARE = 4
"""A destination may hold a fourth of what is free."""


class ReadBack:
    """See the module's description."""

    def __init__(
        self,
        queue: Queue,
        budget: Budget,
        most: int,
        begin: Callable[[Delivery, Content], None],
        failed: Callable[[Delivery, str], None],
    ) -> None:
        """`most`: bytes above which content stays in a file; `failed` is given a delivery with its facts, and what is
        wrong where the content is damaged."""
        self._queue, self._budget, self._most = queue, budget, most
        self._begin, self._failed = begin, failed
        self._held: dict[str, int] = {}
        """Bytes by destination."""
        self._sizes: dict[Delivery, int] = {}
        """What is counted for each delivery."""
        self._line: list[Delivery] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<ReadBack held={sum(self._held.values())} waiting={len(self._line)}>"

    def keep(self, message: Message) -> None:
        """A new message: its content stays in memory until its first delivery, when there is room. One that waits long does
        not need it there."""
        budget = self._budget
        if not isinstance(message.content, bytes) or budget.used > budget.limit // KEPT_SHARE:
            message.content = None
        else:
            budget.used += message.size

    def release(self, message: Message) -> None:
        """Nothing of the message is in memory any more."""
        if message.content is not None:
            self._budget.used -= message.size
            message.content = None

    def fetch(self, delivery: Delivery) -> None:
        """Reads the content, at once or when there is room for it."""
        if self._may(delivery):
            self._read(delivery)
        else:
            self._line.append(delivery)

    def give_back(self, delivery: Delivery) -> None:
        """The delivery has ended: others may have the memory."""
        self._uncount(delivery)
        line, self._line = self._line, []
        for waiting in line:
            self.fetch(waiting)

    def close(self) -> None:
        """Begins nothing more: what is in line, or on its way, is due at the next start."""
        self._closed = True
        self._line.clear()

    def _may(self, delivery: Delivery) -> bool:
        size = delivery.message.size
        if size <= SMALL or size > self._most or not self._held:
            return True
        held = self._held.get(delivery.recipients[0].destination, 0)
        return held + size <= (self._budget.limit - self._budget.used + held) // MEMORY_SHARE

    def _read(self, delivery: Delivery) -> None:
        size = delivery.message.size if delivery.message.size <= self._most else 0
        destination = delivery.recipients[0].destination
        self._sizes[delivery] = size
        if size:  # what stays in a file holds no memory
            self._held[destination] = self._held.get(destination, 0) + size
            self._budget.used += size
        self._queue.content(delivery.message).add_done_callback(partial(self._fetched, delivery))

    def _uncount(self, delivery: Delivery) -> None:
        size = self._sizes.pop(delivery)
        if not size:
            return
        destination = delivery.recipients[0].destination
        self._held[destination] -= size
        if not self._held[destination]:
            del self._held[destination]
        self._budget.used -= size

    def _fetched(self, delivery: Delivery, load: asyncio.Future[Content]) -> None:
        if self._closed:
            self._uncount(delivery)
            return
        error = None if load.cancelled() else load.exception()
        if load.cancelled() or error is not None:
            trouble = Trouble.DAMAGED if isinstance(error, QueueDamaged) else Trouble.IO_ERROR
            delivery.fail(Fact(Stage.STORE, trouble=trouble))
            self._failed(delivery, str(error) if isinstance(error, QueueDamaged) else "")
        else:
            self._begin(delivery, load.result())
