"""What follows from an attempt: waits, the end of a message's life, reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.delivery.request import Delivery, Fact, Stage, Trouble
from mailflow.envelope import Message, Peer, Recipient
from mailflow.report import Action, HostAttempt
from mailflow.settle import RetryPolicy, conclude
from mailflow.smtp.reply import reply

POLICY = RetryPolicy(first_wait=300, longest_wait=7200, lifetime=432_000, bounce_lifetime=86_400)
HOST = HostAttempt("mx.example", "192.0.2.1", 25, "", 0.0, 0.1)
OK = Fact(Stage.DOT, reply(250, "2.0.0", "Ok"), host=HOST)
BUSY = Fact(Stage.RCPT, reply(451, "4.7.1", "Greylisted"), host=HOST)
GONE = Fact(Stage.RCPT, reply(550, "5.1.1", "No such user"), host=HOST)


def delivery(*facts: Fact, sender: str = "a@b.example", attempts: int = 0, arrived: float = 1000.0) -> Delivery:
    recipients = [
        Recipient(n, f"r{n}@x.example", "smtp:x.example", attempts=attempts, due=arrived) for n in range(len(facts))
    ]
    message = Message(77, sender, recipients, b"x", arrived=arrived, size=1, peer=Peer())
    result = Delivery(message, recipients, "smtp", "x.example", b"x", 5.0)
    result.facts = list(facts)
    return result


@pytest.mark.wish(73)
def test_each_recipient_has_its_own_outcome_and_report() -> None:
    d = delivery(OK, BUSY, GONE)
    c = conclude(d, POLICY, now=1010.0, clock=6.0)
    assert [r.action for r in c.reports] == [Action.RELAYED, Action.DELAYED, Action.FAILED]
    assert [r.number for r in c.done] == [0, 2]
    assert [r.number for r in c.deferred] == [1]
    assert c.tell
    assert [r.recipient for r in c.final] == ["r0@x.example", "r2@x.example"]
    assert c.reports[2].relay == "mx.example[192.0.2.1]:25"
    assert "550 5.1.1 No such user" in c.reports[2].reason
    waiting = d.recipients[1]
    assert waiting.attempts == 1
    assert "Greylisted" in waiting.reason
    assert 1010 + 270 <= waiting.due <= 1010 + 330


def test_success_alone_tells_nobody() -> None:
    assert not conclude(delivery(OK), POLICY, 1010.0, 6.0).tell


@pytest.mark.wish(24)
def test_at_the_end_of_its_life_a_message_fails_with_its_last_reason() -> None:
    late = 1000.0 + POLICY.lifetime
    report = conclude(delivery(BUSY, attempts=60), POLICY, late, 6.0).final[0]
    assert report.action is Action.FAILED
    assert report.status == "5.7.1"
    assert report.attempts == 61
    assert "gave up after 5d and 61 attempts" in report.reason
    assert "Greylisted" in report.reason


def test_a_bounce_has_its_own_lifetime() -> None:
    late = 1000.0 + POLICY.bounce_lifetime
    assert conclude(delivery(BUSY, sender=""), POLICY, late, 6.0).final
    assert not conclude(delivery(BUSY), POLICY, late, 6.0).final


def test_the_last_attempt_is_made_when_life_ends() -> None:
    just_before = 1000.0 + POLICY.lifetime - 60
    d = delivery(BUSY, attempts=60)
    conclude(d, POLICY, just_before, 6.0)
    assert d.recipients[0].due == 1000.0 + POLICY.lifetime


def test_what_was_not_attempted_goes_back_without_a_trace() -> None:
    d = delivery(Fact(Stage.MAIL, trouble=Trouble.UNATTEMPTED))
    c = conclude(d, POLICY, 1010.0, 6.0)
    assert c.returned == d.recipients
    assert not c.reports
    assert d.recipients[0].attempts == 0


@given(st.integers(1, 200), st.integers(0, 2**51))
def test_waits_double_up_to_the_longest_with_a_tenth_of_jitter(attempts: int, salt: int) -> None:
    wait = POLICY.wait(attempts, salt)
    plain = min(300 * 2 ** (attempts - 1), 7200)
    assert 0.9 * plain <= wait <= 1.1 * plain
    assert wait == POLICY.wait(attempts, salt)


def test_jitter_spreads_messages_of_one_moment() -> None:
    waits = {round(POLICY.wait(1, 1_787_000_000_000_000 + n), 1) for n in range(100)}
    assert len(waits) > 50


def test_delays_are_never_negative_though_the_clock_steps_back() -> None:
    report = conclude(delivery(OK, arrived=2000.0), POLICY, 1000.0, 6.0).reports[0]
    assert min(report.delays) >= 0


def test_success_is_reported_by_the_host_that_was_asked_to_and_else_by_us() -> None:
    told = []
    for dsn_passed in (False, True):
        d = delivery(OK)
        d.recipients[0].notify = "SUCCESS,FAILURE"
        d.dsn_passed = dsn_passed
        told.append(conclude(d, POLICY, 1010.0, 6.0).tell)
    assert told == [True, False]
