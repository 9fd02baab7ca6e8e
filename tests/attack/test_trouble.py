"""Guards, back ends and hooks that fail in every way, at every stage: always a reply, and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from mailflow.ingress.verdict import Stage
from mailflow.smtp import replies
from mailflow.smtp.handler import PENDING
from tests.ingress.test_asking import Guard, in_loop, session, transaction


@pytest.mark.parametrize("stage", list(Stage))
@in_loop
async def test_a_guard_whose_own_task_is_cancelled_refuses_for_now(stage):
    """CancelledError is no Exception; its client must not wait for ever."""

    async def ask():
        task = asyncio.get_running_loop().create_task(asyncio.Event().wait())
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    s, intake, _ = session(Guard(stage, ask))
    assert transaction(s)[-1] is PENDING
    async with asyncio.timeout(5):
        await s._wire.came.wait()
    assert s._wire.answers == [replies.POLICY_FAILED]
    assert not intake.accepted


@in_loop
async def test_work_whose_own_task_is_cancelled_fails():
    async def work():
        raise asyncio.CancelledError

    s, _, _ = session()
    assert s.later(work, replies.AUTH_UNAVAILABLE) is PENDING
    async with asyncio.timeout(5):
        await s._wire.came.wait()
    assert s._wire.answers == [replies.AUTH_UNAVAILABLE]


@pytest.mark.parametrize("stage", list(Stage))
@in_loop
async def test_a_client_that_leaves_before_its_question_is_asked_leaves_no_coroutine_behind(stage):
    async def ask():
        await asyncio.Event().wait()

    s, _, _ = session(Guard(stage, ask))
    assert transaction(s)[-1] is PENDING
    s.closed()
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
    assert s._wire is None


@pytest.mark.parametrize("answer", ["yes", 250, object(), [], True])
@in_loop
async def test_a_guard_that_answers_nonsense_refuses_for_now(answer):
    s, _, _ = session(Guard(Stage.RCPT, answer))
    if transaction(s)[-1] is PENDING:
        await s._wire.came.wait()
        assert s._wire.answers == [replies.POLICY_FAILED]
