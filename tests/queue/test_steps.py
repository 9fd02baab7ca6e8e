"""Steps of an administrator's commands beside the mail: mail goes to the redo log meanwhile and waits for none of them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from mailflow.errors import QueueError
from mailflow.queue import Queue
from mailflow.store.aio import Syncs
from mailflow.store.failure import StoreBroken
from mailflow.store.sqlite import Store
from tests.queue.helpers import everything, make, put, settle, with_queue

WAIT_SECONDS = 20.0
TWO = ("smtp:example.net", "smtp:b.example")
"""A message for both is for the tables."""


class Step:
    """A step that is under way until it is let go, then perhaps fails."""

    def __init__(self, error: QueueError | None = None) -> None:
        self.error = error
        self.begun, self.go_on = threading.Event(), threading.Event()

    def step(self, store: Store) -> list[Any]:
        def body() -> None:
            store.write_meta("step", 1)
            self.begun.set()
            if not self.go_on.wait(WAIT_SECONDS):
                raise AssertionError("nobody let it go")

        store.transaction(body)
        if self.error:
            raise self.error
        return []

    async def under_way(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, WAIT_SECONDS)


@pytest.fixture(autouse=True)
def _kernel_syncs() -> None:
    """Without them a thread writes the redo log too, and that is the one that takes the steps."""
    loop = asyncio.new_event_loop()
    syncs = Syncs.open(loop)
    if syncs is None:
        pytest.skip("the kernel makes no syncs by itself here")
    syncs.close()
    loop.close()


def test_mail_enters_and_leaves_while_a_step_is_under_way(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        old = make(queue)
        await put(queue, old)
        step = Step()
        answer = queue._step(step)
        await step.under_way()
        async with asyncio.timeout(WAIT_SECONDS / 2):
            new = make(queue)
            assert await put(queue, new) is None
            assert await settle(queue, old, old.recipients) is None
        assert not answer.done()
        step.go_on.set()
        assert await answer == []
        assert [m.id for m in await everything(queue)] == [new.id]

    with_queue(tmp_path, body)


def test_what_is_for_the_tables_waits_and_comes_through(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        step = Step()
        answer = queue._step(step)
        await step.under_way()
        two = asyncio.create_task(put(queue, make(queue, to=TWO)))
        await asyncio.sleep(0)
        other = queue._step(later := Step())
        later.go_on.set()
        step.go_on.set()
        assert await answer == await other == []
        assert await two is None
        assert len(await everything(queue)) == 1

    with_queue(tmp_path, body)


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "mail for the tables waits"])
def test_after_a_step_that_broke_the_store_it_is_opened_anew(tmp_path: Path, busy: bool) -> None:
    async def body(queue: Queue) -> None:
        assert await put(queue, make(queue)) is None
        connection = queue._store.db
        step = Step(StoreBroken("the disk is gone"))
        answer = queue._step(step)
        await step.under_way()
        assert await put(queue, make(queue)) is None
        waits = [put(queue, make(queue, to=TWO))] if busy else []
        tasks = [asyncio.create_task(each) for each in waits]
        await asyncio.sleep(0)
        step.go_on.set()
        with pytest.raises(StoreBroken, match="the disk is gone"):
            await answer
        assert await asyncio.gather(*tasks) == [None] * busy
        another = Step()
        another.go_on.set()
        assert await queue._step(another) == []
        assert queue._store.db is not connection
        assert not queue._writer.failed
        assert len(await everything(queue)) == 2 + busy

    with_queue(tmp_path, body)


def test_a_step_that_fails_in_a_way_nobody_foresaw_ends_the_queue(tmp_path: Path) -> None:
    class Mistaken:
        def step(self, store: Store) -> list[Any]:
            raise LookupError("a mistake of ours")

    async def body(queue: Queue) -> None:
        failed: list[object] = []
        queue.on_failure = failed.append
        with pytest.raises(QueueError, match="a mistake of ours"):
            await queue._step(Mistaken())
        assert len(failed) == 1
        assert "a mistake of ours" in str(await put(queue, make(queue)))

    with_queue(tmp_path, body)


def test_closing_waits_for_a_step(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        step = Step()
        answer = queue._step(step)
        await step.under_way()
        closing = asyncio.create_task(queue.close())
        await asyncio.sleep(0)
        assert not closing.done()
        step.go_on.set()
        await closing
        assert await answer == []

    with_queue(tmp_path, body)


def test_mail_beside_a_fold_does_not_go_to_the_tables(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        loop = asyncio.get_running_loop()
        folded: asyncio.Future[object] = loop.create_future()
        before, after = make(queue), make(queue)
        entered = asyncio.create_task(put(queue, before))
        await asyncio.sleep(0)
        queue._writer.fold(folded.set_result)
        later = asyncio.create_task(put(queue, after))
        assert await entered is None
        assert await folded is None
        assert await later is None
        assert list(queue._store.fresh.entries) == [after.id]
        assert {m.id for m in await everything(queue)} == {before.id, after.id}

    with_queue(tmp_path, body)
