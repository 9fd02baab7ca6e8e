"""The spool as a whole: lock, format version, ids over restarts, listing from outside."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mailflow.errors import QueueError, QueueLocked
from mailflow.ids import parse_id
from mailflow.queue import Queue, QueueSettings
from mailflow.store.lock import SpoolLock, is_held
from mailflow.store.reader import counts, list_messages, read_content
from mailflow.store.schema import FORMAT
from tests.queue.helpers import PEER, Clock, everything, make, put, settle, spill, with_queue

DRIVER = Path(__file__).with_name("driver.py")


def test_a_second_server_is_refused_by_pid_and_path(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        with pytest.raises(QueueLocked, match=rf"{tmp_path}/lock: .*pid {os.getpid()}"):
            await Queue.open(tmp_path, QueueSettings())

    with_queue(tmp_path, body)
    with_queue(tmp_path, body)  # the lock is free again


@pytest.mark.wish(84)
def test_a_newer_format_is_refused_untouched(tmp_path: Path) -> None:
    async def nothing(queue: Queue) -> None: ...

    with_queue(tmp_path, nothing)
    db = sqlite3.connect(tmp_path / "queue.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(QueueError, match="format 99, written by a newer mailflow"):
        with_queue(tmp_path, nothing)
    with pytest.raises(QueueError, match="format 99"):
        list(list_messages(tmp_path))
    db = sqlite3.connect(tmp_path / "queue.db")
    assert db.execute("PRAGMA user_version").fetchone() == (99,)
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.close()
    with_queue(tmp_path, nothing)  # and the refusal left no lock behind


@pytest.mark.wish(84)
def test_an_older_format_is_read_as_it_is_and_migrated_by_a_server(tmp_path: Path) -> None:
    """Format 1 had contents in the database and in content files only."""
    contents = {}

    async def first(queue: Queue) -> None:
        number = queue.new_id()
        large = make(queue, await spill(queue, number, [b"large" * 1000]))
        large.id = number
        for message in (make(queue, b"small"), large):
            assert await put(queue, message) is None
            contents[message.id] = b"small" if message is not large else b"large" * 1000

    with_queue(tmp_path, first)
    db = sqlite3.connect(tmp_path / "queue.db")
    first_index = "CREATE INDEX recipient_due ON recipient (destination, due, message_id, number)"
    steps = (
        "ALTER TABLE recipient DROP COLUMN envelope_crc",
        "DROP TABLE leftover",
        "DROP TABLE extent",
        "DROP INDEX content_file",
        "DROP INDEX recipient_due",
        first_index,
    )
    for step in (*steps, "PRAGMA user_version = 1"):
        db.execute(step)
    db.close()
    (tmp_path / "segments").rmdir()
    assert {key: read_content(tmp_path, key) for key in contents} == contents

    async def second(queue: Queue) -> None:
        assert await put(queue, make(queue, b"new" * 10_000)) is None
        for message in await everything(queue):
            await settle(queue, message, message.recipients)
        assert await put(queue, make(queue, b"last" * 10_000)) is None

    with_queue(tmp_path, second)
    [message] = list_messages(tmp_path)
    assert read_content(tmp_path, message.id) == b"last" * 10_000
    db = sqlite3.connect(tmp_path / "queue.db")
    assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    (index,) = db.execute("SELECT sql FROM sqlite_schema WHERE name = 'recipient_due'").fetchone()
    db.close()
    assert "attempts > 0" in index


@pytest.mark.wish(84)
def test_format_2_is_read_with_its_segments_before_a_server_has_migrated_it(tmp_path: Path) -> None:
    async def first(queue: Queue) -> None:
        assert await put(queue, make(queue, b"x" * 300_000)) is None

    with_queue(tmp_path, first)
    db = sqlite3.connect(tmp_path / "queue.db")
    assert db.execute("SELECT count(*) FROM extent").fetchone() == (1,)
    db.execute("DROP TABLE leftover")
    db.execute("PRAGMA user_version = 2")
    db.close()
    [message] = list_messages(tmp_path)
    assert read_content(tmp_path, message.id) == b"x" * 300_000


def test_a_file_that_is_no_queue_is_refused(tmp_path: Path) -> None:
    async def nothing(queue: Queue) -> None: ...

    (tmp_path / "queue.db").write_bytes(b"not a database, but something of somebody's" * 300)
    with pytest.raises(QueueError):
        with_queue(tmp_path, nothing)
    assert (tmp_path / "queue.db").read_bytes().startswith(b"not a database")


def test_the_spool_is_private(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        await put(queue, make(queue))
        for path in [spool, *spool.rglob("*")]:
            assert path.stat().st_mode & 0o077 == 0, path

    spool = tmp_path / "deep" / "spool"
    with_queue(spool, body)


@pytest.mark.wish(60)
@pytest.mark.wish(81)
def test_no_id_comes_twice_though_the_clock_steps_back(tmp_path: Path) -> None:
    clock = Clock()
    seen: list[int] = []

    async def session(queue: Queue) -> None:
        for _ in range(3):
            message = make(queue)
            await put(queue, message)
            await settle(queue, message, message.recipients)  # nothing in the tables remembers the id
            seen.append(message.id)

    for step in (0, -3600, 0, +10, -86400):
        clock.now += step
        with_queue(tmp_path, session, clock)
    assert seen == sorted(set(seen))


@pytest.mark.wish(81)
def test_no_id_comes_twice_after_a_crash_with_a_clock_step(tmp_path: Path) -> None:
    # One sender who settles everything: no message in the tables tells how far the ids were.
    words = ("--crash-after", "20", "--senders", "1", "--settle-all", "--clock")
    first = acknowledged(tmp_path, *words, "1800000000")
    second = acknowledged(tmp_path, *words, "1799990000")
    third = acknowledged(tmp_path, *words, "1800000500")
    assert max(first) < min(second) <= max(second) < min(third)
    assert min(second) - max(first) <= 61_000_000, "ids run ahead of the clock by no more than the reserve"


def acknowledged(spool: Path, *words: str) -> list[int]:
    run = subprocess.run([sys.executable, DRIVER, spool, *words], capture_output=True, text=True, timeout=30)
    assert run.returncode == -signal.SIGKILL, run.stderr
    return [parse_id(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("queued ")]


@pytest.mark.wish(50)
@pytest.mark.wish(51)
def test_listing_while_it_runs_when_stopped_and_after_a_kill(tmp_path: Path) -> None:
    assert acknowledged(tmp_path, "--crash-after", "700", "--keep")
    assert (tmp_path / "queue.db-wal").exists()
    killed = list(list_messages(tmp_path))
    assert len(killed) >= 700
    assert [m.id for m in killed] == sorted(m.id for m in killed)
    for extra in ("queue.db-shm",):
        (tmp_path / extra).unlink()
    assert list(list_messages(tmp_path)) == killed, "without the shared index it is built again"

    async def body(queue: Queue) -> None:
        message = make(queue, b"content", sender="")
        await put(queue, message)
        await queue.counts()  # which puts into the tables what is in the redo log
        [entry] = list_messages(tmp_path, [message.id, 5])
        assert (entry.queue_id, entry.sender, entry.size, entry.peer) == (message.queue_id, "", 7, PEER)
        assert read_content(tmp_path, message.id) == b"content"
        await settle(queue, message, message.recipients)

    with_queue(tmp_path, body)
    assert list(list_messages(tmp_path)) == killed
    assert [m.id for m in list_messages(tmp_path, limit=501)] == [m.id for m in killed[:501]]
    assert [m.id for m in list_messages(tmp_path, [m.id for m in killed[::-1]], limit=3)] == [m.id for m in killed[:3]]
    assert counts(tmp_path).messages == len(killed)
    names = {"content", "segments", "lock", "queue.db", "queue.db-shm", "queue.db-wal", "redo-0", "redo-1"}
    assert {p.name for p in tmp_path.iterdir()} <= names


def test_states_of_a_listing(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue, to=("smtp:example.net", "local:a"))
        await put(queue, message)
        message.recipients[1].due, message.recipients[1].attempts, message.recipients[1].reason = 7.0, 2, "no answer"
        await settle(queue, message, [], message.recipients[1:])
        [entry] = list_messages(tmp_path)
        assert [tuple(r) for r in entry.recipients] == [
            (0, "r0@example.net", "smtp:example.net", "", "queued", 0.0, 0, ""),
            (1, "r1@a", "local:a", "", "deferred", 7.0, 2, "no answer"),
        ]
        [short] = list_messages(tmp_path, recipients=1)
        assert (len(short.recipients), short.remaining) == (1, 2)
        assert counts(tmp_path) == (1, 2, 1, 1, 0)

    with_queue(tmp_path, body)


@pytest.mark.wish(51)
@pytest.mark.usefixtures("tables_only")
def test_a_slow_listing_does_not_keep_the_server_waiting(tmp_path: Path) -> None:
    """The listing stops half way; the log is still copied and used again, so it does not grow."""

    async def body(queue: Queue) -> None:
        for _ in range(600):
            queue.enqueue(make(queue), lambda error: None)
        await put(queue, make(queue))
        listing = list_messages(tmp_path)
        next(listing)
        sizes = []
        for _ in range(12):
            messages = [make(queue, bytes(100_000)) for _ in range(10)]
            for message in messages[1:]:
                queue.enqueue(message, lambda error: None)
            await put(queue, messages[0])
            for message in messages:
                await settle(queue, message, message.recipients)
            sizes.append((tmp_path / "queue.db-wal").stat().st_size)
        assert sizes[-1] == sizes[-6] < 6_000_000, sizes
        assert len(list(listing)) == 600

    with_queue(tmp_path, body, checkpoint="1MiB")


def test_who_looks_whether_a_spool_is_in_use_keeps_no_server_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = SpoolLock(tmp_path)
    assert not is_held(tmp_path)
    lock.acquire()
    assert is_held(tmp_path)
    lock.release()
    with (tmp_path / "lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        lock.acquire()
    lock.release()
