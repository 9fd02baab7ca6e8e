"""Contents in segments: on the disk before their rows, never written over while a row points there, pages used again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mailflow.envelope import Message
from mailflow.errors import QueueDamaged, QueueError
from mailflow.queue import Queue, Selection
from mailflow.store import contents
from mailflow.store.extents import PAGE_BYTES, SEGMENT_PAGES
from mailflow.store.reader import list_messages, read_content
from mailflow.store.schema import connect_read_only
from mailflow.store.segments import Segments, segment_path
from tests.queue.helpers import everything, make, put, settle, with_queue
from tests.queue.test_crash import STRACE, drive, inject

SIZES = (2_048, 4_095, 4_096, 4_097, 20_480, 100_000, 999_999)
SEGMENTS = {"segment_threshold": "2KiB"}
"""So that a single message of 64 KiB goes to a segment."""


async def put_all(queue: Queue, bodies: list[bytes]) -> list[Message]:
    messages = [make(queue, body) for body in bodies]
    for message in messages[1:]:
        queue.enqueue(message, lambda error: None)
    assert await put(queue, messages[0]) is None
    return messages


def places(spool: Path) -> list[contents.StoredExtent]:
    with closing(connect_read_only(spool)) as db:
        return list(contents.extents(db))


def test_contents_of_every_size_come_back_whole_over_a_restart(tmp_path: Path) -> None:
    bodies = [os.urandom(size) for size in (2_047, *SIZES)]

    async def first(queue: Queue) -> list[int]:
        messages = await put_all(queue, bodies)
        for message, body in zip(messages, bodies, strict=True):
            assert await queue.content(message) == body
            assert read_content(tmp_path, message.id) == body
        return [message.id for message in messages]

    ids = with_queue(tmp_path, first, **SEGMENTS)
    assert [place.id for place in places(tmp_path)] == ids[1:], "below the threshold it is in the database"
    assert [read_content(tmp_path, key) for key in ids] == bodies

    async def second(queue: Queue) -> None:
        kept = await everything(queue)
        await put_all(queue, bodies)
        for message, body in zip(kept, bodies, strict=True):
            assert await queue.content(message) == body, "a restart wrote over it"

    with_queue(tmp_path, second, **SEGMENTS)


@pytest.mark.wish(85)
def test_pages_are_used_again_and_the_file_does_not_grow(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        for _ in range(40):
            for message in await put_all(queue, [bytes(size) for size in SIZES[:6]]):
                assert await settle(queue, message, message.recipients) is None
        assert segment_path(tmp_path, 0).stat().st_size <= 2**20
        assert not segment_path(tmp_path, 1).exists()

    with_queue(tmp_path, body, **SEGMENTS)
    assert places(tmp_path) == []


def test_a_message_that_an_administrator_deletes_leaves_its_pages(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        one, two = await put_all(queue, [b"1" * 70_000, b"2" * 70_000])
        first = {place.id: place.page for place in places(tmp_path)}[one.id]
        await queue.delete(Selection(ids=(one.id,)))
        with pytest.raises(QueueError, match="not in the queue"):
            await queue.content(one)
        [three] = await put_all(queue, [b"3" * 70_000])
        assert {place.id: place.page for place in places(tmp_path)}[three.id] == first
        assert await queue.content(two) == b"2" * 70_000

    with_queue(tmp_path, body, **SEGMENTS)


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    segments = Segments(tmp_path, spare_bytes=2**20)
    segments.load([])
    yield segments
    segments.close()


def stored(segments: Segments, count: int, size: int = 8192) -> list[tuple[int, int, int]]:
    rows = segments.write([bytes([i % 256]) * size for i in range(count)])
    segments.committed()
    return rows


def bytes_at(segments: Segments, row: tuple[int, int, int]) -> bytes:
    with segment_path(segments.spool, row[0]).open("rb") as file:
        file.seek(row[1] * PAGE_BYTES)
        return file.read(row[2])


def test_an_extent_is_free_only_when_its_deletion_is_durable(segments: Segments) -> None:
    [kept, gone] = stored(segments, 2)
    segments.leave([gone])
    [new] = segments.write([b"n" * 8192])
    assert new != gone, "written over before the commit"
    segments.undone()
    assert bytes_at(segments, gone) == b"\1" * 8192
    assert segments.write([b"m" * 8192]) == [new], "what was not committed is free"
    segments.leave([gone])
    segments.committed()
    assert segments.write([b"o" * 8192]) == [gone]
    assert bytes_at(segments, kept) == b"\0" * 8192
    assert segments.rows == 2


def test_no_bytes_of_an_older_message_stay_behind_a_shorter_one(segments: Segments) -> None:
    rows = stored(segments, 1, 8192 + 4000)
    segments.leave(rows)
    segments.committed()
    [row] = segments.write([b"x" * 8193])
    assert bytes_at(segments, (row[0], row[1], 3 * PAGE_BYTES)) == b"x" * 8193 + bytes(3 * PAGE_BYTES - 8193)


def blocks(segments: Segments) -> int:
    return sum(path.stat().st_blocks * 512 for path in (segments.spool / "segments").iterdir())


@pytest.mark.wish(85)
def test_space_that_is_not_needed_any_more_goes_back_to_the_disk(segments: Segments) -> None:
    rows = stored(segments, 16, 2**20)
    assert blocks(segments) >= 16 * 2**20
    segments.leave(rows[:-1])
    segments.committed()
    assert 2**20 <= blocks(segments) <= 3 * 2**20, "the last content, and the spare"
    assert bytes_at(segments, rows[-1]) == b"\x0f" * 2**20
    again = stored(segments, 15, 2**20)
    assert sorted(again) == sorted(rows[:-1])
    assert segments.give_back() < PAGE_BYTES * 256


def test_last_segments_that_are_empty_are_removed(segments: Segments) -> None:
    rows = stored(segments, 3, SEGMENT_PAGES * PAGE_BYTES // 2 + 1)
    assert [row[0] for row in rows] == [0, 1, 2]
    segments.leave(rows)
    segments.committed()
    assert segments.give_back() > 0
    assert list((segments.spool / "segments").iterdir()) == []
    assert stored(segments, 1)[0] == (0, 0, 8192)


def test_survivors_hold_no_more_of_the_disk_than_their_share(segments: Segments) -> None:
    rows = stored(segments, 1000)
    kept = rows[::50]
    segments.leave(row for row in rows if row not in kept)
    segments.committed()
    segments.give_back()
    assert blocks(segments) <= len(kept) * 8192 + 64 * 1024
    for i, row in enumerate(kept):
        assert bytes_at(segments, row) == bytes([i * 50 % 256]) * 8192


def test_files_that_no_row_needs_are_removed_at_the_start(tmp_path: Path) -> None:
    async def first(queue: Queue) -> None:
        await put_all(queue, [b"x" * 70_000])

    with_queue(tmp_path, first, **SEGMENTS)
    folder = tmp_path / "segments"
    (folder / "00000007").write_bytes(bytes(100_000))
    (folder / "notes.txt").write_text("somebody's")
    with_queue(tmp_path, everything)
    assert sorted(path.name for path in folder.iterdir()) == ["00000000", "notes.txt"]


def test_damage_is_found_and_the_others_are_whole(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        messages = await put_all(queue, [bytes([i]) * 70_000 for i in range(4)])
        where = {place.id: place for place in places(tmp_path)}
        with segment_path(tmp_path, 0).open("r+b") as file:
            file.seek(where[messages[1].id].page * PAGE_BYTES + 17)
            file.write(b"?")
        with pytest.raises(QueueDamaged, match=r"does not match its checksum: .*/segments/00000000, page"):
            await queue.content(messages[1])
        for i in (0, 2, 3):
            assert await queue.content(messages[i]) == bytes([i]) * 70_000

    with_queue(tmp_path, body, **SEGMENTS)
    segment_path(tmp_path, 0).unlink()
    for entry in list_messages(tmp_path):
        with pytest.raises(QueueDamaged, match="cannot be read"):
            read_content(tmp_path, entry.id)


@pytest.mark.parametrize("column", ["segment", "page", "size", "crc"])
@pytest.mark.parametrize("value", [-1, 2**62, 66_000])
def test_a_row_that_makes_no_sense_is_damage_and_the_rest_goes_on(tmp_path: Path, column: str, value: int) -> None:
    async def first(queue: Queue) -> int:
        return (await put_all(queue, [b"x" * 70_000, b"y" * 70_000]))[0].id

    wrong = with_queue(tmp_path, first, **SEGMENTS)
    with closing(sqlite3.connect(tmp_path / "queue.db")) as db, db:
        db.execute(f"UPDATE extent SET {column} = ? WHERE id = ?", (value, wrong))

    async def second(queue: Queue) -> None:
        one, two = await everything(queue)
        with pytest.raises(QueueDamaged):
            await queue.content(one)
        assert await queue.content(two) == b"y" * 70_000
        await queue.delete(Selection(ids=(wrong,)))
        await put_all(queue, [b"z" * 70_000] * 4)
        assert await queue.content(two) == b"y" * 70_000

    with_queue(tmp_path, second, **SEGMENTS)


@pytest.mark.usefixtures("tables_only")
def test_who_reads_a_content_that_leaves_meanwhile_finds_it_gone_and_not_damaged(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        [message] = await put_all(queue, [b"1" * 70_000])
        seen = places(tmp_path)
        await settle(queue, message, message.recipients)
        await put_all(queue, [b"2" * 70_000])
        assert [(p.page, p.size) for p in places(tmp_path)] == [(p.page, p.size) for p in seen], "the same place"
        with closing(connect_read_only(tmp_path)) as db:
            [(_, answer)] = contents._read_extents(db, tmp_path, seen)
        assert isinstance(answer, QueueError)
        assert not isinstance(answer, QueueDamaged)

    with_queue(tmp_path, body, **SEGMENTS)


@STRACE
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_segment_that_cannot_be_written_refuses_its_batch_and_the_store_recovers(tmp_path: Path, error: str) -> None:
    code, story = drive(tmp_path, "--count", "250", trace=inject("pwritev2", error, "6..8"))
    assert code == 0
    refused = {tuple(words) for words in story.words["refused"].values()}
    assert refused == {("QueueFull" if error == "ENOSPC" else "StoreBroken",)}
    assert not story.ids("unsettled")
    assert len(story.ids("queued")) > 100
    story.check(tmp_path)


@STRACE
def test_a_disk_that_reserves_no_more_is_full(tmp_path: Path) -> None:
    code, story = drive(tmp_path, "--count", "250", "--keep", trace=inject("fallocate", "ENOSPC", "2+"))
    assert code == 0
    assert {tuple(words) for words in story.words["refused"].values()} == {("QueueFull",)}
    story.check(tmp_path)
