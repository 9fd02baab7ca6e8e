"""What the Python API gives for a message: a `Receipt`, on which the caller can wait for the outcome (wish 73).

`Receipts` is told by the flow of every outcome that is on disk and passes it to the receipts that somebody still holds;
the others cost nothing. After a restart nobody waits any more: the log and the queue tell.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable
from dataclasses import dataclass

from mailflow.envelope import Message
from mailflow.report import Action, DeliveryReport


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a message: the last outcome for each of its recipients."""

    queue_id: str
    recipients: tuple[DeliveryReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every recipient was delivered or relayed."""
        return all(r.action in (Action.DELIVERED, Action.RELAYED) for r in self.recipients)

    @property
    def failed(self) -> tuple[DeliveryReport, ...]:
        """The recipients that will not get it."""
        return tuple(r for r in self.recipients if r.action is Action.FAILED)


class Receipt:
    """A message that is durable in the queue."""

    def __init__(self, queue_id: str, recipients: list[str]) -> None:
        self.queue_id = queue_id
        self.reports: dict[int, DeliveryReport] = {}
        """The last outcome by recipient number; "delayed" ones are replaced by later ones."""
        self._numbers = {address: number for number, address in enumerate(recipients)}
        self._final: asyncio.Future[Report] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Receipt {self.queue_id} {len(self.reports)}/{len(self._numbers)}>"

    async def wait(self, timeout: float | None = None) -> Report:  # noqa: ASYNC109 -- the form that callers of wait_for know
        """Waits until every recipient is delivered, relayed or failed. Raises TimeoutError after `timeout` seconds;
        the message stays in the queue then and `wait` may be called again."""
        return await asyncio.wait_for(asyncio.shield(self._final), timeout)

    def add(self, reports: Iterable[DeliveryReport]) -> None:
        """Takes outcomes in; called by `Receipts`."""
        for report in reports:
            self.reports[self._numbers[report.original]] = report
        final = len(self.reports) == len(self._numbers) and all(
            r.action is not Action.DELAYED for r in self.reports.values()
        )
        if final and not self._final.done():
            ordered = tuple(self.reports[number] for number in sorted(self.reports))
            self._final.set_result(Report(self.queue_id, ordered))


class Receipts:
    """The receipts that callers still hold."""

    def __init__(self) -> None:
        self._open: weakref.WeakValueDictionary[str, Receipt] = weakref.WeakValueDictionary()
        self._asked = False
        """Whether there ever was a receipt: most servers have no program around them."""

    def open(self, queue_id: str, recipients: list[str]) -> Receipt:
        """A receipt for a message that is about to be queued; `recipients`: the addresses as they were given."""
        self._asked = True
        receipt = self._open[queue_id] = Receipt(queue_id, recipients)
        return receipt

    def reported(self, message: Message, reports: list[DeliveryReport]) -> None:
        """Outcomes that are on disk; called by the flow."""
        if self._asked and (receipt := self._open.get(message.queue_id)) is not None:
            receipt.add(reports)
