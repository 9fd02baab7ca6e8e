"""Taking a message's content in: in memory while it is small, streamed to a file when it is large.

`Flow.begin` makes an `Incoming` at DATA; the session writes the content as it arrives and ends with `finish` or
`abort`. As soon as the content is larger than the threshold, what is there is cleaned up (its header is complete by
then, or too large) and goes to a content file of the queue, and so does all that follows: memory stays bounded, and
`write` tells the session when to pause. When many messages fill the `Budget`, the threshold is lowered to `SMALL`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mailflow.budget import SMALL, keep
from mailflow.envelope import HELD, Content, ContentFile, InboundEnvelope, Message, Recipient
from mailflow.errors import QueueError
from mailflow.flow_parts import FlowParts
from mailflow.queue import ContentWriter
from mailflow.smtp.reply import Reply

Answer = Callable[[Reply], None]
Accept = Callable[[Message, Answer], None]


class Incoming:
    """One message on its way in."""

    __slots__ = (
        "_accept",
        "_budget",
        "_chunks",
        "_file",
        "_now",
        "_parts",
        "_refusal",
        "_size",
        "envelope",
        "id",
        "on_drain",
        "queue_id",
    )

    def __init__(
        self, parts: FlowParts, accept: Accept, envelope: InboundEnvelope, id: int, queue_id: str, now: float
    ) -> None:
        """`accept` takes the complete message (`Flow.accept`); `now`: seconds since 1970."""
        self.id = id
        self.queue_id = queue_id
        self._accept = accept
        self._parts = parts
        self.envelope = envelope
        self._now = now
        self._budget = parts.budget
        self._chunks: list[bytes | bytearray] = []
        self._size = 0
        self._file: ContentWriter | None = None
        self._refusal: Reply | None = None
        self.on_drain: Callable[[], None] | None = None
        """Called when `write` may be called again after it returned False."""

    def __repr__(self) -> str:
        return f"<Incoming {self.queue_id} size={self._size} {'file' if self._file else 'memory'}>"

    def write(self, chunk: bytes) -> bool:
        """Takes the next bytes of the content. False: pause until `on_drain` is called."""
        if self._file is not None:
            return self._file.write(chunk)
        if self._refusal is not None:
            return True  # the rest of a refused message is not kept
        size = len(chunk)
        keep(self._chunks, chunk)
        self._budget.used += size
        self._size = size = self._size + size
        if size <= SMALL:
            return True
        if size <= self._parts.threshold and not self._budget.exhausted():
            return True
        return self._spill()

    def finish(self, done: Answer) -> None:
        """The content is complete. `done` is called once with what the client hears: at once, or after the commit."""
        if self._file is not None:
            self._file.finish(lambda result: self._written(result, done))
            return
        try:
            parts = self._refusal or self._cleaned(complete=True)
        finally:
            self._forget_chunks()
        if isinstance(parts, Reply):
            done(parts)
        else:
            content = b"".join(parts)
            self._accept(self._message(content, len(content)), done)

    def abort(self) -> None:
        """The client went away, or the message was refused: nothing of it stays."""
        self._forget_chunks()
        if self._file is not None:
            self._file.abort()

    def _cleaned(self, *, complete: bool) -> Reply | tuple[bytes | bytearray, ...]:
        """What is there, with Received: in front, as pieces to be joined; or why it is refused."""
        envelope, chunks = self.envelope, self._chunks
        recipients = envelope.recipients
        first = bytes(chunks[0]) if chunks else b""
        rest = chunks[1:] if len(chunks) > 1 else ()
        if rest and b"\r\n\r\n" not in first:  # the header came in several pieces
            first, rest = b"".join(chunks), ()
        cleaned = self._parts.cleaner.clean(
            first,
            peer=envelope.peer,
            queue_id=self.queue_id,
            sender=envelope.sender,
            recipient=recipients[0].address if len(recipients) == 1 else "",
            now=self._now,
            trusted=envelope.trusted,
            complete=complete,
        )
        if isinstance(cleaned, Reply):
            return cleaned
        if envelope.header:
            received, head = cleaned
            return (received, envelope.header, head, *rest)
        return (*cleaned, *rest) if rest else cleaned

    def _spill(self) -> bool:
        """Too large for memory: the content goes to a file from here on."""
        parts = self._cleaned(complete=False)
        self._forget_chunks()
        if isinstance(parts, Reply):
            self._refusal = parts
            return True
        self._file = self._parts.queue.spill(self.id)
        self._file.on_drain = lambda: self.on_drain and self.on_drain()
        return self._file.write(b"".join(parts))

    def _written(self, result: ContentFile | QueueError, done: Answer) -> None:
        if isinstance(result, QueueError):
            code, status, text = result.reply
            done(Reply(code, status, (text,)))
        else:
            self._accept(self._message(result, result.size), done)

    def _message(self, content: Content, size: int) -> Message:
        envelope, now = self.envelope, self._now
        recipients = envelope.recipients
        if len(recipients) > 1:  # who is named twice gets one copy
            # the shorter key, for there may be a million of them
            recipients = list({(r.address, r.original) if r.original else r.address: r for r in recipients}.values())
            for number, recipient in enumerate(recipients):
                recipient.number = number
        for recipient in recipients:
            recipient.due = now
        options = envelope.options
        if envelope.release > now:
            options = replace(options, release=envelope.release)
            _put_off(recipients, envelope.release, "the sender asked for a later delivery")
        if envelope.hold:
            _put_off(recipients, HELD, envelope.hold)
        return Message(
            self.id,
            envelope.sender,
            recipients,
            content,
            arrived=now,
            size=size,
            peer=envelope.peer,
            options=options,
            queue_id=self.queue_id,
        )

    def _forget_chunks(self) -> None:
        self._budget.used -= self._size
        self._chunks.clear()
        self._size = 0


def _put_off(recipients: list[Recipient], due: float, reason: str) -> None:
    """No delivery yet: they wait among the deferred, as if an attempt had been made."""
    for recipient in recipients:
        recipient.due, recipient.attempts, recipient.reason = due, 1, reason
