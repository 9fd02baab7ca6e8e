"""Sessions and their guards: who is asked when, what a verdict does, and what happens to guards that fail or hang."""

from __future__ import annotations

import asyncio
import functools

import pytest

from mailflow.ingress.asking import Panel
from mailflow.ingress.desk import Desk
from mailflow.ingress.policy import RelayControl
from mailflow.ingress.session import Session
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Verdict
from mailflow.smtp import replies
from mailflow.smtp.commands import NO_MAIL_PARAMS, NO_RCPT_PARAMS
from mailflow.smtp.handler import PENDING
from mailflow.smtp.reply import Reply, reply
from tests.ingress.fakes import RELAY, FakeIntake, FakeLog, resolver

NO = reply(550, "5.7.1", "No")


def in_loop(test):
    @functools.wraps(test)
    def run(**arguments):
        asyncio.run(test(**arguments))

    return run


class Wire:
    def __init__(self) -> None:
        self.answers: list[Reply] = []
        self.came = asyncio.Event()

    def answer(self, answer):
        self.answers.append(answer)
        self.came.set()

    def hold(self):
        pass

    def go_on(self):
        pass


class Guard:
    """Answers one stage with what it was given: a value, an exception, or a coroutine function."""

    def __init__(self, stage: Stage, answer: object) -> None:
        self.stages = {stage}
        self.answer = answer
        self.asked = 0

    def at(self, stage):
        return self.ask

    def ask(self, situation):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


def session(*guards, seconds=30.0):
    intake = FakeIntake()
    desk = Desk(resolver(), intake, RelayControl(RELAY.networks), FakeLog(), 100, panel=Panel(guards, (), seconds))
    return Session(desk, Wire(), "127.0.0.1", 4321), intake, desk.log


def transaction(session):
    """All questions in order; gives the answers up to the first that is none of the usual."""
    steps = [
        session.connect,
        lambda: session.hello("EHLO", "me.test"),
        lambda: session.mail("joe@there.test", NO_MAIL_PARAMS),
        lambda: session.rcpt("alice@example.test", NO_RCPT_PARAMS),
        session.data,
        lambda: session.chunk(b"Subject: x\r\n\r\nx\r\n"),
        session.end,
    ]
    answers = []
    for step in steps:
        answer = step()
        if answer is not None:
            answers.append(answer)
            if answer is PENDING or answer.code >= 400:
                break
    return answers


@pytest.mark.parametrize(("stage", "asked"), list(zip(Stage, (1, 2, 3, 4, 5, 6), strict=True)))
def test_a_refusal_answers_its_stage(stage, asked):
    guard, later = Guard(stage, Verdict(Action.REFUSE, NO, "because", "rule 1")), Guard(stage, None)
    s, intake, log = session(guard, later)
    answers = transaction(s)
    assert len(answers) == asked
    assert answers[-1] == NO
    assert (guard.asked, later.asked) == (1, 0)
    assert s.refused(answers[-1]) is False
    s.reset()  # as the core does when the end of a message is refused
    name, fields = log.events[-1]
    assert (name, fields["rule"], fields["why"]) == ("reject", "rule 1", "because")
    assert not intake.accepted
    if stage is Stage.END:
        assert len(intake.aborted) == 1


def test_close_ends_the_session():
    s, _, _ = session(Guard(Stage.MAIL, Verdict(Action.CLOSE, NO)))
    assert s.refused(transaction(s)[-1]) is True
    assert s.refused(NO) is False  # the next one is judged by itself


@pytest.mark.parametrize("stage", list(Stage))
@in_loop
async def test_a_guard_may_wait(stage):
    async def no():
        await asyncio.sleep(0)
        return Verdict(Action.REFUSE, NO)

    s, _, _ = session(Guard(stage, None), Guard(stage, no))
    assert transaction(s)[-1] is PENDING
    await s._wire.came.wait()
    assert s._wire.answers == [NO]


@in_loop
async def test_after_waiting_the_message_goes_on():
    async def nothing():
        return None

    guards = [Guard(Stage.END, nothing), Guard(Stage.END, None)]
    s, intake, _ = session(*guards)
    assert transaction(s)[-1] is PENDING
    await s._wire.came.wait()
    assert s._wire.answers[0].code == 250
    assert [g.asked for g in guards] == [1, 1]
    assert len(intake.accepted) == 1


@pytest.mark.parametrize("waits", [False, True])
@in_loop
async def test_a_guard_that_raises_refuses_for_now(waits):
    async def boom():
        raise RuntimeError("secret")

    s, _, log = session(Guard(Stage.MAIL, boom if waits else RuntimeError("secret")))
    answer = transaction(s)[-1]
    if answer is PENDING:
        await s._wire.came.wait()
        answer = s._wire.answers[0]
    assert answer == replies.POLICY_FAILED
    assert "secret" not in answer.text
    assert any("secret" in str(fields) for _, fields in log.events)


@in_loop
async def test_a_guard_that_hangs_refuses_for_now():
    s, _, _ = session(Guard(Stage.RCPT, asyncio.Event().wait), seconds=0.01)
    assert transaction(s)[-1] is PENDING
    await s._wire.came.wait()
    assert s._wire.answers == [replies.POLICY_TIMED_OUT]


@in_loop
async def test_nobody_hears_of_a_guard_after_the_client_has_gone():
    stopped = asyncio.Event()

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    s, _, _ = session(Guard(Stage.RCPT, wait))
    wire = s._wire
    assert transaction(s)[-1] is PENDING
    await asyncio.sleep(0)
    s.closed()
    await stopped.wait()
    assert wire.answers == []


def test_marks_reach_the_envelope():
    hold = Guard(Stage.MAIL, Verdict(Action.HOLD, reason="looks odd"))
    first, second = (Guard(Stage.DATA, Verdict(Action.HEADER, header=h)) for h in (b"X-A: 1\r\n", b"X-B: 2\r\n"))
    s, intake, _ = session(hold, first, second)
    transaction(s)
    envelope = intake.accepted[0].envelope
    assert (envelope.hold, envelope.header) == ("looks odd", b"X-A: 1\r\nX-B: 2\r\n")
    transaction(s)
    assert intake.accepted[1].envelope.header == b"X-A: 1\r\nX-B: 2\r\n"  # not added up


def test_discarded_mail_is_acknowledged_and_gone():
    s, intake, log = session(Guard(Stage.RCPT, Verdict(Action.DISCARD)))
    assert transaction(s)[-1] == replies.DISCARDED
    assert (len(intake.accepted), len(intake.aborted)) == (0, 1)
    assert log.events[-1][0] == "discard"


def test_a_refused_sender_is_no_sender():
    s, _, _ = session(Guard(Stage.MAIL, Verdict(Action.REFUSE, NO)))
    s.refused(transaction(s)[-1])
    assert s.sender is None
