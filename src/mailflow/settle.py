"""What follows from an attempt: pure policy between an agent's facts and the queue's transaction.

`conclude` takes a finished `Delivery` and says for each recipient: leaves the queue, waits until when, or has failed,
with one `DeliveryReport` each. `flow` makes the bounce from the failed ones and hands everything to the queue as one
settlement. The meaning of a single fact is decided in `delivery/trouble.py`; here are only time and counting: the
exponential waits, the end of a message's life, which turns "delayed" into "failed" (wish 24), and the moments at which
a sender wants to hear that a message is late (NOTIFY=DELAY, BY=: RFC 3461, RFC 2852). An attempt is made at each of
these moments, so that one comparison tells, without anything kept, whether it has just gone by.

No clock and no random numbers: the jitter of a wait comes from the message's id, so that the same input gives the
same schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailflow.delivery.request import Delivery, Fact, Trouble
from mailflow.delivery.trouble import Verdict, judge
from mailflow.envelope import Message, Recipient
from mailflow.report import Action, DeliveryReport
from mailflow.units import format_duration

_JITTER_STEPS = 1024
_RELAYED, _DELIVERED, _DELAYED, _FAILED = Action.RELAYED, Action.DELIVERED, Action.DELAYED, Action.FAILED
_UNATTEMPTED = Trouble.UNATTEMPTED
"""Constants, because looking a member up in its Enum costs more than comparing it."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again, and when to give up. All in seconds."""

    first_wait: float
    longest_wait: float
    lifetime: float
    bounce_lifetime: float
    notice: float = 0.0
    """How late a message is when those hear of it who asked with NOTIFY=DELAY; 0 for never."""
    notice_to_all: bool = False
    """Also those who did not say what they want to hear of."""
    skew: float = 0.0
    """By how much the wall clock is ahead of the queue's time (`queuetime.py`)."""

    def expires(self, message: Message) -> float:
        """When the message's time is over."""
        begins = message.options.release or message.arrived
        return begins + (self.lifetime if message.sender else self.bounce_lifetime)

    def moments(self, message: Message) -> tuple[float, float]:
        """When the sender is to hear that it is late, and when its BY= time is over; 0 for never."""
        notice = (message.options.release or message.arrived) + self.notice if self.notice else 0.0
        return notice, message.options.by

    def wait(self, attempts: int, salt: int) -> float:
        """Seconds until the next attempt after `attempts` failed ones: doubling, from 90 % to 110 % by `salt`."""
        doubled = self.first_wait * 2.0 ** min(attempts - 1, 32)
        jitter = 0.9 + 0.2 * (salt * 2654435761 % _JITTER_STEPS) / _JITTER_STEPS
        return min(doubled, self.longest_wait) * jitter


class Conclusion:
    """What became of the recipients of one delivery."""

    __slots__ = ("deferred", "done", "late", "reports", "returned", "tell")

    def __init__(self) -> None:
        self.reports: list[DeliveryReport] = []
        """One for each recipient that was attempted, in order."""
        self.done: list[Recipient] = []
        """Leave the queue: delivered, or failed for good."""
        self.deferred: list[Recipient] = []
        """Stay; due time, attempts and reason are set."""
        self.late: list[DeliveryReport] = []
        """Of those that stay: the sender is to hear now that they are late."""
        self.returned: list[Recipient] = []
        """Were not attempted and go back to the scheduler."""
        self.tell = False
        """Whether the sender may have to hear of one of them: a failure, or NOTIFY=SUCCESS."""

    @property
    def final(self) -> list[DeliveryReport]:
        """The reports of those that leave the queue."""
        return [r for r in self.reports if r.action is not Action.DELAYED]

    @property
    def to_tell(self) -> list[DeliveryReport]:
        """The reports that the sender may be told of."""
        return self.final + self.late


def conclude(delivery: Delivery, policy: RetryPolicy, now: float, clock: float) -> Conclusion:
    """Judges each recipient's fact. `now`: seconds since 1970; `clock`: loop time. Changes the deferred recipients."""
    conclusion = Conclusion()
    expires = policy.expires(delivery.message)
    delays = _delays(delivery, now, clock)
    for recipient, fact in zip(delivery.recipients, delivery.facts, strict=True):
        if fact.trouble is _UNATTEMPTED:
            conclusion.returned.append(recipient)
            continue
        verdict = judge(fact)
        report = _report(delivery, recipient, fact, verdict, delays, now, expires)
        conclusion.reports.append(report)
        if verdict.action is _DELAYED:
            returned_now = _by_is_over(delivery.message, now)
            lives = now < expires or (policy.skew and _lives(delivery.message, expires, now, policy.skew))
            if lives and not returned_now:
                if _is_late(delivery.message, recipient, policy, now):
                    conclusion.late.append(report)
                    conclusion.tell = True
                _defer(delivery.message, recipient, report, policy, now)
                conclusion.deferred.append(recipient)
                continue
            _expire(report, now)
            if returned_now:
                report.status = "5.4.7"  # RFC 2852 §4.1.3
        if report.action is _FAILED or report.notify:
            conclusion.tell = True
        conclusion.done.append(recipient)
    return conclusion


