"""Large contents: streamed to a file, bounded in memory, part of the queue only with their row."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailflow.envelope import ContentFile, Message
from mailflow.errors import QueueDamaged, QueueError
from mailflow.queue import Queue
from mailflow.store.reader import read_content
from mailflow.store.spill import BUFFER_BYTES
from tests.queue.helpers import called, everything, make, put, settle, spill, with_queue

CHUNKS = [bytes([i]) * 100_000 for i in range(30)]


async def put_large(queue: Queue, chunks: list[bytes]) -> Message:
    number = queue.new_id()
    content = await spill(queue, number, chunks)
    assert isinstance(content, ContentFile)
    message = make(queue, content)
    message.id = number
    assert await put(queue, message) is None
    return message


def files(spool: Path) -> list[str]:
    return sorted(path.name for path in (spool / "content").iterdir())


def test_a_large_message_survives_a_restart_and_leaves_with_its_settlement(tmp_path: Path) -> None:
    number = with_queue(tmp_path, lambda queue: put_large(queue, CHUNKS)).id
    assert read_content(tmp_path, number) == b"".join(CHUNKS)

    async def second(queue: Queue) -> None:
        [message] = await everything(queue)
        content = await queue.content(message)
        assert isinstance(content, ContentFile)
        assert (content.size, content.path.read_bytes()) == (3_000_000, b"".join(CHUNKS))
        await settle(queue, message, message.recipients)
        with pytest.raises(QueueError):
            await queue.content(message)

    with_queue(tmp_path, second)


@pytest.mark.wish(85)
def test_content_files_are_used_again(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        for i in range(5):
            message = await put_large(queue, [b"%d" % i * (500_000 - i)])
            content = await queue.content(message)
            assert content == message.content
            await settle(queue, message, message.recipients)
        assert len(files(tmp_path)) == 1
        one, two = await put_large(queue, [b"a"]), await put_large(queue, [b"b"])
        assert one.content != two.content

    with_queue(tmp_path, body)
    assert len(files(tmp_path)) == 2

    async def after(queue: Queue) -> None:
        assert [m.size for m in await everything(queue)] == [1, 1]
        await put_large(queue, [b"c"])

    with_queue(tmp_path, after)
    assert len(files(tmp_path)) == 3, "files of messages in the queue are not taken for spares"


def test_too_many_spares_are_removed(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        messages = [await put_large(queue, [b"%d" % i]) for i in range(40)]
        for message in messages:
            await settle(queue, message, message.recipients)

    with_queue(tmp_path, body)
    assert len(files(tmp_path)) == 32


def test_the_writer_says_when_to_stop_reading(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        writer = queue.spill(queue.new_id())
        sent = 0
        while writer.write(CHUNKS[1]):
            sent += 100_000
            assert sent < BUFFER_BYTES, "nothing could be written meanwhile: the loop was not run"
        drained = asyncio.Event()
        writer.on_drain = drained.set
        await drained.wait()
        result = await called(writer.finish)
        assert result.size == sent + 100_000

    with_queue(tmp_path, body)


def test_an_aborted_message_leaves_nothing(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        writer = queue.spill(queue.new_id())
        writer.write(b"half")
        writer.abort()
        while queue._spills:
            await asyncio.wait(queue._spills)
        message = await put_large(queue, [b"whole"])
        assert await queue.content(message) == message.content

    with_queue(tmp_path, body)
    assert len(files(tmp_path)) == 1


def test_a_file_that_was_never_enqueued_is_free_after_a_restart(tmp_path: Path) -> None:
    async def first(queue: Queue) -> None:
        await spill(queue, queue.new_id(), CHUNKS[:3])

    with_queue(tmp_path, first)
    assert len(files(tmp_path)) == 1
    with_queue(tmp_path, lambda queue: put_large(queue, [b"next"]))
    assert len(files(tmp_path)) == 1


def test_a_shortened_or_changed_content_file_is_found(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        for damage in (b"", b"y" * 1000, None):
            message = await put_large(queue, [b"x" * 1000])
            path = message.content.path  # type: ignore[union-attr]
            if damage is None:
                path.unlink()
            else:
                path.write_bytes(damage)
            with pytest.raises(QueueDamaged, match=r"checksum|cannot be read"):
                await queue.content(message)

    with_queue(tmp_path, body)


def test_a_disk_that_refuses_is_told_at_the_end_and_reading_goes_on(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        (tmp_path / "content").rmdir()
        (tmp_path / "content").write_text("in the way")
        result = await spill(queue, queue.new_id(), CHUNKS)
        assert isinstance(result, QueueError)
        assert "Not a directory" in str(result)

    with_queue(tmp_path, body)


def test_a_content_file_of_nobody_is_refused(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        stray = tmp_path / "stray"
        stray.write_bytes(b"x")
        assert isinstance(await put(queue, make(queue, ContentFile(stray, 1))), QueueError)

    with_queue(tmp_path, body)
