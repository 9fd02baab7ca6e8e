"""The disk's reserve: new mail never uses it, and what leaves the queue always can, even from a disk without a byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailflow.envelope import ContentFile
from mailflow.errors import QueueError, QueueFull
from mailflow.queue import Queue
from mailflow.store.room import BATCH_BYTES, COPIES, Room, weight
from mailflow.store.schema import BUSY_SECONDS
from tests.queue.helpers import called, everything, make, put, settle, spill, with_queue

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB; skips where mounting is forbidden."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def free(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


async def burst(queue: Queue, count: int, size: int) -> list[QueueError | None]:
    """So many messages at once, each let in as for a client that does not say its size."""
    messages = [make(queue, os.urandom(size)) for _ in range(count)]
    assert queue.room(0)
    return await asyncio.gather(*(put(queue, message) for message in messages))


@pytest.mark.wish(61)
def test_a_burst_between_two_looks_leaves_the_reserve(small_disk: Path) -> None:
    async def body(queue: Queue) -> None:
        answers = await burst(queue, 60, 100_000)
        accepted = answers.count(None)
        assert accepted >= 10, "as much as fits is taken"
        assert all(isinstance(error, QueueFull) for error in answers if error)
        assert free(small_disk) >= 2 * MIB
        assert not queue.room(3 * MIB)
        assert len(await everything(queue)) == accepted

    with_queue(small_disk, body, reserve="2MiB")


@pytest.mark.wish(61)
def test_the_same_message_by_message(small_disk: Path) -> None:
    async def body(queue: Queue) -> None:
        accepted = 0
        while queue.room(0) and await put(queue, make(queue, os.urandom(100_000))) is None:
            accepted += 1
        assert accepted >= 10
        assert free(small_disk) >= 2 * MIB

    with_queue(small_disk, body, reserve="2MiB")


@pytest.mark.wish(61)
def test_content_files_leave_the_reserve(small_disk: Path) -> None:
    async def body(queue: Queue) -> None:
        chunks = [bytes(100_000)] * 15
        assert isinstance(await spill(queue, queue.new_id(), chunks), ContentFile)
        results = await asyncio.gather(*(spill(queue, queue.new_id(), chunks) for _ in range(4)))
        assert any(isinstance(result, QueueFull) for result in results)
        assert free(small_disk) >= 2 * MIB
        assert isinstance(await spill(queue, queue.new_id(), chunks[:8]), ContentFile), "what failed is gone"

    with_queue(small_disk, body, reserve="2MiB")


def fill(folder: Path, left: int) -> Path:
    """Others use the disk, but for some bytes."""
    path = folder / f"others{left}"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while free(folder) > left:
            file.write(bytes(4096))
    assert free(folder) <= left
    return path


@pytest.mark.wish(61)
def test_mail_leaves_a_disk_that_others_have_filled(small_disk: Path) -> None:
    """The log was copied to the database when the reserve was touched, and is written again from its beginning."""

    async def body(queue: Queue) -> None:
        messages = [make(queue, os.urandom(50_000)) for _ in range(20)]
        assert await asyncio.gather(*(put(queue, message) for message in messages)) == [None] * 20
        fill(small_disk, 2 * MIB)
        queue.room(4 * MIB)  # has it looked up
        assert isinstance(await put(queue, make(queue, os.urandom(2 * MIB))), QueueFull)
        fill(small_disk, 0)
        bounce = make(queue, b"a bounce")
        assert await settle(queue, messages[0], messages[0].recipients, new=[bounce]) is None
        assert await asyncio.gather(*(settle(queue, m, m.recipients) for m in messages[1:])) == [None] * 19
        assert [m.id for m in await everything(queue)] == [bounce.id]

    with_queue(small_disk, body, reserve="3MiB")


@pytest.mark.wish(61)
def test_mail_waits_on_a_disk_that_is_full_at_once_and_leaves_when_there_is_room(small_disk: Path) -> None:
    async def body(queue: Queue) -> None:
        messages = [make(queue, os.urandom(50_000)) for _ in range(20)]
        assert await asyncio.gather(*(put(queue, message) for message in messages)) == [None] * 20
        others = fill(small_disk, 0)
        settling = asyncio.gather(*(settle(queue, m, m.recipients) for m in messages))
        assert isinstance(await put(queue, make(queue, os.urandom(50_000))), QueueFull)
        others.unlink()
        assert await settling == [None] * 20
        assert await everything(queue) == []

    with_queue(small_disk, body, reserve="0B", segment_threshold="1MiB")  # so that contents need room in the log


def test_a_long_reader_does_not_hold_up_what_leaves_a_disk_without_room(tmp_path: Path) -> None:
    """As `queue check` on a large queue: the log cannot be begun anew until it ends, and nobody waits for that."""

    async def fill(queue: Queue) -> None:
        for _ in range(3):
            await put(queue, make(queue))

    async def leave(queue: Queue) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM message").fetchone()
            begun = asyncio.get_running_loop().time()
            for message in await everything(queue):
                assert await settle(queue, message, message.recipients) is None
            assert asyncio.get_running_loop().time() - begun < BUSY_SECONDS
        assert not await everything(queue)

    with_queue(tmp_path, fill, reserve="0B")
    with_queue(tmp_path, leave, reserve="100000GiB")


@pytest.mark.wish(61)
def test_mail_is_taken_again_when_there_is_room(small_disk: Path) -> None:
    async def body(queue: Queue) -> None:
        assert isinstance(await put(queue, make(queue, bytes(5 * MIB))), QueueFull)
        subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
        assert await put(queue, make(queue, bytes(5 * MIB))) is None
        assert queue.room(5 * MIB)

    with_queue(small_disk, body, reserve="1MiB")


def test_the_count_between_two_looks(tmp_path: Path) -> None:
    room = Room(free=1000, reserve=300)
    assert room.left == 700
    assert room.promise(500)
    assert not room.promise(300)
    room.looked(900, before=500)  # the 300 are not written yet
    assert (room.left, room.most) == (300, 600)

    async def body(queue: Queue) -> None:
        one, three = make(queue, bytes(5000)), make(queue, bytes(5000), to=("smtp:a", "smtp:b", "smtp:c"))
        assert 5000 < weight(one) < weight(three)
        before = free(tmp_path)
        assert await put(queue, three) is None
        assert before - free(tmp_path) <= COPIES * weight(three) + BATCH_BYTES + MIB  # others use this disk too
        assert await called(lambda done: queue.enqueue(one, done)) is None

    with_queue(tmp_path, body)
