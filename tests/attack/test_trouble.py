"""Guards, back ends and hooks that fail in every way, at every stage: always a reply, and nothing is left behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from mailflow.budget import SMALL, Budget
from mailflow.envelope import PLAIN, InboundEnvelope, Peer
from mailflow.hooks.native import QueuedTeller
from mailflow.hooks.running import Runner
from mailflow.hooks.settings import HooksSettings
from mailflow.ingress.stage import Stage
from mailflow.intake import Incoming
from mailflow.smtp import replies
from mailflow.smtp.handler import PENDING
from tests.ingress.fakes import FakeLog
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


@in_loop
async def test_a_hook_that_is_cancelled_from_inside_has_failed_and_from_outside_has_ended():
    async def cancelled():
        raise asyncio.CancelledError

    runner = Runner(HooksSettings())
    with pytest.raises(RuntimeError):
        await runner.run(cancelled())
    task = asyncio.get_running_loop().create_task(runner.run(asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@in_loop
async def test_a_message_that_is_safe_is_acknowledged_though_its_hook_is_cancelled():
    async def on_queued(*_):
        raise asyncio.CancelledError

    told = asyncio.Event()
    log = FakeLog()
    teller = QueuedTeller(on_queued, Runner(HooksSettings()), log)
    teller.tell("id", InboundEnvelope(Peer("192.0.2.7"), "", [], PLAIN, False), told.set)
    async with asyncio.timeout(5):
        await told.wait()
    assert log.named("warning")
    await teller.close()


@pytest.mark.interpreted("a cleaner of another class")
@pytest.mark.parametrize("threshold", [10**6, 1])
def test_a_message_whose_cleaning_fails_leaves_nothing_in_the_budget(threshold):
    class Cleaner:
        def clean(self, *_, **__):
            raise ZeroDivisionError

    budget = Budget(10**9)
    parts = SimpleNamespace(budget=budget, threshold=threshold, cleaner=Cleaner())
    envelope = InboundEnvelope(Peer("192.0.2.7"), "", [], PLAIN, False)
    incoming = Incoming(parts, lambda *_: None, envelope, 1, "id", 0.0)
    incoming.write(b"x" * SMALL)
    assert budget.used == SMALL
    if threshold == 1:
        with pytest.raises(ZeroDivisionError):
            incoming.write(b"more")
        incoming.abort()  # as the session does when it crashes
    else:
        with pytest.raises(ZeroDivisionError):
            incoming.finish(lambda _: None)
    assert budget.used == 0
