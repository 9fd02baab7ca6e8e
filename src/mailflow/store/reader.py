"""Reading the queue from outside: for the command line, without asking the server (wish 51).

It works while a server runs, when none does, and after one was killed. It writes nothing, but for what a killed server left in
its redo log: that is put into the tables first, with the spool's lock. It takes no lock that a running server waits for, because every look is a short read transaction of a bounded number of messages. A message that enters or
leaves while a listing runs may or may not appear in it; every other appears exactly once.

Who reads needs write access to the spool folder when the server is not running, for SQLite puts its shared index
(`queue.db-shm`) there. An absent queue is a QueueError, an empty one lists nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from mailflow.envelope import ContentFile
from mailflow.errors import QueueError
from mailflow.store import query, redo
from mailflow.store.failure import failure
from mailflow.store.lock import is_held
from mailflow.store.schema import connect_read_only, database
from mailflow.store.values import QueueCounts, QueuedMessage

T = TypeVar("T")

LISTING_MESSAGES = 500
"""Messages read in one transaction."""
LISTED_RECIPIENTS = 1000
"""Recipients of one message that a listing shows; `QueuedMessage.remaining` has the whole number."""


def list_messages(
    spool: Path, ids: Sequence[int] | None = None, limit: int | None = None, recipients: int = LISTED_RECIPIENTS
) -> Iterator[QueuedMessage]:
    """The messages in the queue by id, that is by arrival: all, or those of `ids` that are there, at most `limit`.

    Raises QueueError when there is no queue, or it cannot be read.
    """
    wanted = sorted(set(ids)) if ids is not None else None
    after, left = -1, limit
    with closing(open_queue(spool)) as db:
        while left is None or left > 0:
            size = LISTING_MESSAGES if left is None else min(LISTING_MESSAGES, left)
            found, after = _asked(spool, partial(_page, db, after, size, wanted, recipients))
            yield from found
            left = None if left is None else left - len(found)
            if after < 0:
                return


def _page(
    db: sqlite3.Connection, after: int, size: int, wanted: list[int] | None, recipients: int
) -> tuple[list[QueuedMessage], int]:
    """One look: the messages found, and where to go on; -1 at the end."""
    if wanted is None:
        found = query.listing(db, after, size, None, recipients)
        return found, found[-1].id if len(found) == size else -1
    asked = [key for key in wanted if key > after][:size]
    return query.listing(db, after, size, asked, recipients), asked[-1] if len(asked) == size else -1


def read_content(spool: Path, id: int) -> bytes:
    """The bytes of a message. Raises QueueError when it is not there, QueueDamaged when it does not match its id."""
    from mailflow.store import contents  # a listing, which starts often, needs none

    with closing(open_queue(spool)) as db:
        content = _asked(spool, lambda: contents.read(db, spool, [id])[id])
    if isinstance(content, QueueError):
        raise content
    if not isinstance(content, ContentFile):
        return content
    try:
        with content.path.open("rb") as stream:
            return stream.read(content.size)
    except OSError as error:
        raise failure(error, str(content.path)) from error


def counts(spool: Path) -> QueueCounts:
    """How much is in the queue. Raises QueueError."""
    with closing(open_queue(spool)) as db:
        return _asked(spool, lambda: query.counts(db))


def open_queue(spool: Path) -> sqlite3.Connection:
    """For reading all that is in the queue. Raises QueueError."""
    db = _asked(spool, lambda: connect_read_only(spool))
    if is_held(spool):  # a server puts its redo log into the tables by itself
        return db
    with suppress(sqlite3.Error, OSError):
        found = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('redo', 'redo_token')"))
        generation, token = found.get("redo"), found.get("redo_token")
        if isinstance(generation, int) and isinstance(token, int) and redo.begun(spool, token, generation):
            from mailflow.store.offline import fold_leftover  # a listing, which starts often, seldom needs it

            fold_leftover(spool, token, generation)
    return db


def _asked(spool: Path, question: Callable[[], T]) -> T:
    try:
        return question()
    except (sqlite3.Error, OSError) as error:
        raise failure(error, str(database(spool))) from error
