"""Space that mail has left is used again, and given back when that is asked for (wish 85)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from mailflow.errors import QueueError
from mailflow.queue import Queue, Selection
from mailflow.store.check import Kind, check
from mailflow.store.offline import open_offline
from mailflow.store.reader import counts
from mailflow.store.schema import database
from tests.queue.helpers import make, put, with_queue

MESSAGES = 600
CONTENT = 6000


async def fill(queue: Queue) -> list[int]:
    """Messages whose contents are in the database."""
    found = []
    for _ in range(MESSAGES // 20):
        batch = [make(queue, os.urandom(CONTENT)) for _ in range(20)]
        await asyncio.gather(*(put(queue, m) for m in batch))
        found += [m.id for m in batch]
    return found


async def swept(queue: Queue) -> None:
    """Waits until nothing is left of deleted messages."""
    async with asyncio.timeout(10):
        while queue._store.leftovers:
            await asyncio.sleep(0.001)


def size(spool: Path) -> int:
    with sqlite3.connect(database(spool)) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.close()
    return int(pages * 8192)


@pytest.mark.usefixtures("tables_only")
def test_beside_mail_and_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailflow.store.compact.FIRST_PAGES", 4)
    monkeypatch.setattr("mailflow.store.compact.MOST_PAGES", 16)

    async def body(queue: Queue) -> None:
        ids = await fill(queue)
        full = size(tmp_path)
        await queue.delete(Selection(ids=tuple(ids[:-20])))
        assert size(tmp_path) == full, "it is kept for the next mail"
        steps = 0
        given = 0
        async for part in queue.compact():
            steps, given = steps + 1, given + part
            await put(queue, make(queue, b"meanwhile"))
        assert steps > 10
        assert given >= (MESSAGES - 40) * CONTENT
        assert size(tmp_path) <= full - given + 100 * steps + 500_000
        assert (await queue.counts()).messages == 20 + steps
        for key in ids[-20:]:
            message = make(queue)
            message.id = key
            assert len(await queue.content(message)) == CONTENT  # type: ignore[arg-type]

    with_queue(tmp_path, body)
    assert list(check(tmp_path, full=True)) == []


def test_what_is_free_is_used_again(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        sizes = []
        for _ in range(3):
            ids = await fill(queue)
            await queue.delete(Selection(ids=tuple(ids)))
            await swept(queue)
            sizes.append(size(tmp_path))
        assert sizes[2] <= sizes[0] * 1.05

    with_queue(tmp_path, body)


def test_without_a_server_and_a_database_of_an_older_layout(tmp_path: Path) -> None:
    async def delete_most(queue: Queue) -> None:
        ids = await fill(queue)
        await queue.delete(Selection(ids=tuple(ids[:-20])))

    with_queue(tmp_path, delete_most)
    with sqlite3.connect(database(tmp_path), isolation_level=None) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        pages = db.execute("PRAGMA freelist_count").fetchone()[0]
        db.execute("CREATE TABLE filler (data BLOB)")
        db.execute("VACUUM")  # the layout changes with this only
        db.execute("INSERT INTO filler VALUES (zeroblob(?))", (pages * 8192,))
        db.execute("DROP TABLE filler")
    db.close()

    async def refuse(queue: Queue) -> None:
        with pytest.raises(QueueError, match="stop the server"):
            async for _ in queue.compact():
                pass

    with_queue(tmp_path, refuse)
    before = size(tmp_path)
    with open_offline(tmp_path) as queue:
        given = sum(queue.compact())
    assert given >= (MESSAGES - 40) * CONTENT
    assert size(tmp_path) == before - given
    assert database(tmp_path).stat().st_size == size(tmp_path)
    assert counts(tmp_path).messages == 20
    with_queue(tmp_path, lambda queue: _compact(queue))
    assert list(check(tmp_path, full=True)) == []


async def _compact(queue: Queue) -> None:
    assert [part async for part in queue.compact()][-1] >= 0


def test_no_room_for_the_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mailflow.store.compact import rewrite
    from mailflow.store.settings import QueueSettings
    from mailflow.store.sqlite import Store

    with_queue(tmp_path, fill)
    monkeypatch.setattr("mailflow.store.compact.COPIES", 10**12)
    store = Store.open(tmp_path, QueueSettings())
    try:
        with pytest.raises(QueueError, match="bytes free for its copies"):
            rewrite(store)
    finally:
        store.close(store.high_water)


async def scattered(queue: Queue) -> dict[int, bytes]:
    """Many small messages, of which every second leaves; those that stay, with their contents."""
    stay: dict[int, bytes] = {}
    leave: list[int] = []
    for start in range(0, 4 * MESSAGES, 40):
        batch = [make(queue, os.urandom(500 + n)) for n in range(start, start + 40)]
        await asyncio.gather(*(put(queue, m) for m in batch))
        for n, message in enumerate(batch):
            if n % 2:
                leave.append(message.id)
            else:
                stay[message.id] = message.content  # type: ignore[assignment]
    await queue.delete(Selection(ids=tuple(leave)))
    return stay


def test_pages_with_gaps_are_filled_again_and_every_content_is_what_it_was(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        stay = await scattered(queue)
        await swept(queue)
        before, given = size(tmp_path), 0
        async for part in queue.compact():
            given += part
            assert not [f for f in check(tmp_path) if f.kind is not Kind.DATABASE]
        assert size(tmp_path) <= before - given + 50_000
        assert given > 0.7 * sum(map(len, stay.values())), "as much left as stays"
        for key, content in stay.items():
            message = make(queue)
            message.id = key
            assert await queue.content(message) == content

    with_queue(tmp_path, body)
    assert list(check(tmp_path, full=True)) == []


def test_a_table_without_gaps_is_not_written_anew(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        for start in range(0, 16_000, 1000):
            await asyncio.gather(*(put(queue, make(queue, b"x" * 1000)) for _ in range(start, start + 1000)))

    with_queue(tmp_path, body)
    moved: list[str] = []
    with open_offline(tmp_path) as queue:
        store = queue._store
        store.db.set_trace_callback(
            lambda sql: moved.append(sql) if sql.startswith("DELETE FROM content WHERE id >") else None
        )
        assert sum(queue.compact()) < 100_000
        store.db.set_trace_callback(None)
    assert 1 < len(moved) < 16, "of 80 steps"
