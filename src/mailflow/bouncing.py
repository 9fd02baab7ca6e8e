"""From reports to a bounce in the queue: whether one is due, its text, its own envelope.

The text is written by `bounce.py`. The bounce is a message like any other but for its null sender; it enters the queue
in the same transaction in which the failed recipients leave it. `make` may have to fetch the content first (the
recipient expired without an attempt, or the content is in a file), so its result is called back: a list with the
bounce, or an empty one when it has nowhere to go, which is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from mailflow.bounce import BounceSettings, bounce, bounce_options, notable
from mailflow.cleanup import Cleaned, Cleaner
from mailflow.envelope import Content, ContentFile, Message, Peer, Recipient
from mailflow.ids import format_id
from mailflow.observe.log import EventLog, Level
from mailflow.queue import Queue
from mailflow.report import DeliveryReport
from mailflow.rewrite import Refusal, Resolver

HEAD_BYTES = 256 * 1024
"""How much of a content file is read for the header that a bounce returns."""
PEER = Peer(protocol="bounce")

Made = Callable[[list[Message]], None]


class Bouncing:
    """Makes bounces."""

    def __init__(
        self,
        settings: BounceSettings,
        *,
        hostname: str,
        queue: Queue,
        resolver: Resolver,
        cleaner: Cleaner,
        log: EventLog,
        now: Callable[[], float],
    ) -> None:
        self._settings, self._hostname = settings, hostname
        self._queue, self._resolver, self._cleaner = queue, resolver, cleaner
        self._log, self._now = log, now

    def notable(self, message: Message, reports: list[DeliveryReport]) -> list[DeliveryReport]:
        """The reports that the sender is to hear of; mostly none."""
        return notable(message, reports, self._hostname, self._settings)

    def make(self, message: Message, content: Content | None, reports: list[DeliveryReport], made: Made) -> None:
        """Calls `made` with the bounce for these reports, in a list; at once when the content is in memory."""
        if isinstance(content, bytes) and content:
            made(self._bounce(message, reports, content, complete=True))
            return
        fetched = self._queue.content(message) if content is None else _ready(content)
        fetched.add_done_callback(partial(self._fetched, message, reports, made))

    def _fetched(
        self, message: Message, reports: list[DeliveryReport], made: Made, load: asyncio.Future[Content]
    ) -> None:
        if load.cancelled() or load.exception() is not None:  # damaged: its sender still hears of it
            made(self._bounce(message, reports, b"", complete=False))
            return
        content = load.result()
        if isinstance(content, bytes):
            made(self._bounce(message, reports, content, complete=True))
            return
        read = asyncio.get_running_loop().run_in_executor(None, _head, content)
        read.add_done_callback(
            lambda read: made(
                self._bounce(message, reports, b"" if read.exception() else read.result(), complete=False)
            )
        )

    def _bounce(
        self, message: Message, reports: list[DeliveryReport], content: bytes, *, complete: bool
    ) -> list[Message]:
        number, now = self._queue.new_id(), self._now()
        queue_id = format_id(number)
        route = self._resolver.resolve(message.sender)
        if isinstance(route, Refusal):
            self._log.event(
                "warning", Level.WARNING, id=message.queue_id, to=message.sender, reason=f"no bounce sent: {route.text}"
            )
            return []
        text = bounce(
            message,
            reports,
            content,
            settings=self._settings,
            hostname=self._hostname,
            queue_id=queue_id,
            now=now,
            complete=complete,
        )
        cleaned = self._cleaner.clean(
            text, peer=PEER, queue_id=queue_id, sender="", recipient=route.recipient, now=now, trusted=True
        )
        whole = cleaned.prefix + cleaned.head if isinstance(cleaned, Cleaned) else text
        recipient = Recipient(0, route.recipient, route.destination, due=now)
        options = bounce_options(message, text)
        self._log.event("received", id=queue_id, from_="", size=len(whole), client="bounce", orig_id=message.queue_id)
        return [Message(number, "", [recipient], whole, arrived=now, size=len(whole), peer=PEER, options=options)]


def _ready(content: Content) -> asyncio.Future[Content]:
    future: asyncio.Future[Content] = asyncio.get_running_loop().create_future()
    future.set_result(content)
    return future


def _head(content: ContentFile) -> bytes:
    with content.path.open("rb") as file:
        return file.read(min(HEAD_BYTES, content.size))
