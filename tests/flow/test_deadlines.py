"""What a sender hears of mail that is late: NOTIFY=DELAY (RFC 3461), BY= (RFC 2852), and mail for later (RFC 4865)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailflow.delivery.request import Delivery, Fact, Stage
from mailflow.envelope import PLAIN, Message, Options, Peer, Recipient
from mailflow.report import Action, HostAttempt
from mailflow.settle import RetryPolicy, conclude
from mailflow.smtp.reply import reply

HOUR = 3600.0
POLICY = RetryPolicy(300, 7200, 5 * 24 * HOUR, 24 * HOUR, notice=4 * HOUR)
HOST = HostAttempt("mx.example", "192.0.2.1", 25, "", 0.0, 0.1)
BUSY = Fact(Stage.RCPT, reply(451, "4.7.1", "Greylisted"), host=HOST)
TAKEN = Fact(Stage.DOT, reply(250, "2.0.0", "Ok"), host=HOST)
ARRIVED = 1000.0


def message(options: Options = PLAIN, notify: str = "") -> tuple[Message, Recipient]:
    recipient = Recipient(0, "r@x.example", "smtp:x.example", notify=notify, due=ARRIVED)
    return Message(
        7, "a@b.example", [recipient], b"x", arrived=ARRIVED, size=1, peer=Peer(), options=options
    ), recipient


def attempt(it: Message, fact: Fact, now: float, policy: RetryPolicy = POLICY, **passed: bool):
    delivery = Delivery(it, it.recipients, "smtp", "x.example", b"x", 5.0)
    delivery.facts = [fact]
    for name, value in passed.items():
        setattr(delivery, name, value)
    return conclude(delivery, policy, now, 6.0)


def life(options: Options, notify: str = "", policy: RetryPolicy = POLICY) -> list[tuple[float, str, str]]:
    """(time, action, status) of everything that the sender may be told while every attempt meets a busy host."""
    it, recipient = message(options, notify)
    told = []
    now = recipient.due
    for _ in range(200):
        conclusion = attempt(it, BUSY, now, policy)
        told += [(now - ARRIVED, report.action.value, report.status) for report in conclusion.to_tell]
        assert conclusion.tell == bool(conclusion.to_tell)
        if conclusion.done:
            return told
        assert recipient.due > now
        now = recipient.due + 0.5  # nothing begins at the very moment
    raise AssertionError("it lives for ever")


def test_who_asked_hears_once_of_the_delay_and_once_of_the_end():
    told = life(Options(), "DELAY,FAILURE")
    assert [action for _, action, _ in told] == ["delayed", "failed"]
    assert told[0][0] == pytest.approx(4 * HOUR, abs=1)


def test_who_did_not_ask_hears_of_the_end_only():
    assert [action for _, action, _ in life(Options())] == ["failed"]
    assert [action for _, action, _ in life(Options(), "FAILURE", replace(POLICY, notice_to_all=True))] == ["failed"]


def test_all_may_hear_of_delays():
    assert [a for _, a, _ in life(Options(), "", replace(POLICY, notice_to_all=True))] == ["delayed", "failed"]


def test_no_notice_when_it_is_switched_off():
    assert [a for _, a, _ in life(Options(), "DELAY", replace(POLICY, notice=0.0))] == ["failed"]


def test_by_return_comes_back_at_its_time():
    ((at, action, status),) = life(Options(by=ARRIVED + 1000, by_mode="R"))
    assert (action, status) == ("failed", "5.4.7")
    assert at == pytest.approx(1000, abs=1)


def test_by_notify_tells_and_goes_on():
    told = life(Options(by=ARRIVED + 1000, by_mode="N"))
    assert [action for _, action, _ in told] == ["delayed", "failed"]
    assert told[0][0] == pytest.approx(1000, abs=1)
    assert told[1][0] >= 5 * 24 * HOUR


@pytest.mark.parametrize(
    ("mode", "passed", "told"), [("R", True, False), ("RT", True, True), ("N", True, False), ("N", False, True)]
)
def test_handing_on_is_told_where_the_time_is_lost_or_a_trace_is_wanted(mode, passed, told):
    it, _ = message(Options(by=ARRIVED + 1000, by_mode=mode))
    conclusion = attempt(it, TAKEN, ARRIVED + 1, by_passed=passed, dsn_passed=True)
    assert conclusion.tell is told
    assert conclusion.reports[0].action is Action.RELAYED


def test_nobody_is_told_who_wants_to_hear_nothing():
    it, _ = message(Options(by=ARRIVED + 1000, by_mode="RT"), "NEVER")
    assert not attempt(it, TAKEN, ARRIVED + 1, dsn_passed=True).reports[0].notify


def test_a_life_begins_when_the_message_may_leave():
    release = ARRIVED + 10 * 24 * HOUR
    it, recipient = message(Options(release=release))
    recipient.attempts, recipient.due = 1, release
    conclusion = attempt(it, BUSY, release)
    assert conclusion.reports[0].attempts == 1
    assert recipient.attempts == 2
    assert recipient.due > release
