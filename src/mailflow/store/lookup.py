"""The one thread that reads for the event loop, with a connection of its own that cannot write.

`Lookups.ask(question)` puts a question about the database; its answer comes as a future. Contents are asked for one by
one and fetched together: what was asked in one turn of the loop, or while the thread was busy, is one query. A reader
sees every commit that was acknowledged before it asked. On an error of the database the connection is opened anew
for the next question.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar

from mailflow.envelope import Content
from mailflow.errors import QueueError
from mailflow.store import contents, query
from mailflow.store.failure import failure
from mailflow.store.schema import connect_read_only, database

T = TypeVar("T")
Question: TypeAlias = Callable[[sqlite3.Connection], Any]

DESTINATIONS_AT_ONCE = 5000
"""Destinations in one answer, at most, when all of them are asked for."""
CONTENTS_AT_ONCE = 64
"""Contents fetched with one query, to bound memory: the rest waits for the next."""


class Lookups:
    """Questions from the loop, answered by a thread."""

    def __init__(self, spool: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._spool = spool
        self._loop = loop
        self._inbox: SimpleQueue[tuple[Question, Callable[[Any], None]] | None] = SimpleQueue()
        self._wanted: dict[int, list[asyncio.Future[Content]]] = {}
        self._fetching = False
        self._closed = False
        self._db: sqlite3.Connection | None = None
        self._thread = Thread(target=self._work, name="mailflow-read", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Lookups contents_wanted={len(self._wanted)}>"

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """The future answer; it raises QueueError when the queue cannot be read."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(QueueError("the queue is closed"))
            return future
        self._inbox.put((question, lambda answer: resolve(future, answer)))
        return future

    def content(self, id: int) -> asyncio.Future[Content]:
        """The future content of a message; raises QueueDamaged, or QueueError when it is not there."""
        future: asyncio.Future[Content] = self._loop.create_future()
        if self._closed:
            future.set_exception(QueueError("the queue is closed"))
            return future
        if not self._wanted and not self._fetching:
            self._loop.call_soon(self._fetch)
        self._wanted.setdefault(id, []).append(future)
        return future

    async def close(self) -> None:
        """Answers what was asked, then ends the thread."""
        while self._wanted or self._fetching:
            await asyncio.wait([f for futures in self._wanted.values() for f in futures] or [self.ask(_nothing)])
        self._closed = True
        self._inbox.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _fetch(self) -> None:
        ids = list(self._wanted)[:CONTENTS_AT_ONCE]
        if self._fetching or not ids:
            return
        self._fetching = True
        asked = {key: self._wanted.pop(key) for key in ids}

        def fetched(answer: Any) -> None:
            self._fetching = False
            if self._wanted:
                self._fetch()
            for key, futures in asked.items():
                for future in futures:
                    resolve(future, answer if isinstance(answer, QueueError) else answer[key])

        self._inbox.put((lambda db: contents.read(db, self._spool, ids), fetched))

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None:
            question, tell = item
            try:
                answer = question(self._connection())
            except Exception as error:  # noqa: BLE001 -- the border: the asker gets it as a QueueError
                self._disconnect()
                answer = failure(error, str(database(self._spool)))
            try:
                self._loop.call_soon_threadsafe(tell, answer)
            except RuntimeError:  # the loop was closed under us: nobody is left to be answered
                break
        self._disconnect()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect_read_only(self._spool)
        return self._db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def _nothing(_db: sqlite3.Connection) -> None:
    return None


def resolve(future: asyncio.Future[Any], answer: Any) -> None:
    """Answers with a result, or with an exception."""
    if future.done():  # cancelled meanwhile
        return
    if isinstance(answer, QueueError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def pass_on(answer: asyncio.Future[T], of: Callable[[T], T], found: asyncio.Future[T]) -> None:
    """`answer` is answered with what `of` makes of what was found."""
    if found.cancelled():
        answer.cancel()
    else:
        resolve(answer, found.exception() or of(found.result()))


async def destinations(
    ask: Callable[[Question], asyncio.Future[Any]],
) -> AsyncGenerator[tuple[str, float | None, float | None], None]:
    """See `Queue.destinations`; `ask` puts a question."""
    after = ""
    while part := await ask(partial(query.destinations, after=after, limit=DESTINATIONS_AT_ONCE)):
        for found in part:
            if found[1:] != (None, None):
                yield found
        after = part[-1][0]