def _defer(message: Message, recipient: Recipient, report: DeliveryReport, policy: RetryPolicy, now: float) -> None:
    """Sets the next due time: the backoff, but not behind the end of life, so that the last attempt is made there."""
    recipient.attempts += 1
    recipient.reason = report.reason
    wait = policy.wait(report.attempts, message.id + recipient.number)
    if policy.skew:
        recipient.due = now - policy.skew + wait
    else:
        due = min(now + wait, max(report.expires, now))
        for moment in policy.moments(message):
            if now < moment < due:
                due = moment
        recipient.due = due


def _by_is_over(message: Message, now: float) -> bool:
    """Whether the sender wants it back, undelivered as it is (RFC 2852, BY=…;R)."""
    options = message.options
    return options.by > 0 and now >= options.by and "R" in options.by_mode


def _is_late(message: Message, recipient: Recipient, policy: RetryPolicy, now: float) -> bool:
    """Whether one of the moments to tell its sender lies between this attempt's due time and now."""
    notice, by = policy.moments(message)
    asked = "DELAY" in recipient.notify or (policy.notice_to_all and not recipient.notify)
    return (asked and recipient.due <= notice <= now) or (by > 0 and recipient.due <= by <= now)


def _lives(message: Message, expires: float, now: float, skew: float) -> bool:
    """Whether a message's time is not over, after the clock was set: whether it came before or after that is not known,
    so by the clock that lets it live, but not by one by which it has not arrived yet."""
    return any(message.arrived <= clock < expires for clock in (now, now - skew))


def _expire(report: DeliveryReport, now: float) -> None:
    """Gives up. The status of the last attempt stays, with class 5: it says more than "expired" (RFC 3463 §3.5)."""
    tried = format_duration(max(1, round(now - report.arrived)))
    report.action = Action.FAILED
    report.status = "5" + report.status[1:] if report.status else "5.4.7"
    report.reason = f"gave up after {tried} and {report.attempts} attempts; the last: {report.reason}"


def _report(
    delivery: Delivery,
    recipient: Recipient,
    fact: Fact,
    verdict: Verdict,
    delays: tuple[float, float, float, float],
    now: float,
    expires: float,
) -> DeliveryReport:
    message, action = delivery.message, verdict.action
    taken = action is _RELAYED or action is _DELIVERED  # then the reason is the reply
    said = verdict.reason if taken else fact.reply.text if fact.reply else ""
    return DeliveryReport(
        message.queue_id,
        message.sender,
        recipient.address,
        recipient.original or recipient.address,
        recipient.orcpt,
        _notify(delivery, recipient) if action is _RELAYED else recipient.notify,
        action,
        verdict.status,
        fact.host.relay if fact.host else delivery.transport if fact.reply else "none",
        said,
        verdict.reason,
        now,
        message.arrived,
        recipient.attempts + (0 if message.options.release else 1),
        expires,
        delays,
        tuple(delivery.hosts),
    )


def _notify(delivery: Delivery, recipient: Recipient) -> str:
    """What is left for us to report of a recipient that another host has taken.

    A host that was told what to report does it itself (RFC 3461 §5.2.2). That a message with BY= was handed on is told
    where its trace is wanted, and where the host knows nothing of the time (RFC 2852 §4.1.4, §4.2).
    """
    options = delivery.message.options
    if options.by and recipient.notify != "NEVER" and ("T" in options.by_mode or not delivery.by_passed):
        return "SUCCESS"
    return "" if delivery.dsn_passed else recipient.notify


def _delays(delivery: Delivery, now: float, clock: float) -> tuple[float, float, float, float]:
    """Before the scheduler, waiting for a slot, setting up the connection, transmission. Only the first can be
    below zero by itself, when the wall clock steps back: the others are of the loop's clock."""
    entered, started, connected = delivery.entered, delivery.started, delivery.connected
    before = now - delivery.message.arrived - (clock - entered)
    return (max(0.0, before), started - entered, connected - started, clock - connected)
