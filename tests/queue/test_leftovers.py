"""A deletion is durable at once; contents in the database follow, and nothing of them is seen meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mailflow.errors import QueueDamaged, QueueError
from mailflow.queue import Queue, QueueSettings, Selection
from mailflow.store import contents
from mailflow.store.admin import AdminTask, Command
from mailflow.store.check import check
from mailflow.store.leftovers import SMALLEST_STEP, SweepTask
from mailflow.store.offline import open_offline
from mailflow.store.reader import counts
from mailflow.store.schema import connect_read_only, database
from mailflow.store.sqlite import Store
from tests.queue.helpers import make, put, spill, with_queue
from tests.queue.test_compact import swept

MESSAGES = 3 * SMALLEST_STEP


def rows(spool: Path, table: str) -> int:
    with closing(sqlite3.connect(database(spool))) as db:
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def filled(spool: Path) -> list[int]:
    """Messages with small contents, one in a segment, one in a file, and one that stays: the last."""
    ids: list[int] = []

    async def body(queue: Queue) -> None:
        for n in range(MESSAGES):
            message = make(queue, b"x" * n)
            assert await put(queue, message) is None
            ids.append(message.id)
        for content in (b"x" * 300_000, b"", b"stays"):
            message = make(queue, content)
            if not content:
                message.content = await spill(queue, message.id, [b"large" * 1000])
                message.size = 5000
            assert await put(queue, message) is None
            ids.append(message.id)

    with_queue(spool, body)
    return ids


def deleted(spool: Path, ids: list[int]) -> Store:
    """The store after an administrator's deletion, before anything has been swept."""
    store = Store.open(spool, QueueSettings())
    task = AdminTask(Command.DELETE, Selection(ids=tuple(ids)), 0.0)
    while not task.complete:
        task.step(store)
    return store


def test_a_deletion_is_whole_at_every_moment_and_a_crash_in_between_is_taken_up(tmp_path: Path) -> None:
    spool, crashed = tmp_path / "spool", tmp_path / "crashed"
    ids = filled(spool)
    store = deleted(spool, ids[:-1])
    assert rows(spool, "content") == MESSAGES + 1, "small contents are there still, the file's row is not"
    assert rows(spool, "extent") == 0
    assert not any((spool / "content").iterdir())
    assert counts(spool).messages == 1
    assert list(check(spool, full=True)) == []
    with closing(connect_read_only(spool)) as db:
        assert "not in the queue" in str(contents.read(db, spool, ids[:1])[ids[0]])
    sweep = SweepTask()
    sweep.step(store)
    assert 0 < rows(spool, "leftover") < MESSAGES
    assert list(check(spool, full=True)) == []
    shutil.copytree(spool, crashed)
    store.close(store.high_water)

    async def body(queue: Queue) -> None:
        await swept(queue)
        assert rows(crashed, "content") == 1
        assert rows(crashed, "leftover") == 0
        stays = make(queue)
        stays.id = ids[-1]
        assert await queue.content(stays) == b"stays"

    with_queue(crashed, body)
    assert list(check(crashed, full=True)) == []


@pytest.mark.usefixtures("tables_only")
def test_mail_goes_on_while_contents_are_swept_and_all_of_them_go(tmp_path: Path) -> None:
    ids = filled(tmp_path)

    async def body(queue: Queue) -> None:
        await queue.delete(Selection(ids=tuple(ids[:10])))
        await queue.delete(Selection(ids=tuple(ids[10:-1])))
        for n in range(20):
            assert await put(queue, make(queue, b"new %d" % n)) is None
        await swept(queue)
        assert rows(tmp_path, "content") == 21

    with_queue(tmp_path, body)


def test_without_a_server_and_by_compact(tmp_path: Path) -> None:
    ids = filled(tmp_path)
    store = deleted(tmp_path, ids[:10])
    store.close(store.high_water)
    with open_offline(tmp_path) as queue:
        sum(queue.compact())
        assert rows(tmp_path, "content") == MESSAGES + 2 - 10
        queue.delete(Selection(ids=tuple(ids[10:-1])))
        assert rows(tmp_path, "content") == 1


def test_a_content_file_whose_message_leaves_while_it_is_read_is_not_damaged(tmp_path: Path) -> None:
    key = filled(tmp_path)[-2]
    with closing(connect_read_only(tmp_path)) as db:

        def leave(statement: str) -> None:
            """The row has been found when the size is asked for: now the message goes."""
            if "SELECT size" in statement:
                db.set_trace_callback(None)
                with open_offline(tmp_path) as queue:
                    queue.delete(Selection(ids=(key,)))

        db.set_trace_callback(leave)
        answer = contents.read(db, tmp_path, [key])[key]
    assert isinstance(answer, QueueError)
    assert not isinstance(answer, QueueDamaged)
    assert "any more" in str(answer)
