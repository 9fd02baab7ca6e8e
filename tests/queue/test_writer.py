"""The writer's answers: every caller gets its own, whatever another's callback does with its."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mailflow.queue import Queue, Settlement
from mailflow.store import writer as writer_module
from mailflow.store.aside import Aside
from mailflow.store.fresh import Fresh
from mailflow.store.writer import Writer
from tests.queue.helpers import everything, make, put, settle, with_queue


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


def test_what_follows_a_commit_may_fail_and_the_next_one_comes(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))

        def broken() -> None:
            raise RuntimeError("the flow's own mistake")

        async def client() -> None:
            for _ in range(20):
                assert await put(queue, make(queue)) is None

        queue.on_commit = broken
        async with asyncio.timeout(20):
            await asyncio.gather(*(client() for _ in range(20)))
        assert {str(context["exception"]) for context in seen} == {"the flow's own mistake"}

    seen: list[dict[str, Any]] = []
    with_queue(tmp_path, body)


class BrokenStore:
    """Raises what no store should."""

    fresh = Fresh(Path("nowhere"), 0)

    def __getattr__(self, name: str) -> Any:
        raise LookupError("a mistake of ours")


def test_an_error_that_nobody_foresaw_is_told_to_all_and_the_thread_goes_on(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        failed: list[object] = []
        loop = asyncio.get_running_loop()
        writer = Writer(BrokenStore(), Aside(tmp_path), loop, lambda: 0, free=10**9, reserve=0)  # type: ignore[arg-type]
        writer.on_failure = failed.append
        for _ in range(2):
            async with asyncio.timeout(20):
                answer: asyncio.Future[object] = loop.create_future()
                writer.enqueue(make(queue), answer.set_result)
                assert "a mistake of ours" in str(await answer)
        assert len(failed) == 1
        assert writer.failed
        await writer.close()

    with_queue(tmp_path, body)


@pytest.mark.interpreted("a constant is replaced")
def test_a_settlement_waits_for_mail_to_share_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PATIENCE_SECONDS", 3600.0)

    async def body(queue: Queue) -> None:
        first, second = make(queue), make(queue)
        await put(queue, first)
        await put(queue, second)
        commits = queue._writer.mail_commits
        answers: list[object] = []
        queue.settle(Settlement(first, first.recipients), answers.append)
        for _ in range(5):
            await asyncio.sleep(0)
        assert await put(queue, make(queue)) is None
        assert answers == [None]
        assert queue._writer.mail_commits == commits + 1
        bounce = make(queue)
        async with asyncio.timeout(20):  # nor does what makes new mail wait
            assert await settle(queue, second, second.recipients, new=[bounce]) is None
        queue.settle(Settlement(bounce, bounce.recipients), answers.append)
        await queue.close()
        assert answers == [None, None], "closing waits for nobody"

    with_queue(tmp_path, body)


def test_a_settlement_without_mail_behind_it_waits_no_longer_than_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PATIENCE_SECONDS", 0.001)

    async def body(queue: Queue) -> None:
        for _ in range(3):
            message = make(queue)
            await put(queue, message)
            async with asyncio.timeout(20):
                assert await settle(queue, message, message.recipients) is None

    with_queue(tmp_path, body)
