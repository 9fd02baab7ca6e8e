"""Messages that a hook must see: the intake put between the sessions and the flow when a program asks for it.

`Collecting` keeps a message in memory until the stage at its end has been passed, and hands it on then, with the envelope
as it is by then; a hook reads it and may replace it. `Telling` tells a program of each message that is safe on disk.
Neither is made without a hook that needs it: messages go from the session to the flow as they come.

Invariants: the bytes kept by all `Collected` together stay within the budget, but for one message when it is the only
one; what is kept is given back by exactly one of `finish` and `abort`. A queue id is given when the message is handed on.
"""

from __future__ import annotations

from collections.abc import Callable

from mailflow.budget import Budget, keep
from mailflow.envelope import InboundEnvelope
from mailflow.ingress.ports import Incoming, Intake
from mailflow.smtp.reply import Reply, reply
from mailflow.submission import message_bytes

NO_MEMORY = reply(452, "4.3.1", "Insufficient memory for this message now, try again later")

Answer = Callable[[Reply], None]
Tell = Callable[[str, InboundEnvelope, Callable[[], None]], None]
"""(queue id, envelope, what to call when it has been told)."""


class Collected:
    """One message, kept in memory."""

    __slots__ = ("_budget", "_chunks", "_intake", "_size", "envelope", "on_drain", "overflow")

    def __init__(self, intake: Intake, budget: Budget, envelope: InboundEnvelope) -> None:
        self._intake = intake
        self._budget = budget
        self._chunks: list[bytes | bytearray] = []
        self._size = 0
        self.envelope = envelope
        self.on_drain: Callable[[], None] | None = None
        self.overflow = False
        """There was no room for it: what it was is lost, and it must be refused with `NO_MEMORY`."""

    def __repr__(self) -> str:
        return f"<Collected size={self._size}{' overflow' if self.overflow else ''}>"

    @property
    def queue_id(self) -> str:
        """None yet."""
        return ""

    def write(self, chunk: bytes) -> bool:
        """Keeps the next bytes; never says stop: a message for which there is no room is refused, not held up."""
        if not self.overflow:
            budget, size = self._budget, len(chunk)
            if budget.used + size > budget.limit and budget.used > self._size:
                self.overflow = True
                self._forget()
            else:
                keep(self._chunks, chunk)
                self._size += size
                budget.used += size
        return True

    def content(self) -> bytes:
        """All of it, so far."""
        if len(self._chunks) != 1:
            self._chunks = [b"".join(self._chunks)]
        return bytes(self._chunks[0])

    def replace(self, content: bytes, limit: int) -> None:
        """Puts another content in its place; line ends become CR LF, but in a binary message.

        Raises TypeError when it is not bytes, ValueError when it is longer than `limit` bytes.
        """
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise TypeError(f"the new content is {type(content).__name__}, not bytes")
        content = bytes(content)
        if self.envelope.options.body != "BINARYMIME":
            content = message_bytes(content)
        if len(content) > limit:
            raise ValueError(f"the new content is larger than limits.message_size ({limit} bytes)")
        self._forget()
        self._chunks = [content]
        self._size = len(content)
        self._budget.used += self._size

    def finish(self, done: Answer) -> None:
        """Hands the message on."""
        incoming = NO_MEMORY if self.overflow else self._intake.begin(self.envelope)
        if isinstance(incoming, Reply):
            self._forget()
            done(incoming)
            return
        content = self.content()
        self._forget()
        if content:
            incoming.write(content)
        incoming.finish(done)

    def abort(self) -> None:
        """Nothing of it stays."""
        self._forget()

    def _forget(self) -> None:
        self._budget.used -= self._size
        self._chunks, self._size = [], 0


class Collecting:
    """An intake that keeps each message until its end."""

    def __init__(self, intake: Intake, limit: int, room: Callable[[int], Reply | None]) -> None:
        """`limit`: bytes, of all messages together; `room`: as `Intake.room`."""
        self._intake = intake
        self._budget = Budget(limit)
        self.room = room

    def __repr__(self) -> str:
        return f"<Collecting {self._budget}>"

    def begin(self, envelope: InboundEnvelope) -> Incoming | Reply:
        """A message to keep, or a refusal because there are too many."""
        return NO_MEMORY if self._budget.exhausted() else Collected(self._intake, self._budget, envelope)


class Told:
    """One message of which a program is told when it is safe."""

    __slots__ = ("_incoming", "_tell")

    def __init__(self, incoming: Incoming, tell: Tell) -> None:
        self._incoming = incoming
        self._tell = tell

    @property
    def on_drain(self) -> Callable[[], None] | None:
        """The intake's."""
        return self._incoming.on_drain

    @on_drain.setter
    def on_drain(self, call: Callable[[], None] | None) -> None:
        self._incoming.on_drain = call

    @property
    def envelope(self) -> InboundEnvelope:
        """The intake's."""
        return self._incoming.envelope

    @envelope.setter
    def envelope(self, envelope: InboundEnvelope) -> None:
        self._incoming.envelope = envelope

    @property
    def queue_id(self) -> str:
        """The intake's."""
        return self._incoming.queue_id

    def write(self, chunk: bytes) -> bool:
        """Passes bytes on."""
        return self._incoming.write(chunk)

    def finish(self, done: Answer) -> None:
        """The client hears its 250 when the program has been told."""
        self._incoming.finish(lambda answer: self._answered(answer, done))

    def abort(self) -> None:
        """Nothing to tell."""
        self._incoming.abort()

    def _answered(self, answer: Reply, done: Answer) -> None:
        if answer.code >= 400:
            done(answer)
        else:
            self._tell(self.queue_id, self.envelope, lambda: done(answer))


class Telling:
    """An intake that tells of every message that is safe."""

    def __init__(self, intake: Intake, tell: Tell) -> None:
        self._intake = intake
        self._tell = tell
        self.room = intake.room

    def __repr__(self) -> str:
        return f"<Telling {self._intake}>"

    def begin(self, envelope: InboundEnvelope) -> Incoming | Reply:
        """A message on its way in."""
        incoming = self._intake.begin(envelope)
        return incoming if isinstance(incoming, Reply) else Told(incoming, self._tell)
