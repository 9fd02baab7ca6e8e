"""The writer's answers: every caller gets its own, whatever another's callback does with its."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mailflow.queue import Queue, Settlement
from tests.queue.helpers import everything, make, put, with_queue


@pytest.mark.parametrize("refused", [False, True], ids=["all stored", "one refused"])
def test_a_callback_that_fails_keeps_no_other_answer_back(tmp_path: Path, refused: bool) -> None:
    async def body(queue: Queue) -> None:
        loop = asyncio.get_running_loop()
        seen: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: seen.append(context))

        def broken(error: object) -> None:
            raise RuntimeError("the caller's own mistake")

        settled = make(queue)
        await put(queue, settled)
        queue.enqueue(make(queue), broken)
        if refused:
            queue.enqueue(make(queue, sender="\ud800"), broken)  # SQLite takes no lone surrogate
        queue.settle(Settlement(settled, settled.recipients), broken)
        answer: asyncio.Future[object] = loop.create_future()
        queue.settle(Settlement(settled, []), answer.set_result)
        assert await put(queue, make(queue)) is None
        assert await answer is None
        assert len(await everything(queue)) == 2
        assert [str(context["exception"]) for context in seen] == ["the caller's own mistake"] * (2 + refused)
        assert await put(queue, make(queue)) is None, "and the next batch goes on"

    with_queue(tmp_path, body)
