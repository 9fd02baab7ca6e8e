"""Messages with so many recipients for one destination that only some of them are in memory (wish 37).

`flow` notes them as it takes recipients into memory, and asks before it fetches more. Memory then holds what is under way
and about as many again, so the next ones are read while these are being delivered, and the destination's
window is full until the end. Pure bookkeeping; one entry for each destination with such a message.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailflow.envelope import Message, Recipient


class Crowds:
    """See the module's description."""

    __slots__ = ("_active", "_messages", "most")

    def __init__(self, active: Mapping[int, Message], most: int) -> None:
        """`active`: messages with recipients in memory, by id; `most`: recipients of a message for one destination
        from which on no more are fetched."""
        self._active = active
        self._messages: dict[str, int] = {}
        self.most = most

    def __len__(self) -> int:
        return len(self._messages)

    def __repr__(self) -> str:
        return f"<Crowds destinations={len(self._messages)}>"

    def note(self, destination: str, message: Message) -> None:
        """This message may have many recipients there in memory."""
        self._messages[destination] = message.id

    def full(self, destination: str) -> bool:
        """Whether a message has enough recipients there in memory for now."""
        message = self._active.get(self._messages.get(destination, 0))
        if message is not None and len(message.recipients) >= self.most:
            return sum(r.destination == destination for r in message.recipients) >= self.most
        self._messages.pop(destination, None)
        return False


def without(recipients: list[Recipient], leaving: list[Recipient], step: int) -> list[Recipient]:
    """What is left of a message's recipients in memory when some leave.

    Above `step` recipients, which no delivery has, the list is nobody else's and is changed in place, from the front:
    who entered first leaves first, as a rule, so that the cost does not grow with the list.
    """
    numbers = {r.number for r in leaving}
    if len(recipients) <= step:
        return [r for r in recipients if r.number not in numbers]
    at = 0
    while numbers and at < len(recipients):
        if recipients[at].number in numbers:
            numbers.remove(recipients.pop(at).number)
        else:
            at += 1
    return recipients
