"""Messages with many recipients in memory, and for one destination only as many as can soon be delivered (wish 37).

A message's `recipients` are those in memory. Above `few` of them it is a crowd: then their numbers are kept here and
`Message.recipients` is empty, so that what enters or leaves costs its own size, however many there are. `flow` has
`join` say which recipients of a slice are new in memory, tells `ended` when their attempt is over, and `leave` when they have
left memory. Memory then holds of crowds, for each destination, what is under way and about as many again, so the next ones
are read while these are being delivered, and the destination's window is full until the end. What waits for its
transaction only is not counted there, or a slow disk would empty the window, but has a bound of its own.

Pure bookkeeping; a number for each recipient, an entry for each destination of a crowd.
"""

from __future__ import annotations

from mailflow.envelope import Message, Recipient

SLICE = 200
"""Recipients of a slice from disk, at most, but for a crowd: then it is half of what memory holds of one."""
WINDOWS = 4
"""Of crowds, memory holds for each destination so many times what may be under way there."""
ENDED = 5
"""Recipients of crowds may wait for their transaction up to so many times as many as may wait for one destination."""


class _Crowd:
    """The numbers of one message's recipients in memory."""

    __slots__ = ("ended", "here")

    def __init__(self) -> None:
        self.here: set[int] = set()
        """Waiting or under way."""
        self.ended: set[int] = set()
        """Their attempt is over, its transaction is not on disk yet."""


class Crowds:
    """See the module's description."""

    __slots__ = ("_at", "_crowds", "_ended", "few", "most")

    def __init__(self, few: int, window: int) -> None:
        """`few`: recipients in one delivery, up to which a message is no crowd; `window`: deliveries under way to one
        destination, at most."""
        self.few = few
        self.most = WINDOWS * window * few
        """Recipients of crowds for one destination from which on no more are fetched."""
        self._crowds: dict[int, _Crowd] = {}
        """By message id."""
        self._at: dict[str, int] = {}
        """Recipients of crowds that wait or are under way, by destination."""
        self._ended = 0

    def __len__(self) -> int:
        return len(self._crowds)

    def __repr__(self) -> str:
        return f"<Crowds messages={len(self._crowds)} recipients={sum(self._at.values())} ended={self._ended}>"

    def slice(self, destination: str, room: int) -> int:
        """How many recipients may come from disk at once, when memory has room for `room` jobs of this destination."""
        at = self._at.get(destination, 0)
        if at >= self.most or self._ended >= ENDED * self.most:
            return 0
        return min(max(SLICE, self.most // 2) if at else SLICE, room)

    def missing(self, message: Message, recipients: list[Recipient]) -> list[Recipient]:
        """Those of the message's recipients that are not in memory."""
        crowd = self._crowds.get(message.id)
        if crowd is None:
            known = {r.number for r in message.recipients}
            return [r for r in recipients if r.number not in known]
        return [r for r in recipients if r.number not in crowd.here and r.number not in crowd.ended]

    def join(self, message: Message, recipients: list[Recipient]) -> None:
        """They are in memory from now on, and were not. The lists may be those of deliveries: none is changed."""
        crowd = self._crowds.get(message.id)
        if crowd is None:
            both = message.recipients + recipients
            if len(both) <= self.few:
                message.recipients = both
                return
            crowd = self._crowds[message.id] = _Crowd()
            message.recipients, recipients = [], both
        crowd.here.update([r.number for r in recipients])
        for r in recipients:
            self._at[r.destination] = self._at.get(r.destination, 0) + 1

    def ended(self, message: Message, recipients: list[Recipient]) -> None:
        """Their attempt is over, so others may come; they leave when that is on disk."""
        crowd = self._crowds.get(message.id)
        for r in recipients if crowd else ():
            if self._depart(crowd, r):  # type: ignore[arg-type]
                crowd.ended.add(r.number)  # type: ignore[union-attr]
                self._ended += 1

    def leave(self, message: Message, recipients: list[Recipient]) -> bool:
        """They are not in memory any more. Whether others of the message are."""
        crowd = self._crowds.get(message.id)
        if crowd is None:
            numbers = {r.number for r in recipients}
            message.recipients = [r for r in message.recipients if r.number not in numbers]
            return bool(message.recipients)
        for r in recipients:
            if r.number in crowd.ended:
                crowd.ended.remove(r.number)
                self._ended -= 1
            else:
                self._depart(crowd, r)
        if crowd.here or crowd.ended:
            return True
        del self._crowds[message.id]
        return False

    def _depart(self, crowd: _Crowd, recipient: Recipient) -> bool:
        if recipient.number not in crowd.here:
            return False
        crowd.here.remove(recipient.number)
        left = self._at[recipient.destination] - 1
        if left:
            self._at[recipient.destination] = left
        else:
            del self._at[recipient.destination]
        return True
