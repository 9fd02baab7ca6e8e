"""Reading contents back on a machine that lacks something: that is no damage, and passes."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mailflow.errors import QueueDamaged
from mailflow.queue import Queue
from mailflow.store import contents
from mailflow.store.schema import connect_read_only
from tests.queue.helpers import make, put, spill, with_queue


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No file can be opened in this block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("large", [False, True], ids=["segment", "content file"])
def test_a_content_is_not_damaged_when_descriptors_have_run_out(tmp_path: Path, large: bool) -> None:
    async def body(queue: Queue) -> int:
        message = make(queue, bytes(300_000))
        if large:
            message.content = await spill(queue, message.id, [bytes(300_000)])
        assert await put(queue, message) is None
        return message.id

    number = with_queue(tmp_path, body)
    with closing(connect_read_only(tmp_path)) as db:
        db.execute("SELECT count(*) FROM message").fetchone()  # SQLite has its own files open then
        with no_descriptors():
            answer = contents.read(db, tmp_path, [number])[number]
        assert isinstance(answer, Exception)
        assert not isinstance(answer, QueueDamaged)
        assert "cannot be read now" in str(answer)
        assert not isinstance(contents.read(db, tmp_path, [number])[number], Exception)
