"""Small real things that the queue's tests share."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from mailflow.envelope import Content, Message, Options, Peer, Recipient
from mailflow.errors import QueueError
from mailflow.queue import Queue, QueueSettings, Settlement

T = TypeVar("T")
PEER = Peer("192.0.2.7", 40321, "client.example.org", "client", "ESMTP", "TLSv1.3", "alice")

DEFAULTS: dict[str, Any] = {}
"""Settings of queues that are not given them (fixture `tables_only`)."""


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(
    queue: Queue,
    content: Content = b"Subject: x\r\n\r\nhello\r\n",
    to: tuple[str, ...] = ("smtp:example.net",),
    *,
    sender: str = "s@example.org",
    due: float = 0.0,
    options: Options | None = None,
) -> Message:
    """A message for one recipient at each of the destinations."""
    number = queue.new_id()
    size = len(content) if isinstance(content, bytes) else content.size
    recipients = [Recipient(i, f"r{i}@{d.partition(':')[2]}", d, due=due) for i, d in enumerate(to)]
    extra: dict[str, Any] = {"options": options} if options else {}
    return Message(number, sender, recipients, content, arrived=number / 1e6, size=size, peer=PEER, **extra)


async def called(start: Callable[[Callable[[Any], None]], None]) -> Any:
    """What a callback-style function calls back with."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    start(future.set_result)
    return await future


async def put(queue: Queue, message: Message) -> QueueError | None:
    return await called(lambda done: queue.enqueue(message, done))


async def settle(queue: Queue, message: Message, done: list[Recipient], deferred: Any = (), new: Any = ()) -> Any:
    return await called(lambda call: queue.settle(Settlement(message, done, list(deferred), list(new)), call))


async def spill(queue: Queue, number: int, chunks: list[bytes]) -> Any:
    """Streams a large content as a session does: it waits whenever it is told to."""
    writer = queue.spill(number)
    for chunk in chunks:
        if not writer.write(chunk):
            drained = asyncio.Event()
            writer.on_drain = drained.set
            await drained.wait()
    return await called(writer.finish)


def with_queue(spool: Path, body: Callable[[Queue], Awaitable[T]], clock: Clock | None = None, **settings: Any) -> T:
    """Runs `body` with the queue of a spool open."""

    async def run() -> T:
        queue = await Queue.open(spool, QueueSettings(**DEFAULTS | settings), now=clock or Clock())
        try:
            return await body(queue)
        finally:
            await queue.close()

    return asyncio.run(run())


async def everything(queue: Queue, destination: str = "smtp:example.net", limit: int = 100) -> list[Message]:
    """All of a destination's messages, loaded in slices: those never tried, then the others."""
    found: list[Message] = []
    for retried in (False, True):
        after, complete = None, False
        while not complete:
            part = await queue.load(destination, after, 1e12, limit, retried=retried)
            found += part.messages
            after, complete = part.last, part.complete
    return found


def hide(spool: Path) -> None:
    """Takes all entries out of the index by which recipients are found, behind SQLite's back."""
    with closing(sqlite3.connect(spool / "queue.db", isolation_level=None)) as db:
        rows = db.execute("SELECT * FROM recipient").fetchall()
        entry = db.execute("SELECT * FROM sqlite_schema WHERE name = 'recipient_due'").fetchone()
        db.execute("DELETE FROM recipient")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("DELETE FROM sqlite_schema WHERE name = 'recipient_due'")
        db.execute("PRAGMA writable_schema = RESET")
        db.executemany(f"INSERT INTO recipient VALUES ({','.join('?' * len(rows[0]))})", rows)
        db.execute("PRAGMA writable_schema = ON")
        db.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", entry)
        db.execute("PRAGMA writable_schema = RESET")
