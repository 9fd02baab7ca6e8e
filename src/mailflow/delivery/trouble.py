"""What a fact means: for the recipient (delivered, tried again, bounced), for the site, and for the next host.

The one file where failure policy lives; agents only report `Fact`s. Pure: facts in, verdicts out. The flow calls
`judge` for each recipient and `health` for the delivery, the SMTP agent asks `next_host`, and Maildir and
pipe agents use the same facts. Every reason that a log, a report or a bounce gives is worded here.

Rules in short, with their source:
- A reply speaks for itself: 4yz stays, 5yz fails (RFC 5321 §4.2.1), with these exceptions: 552 to RCPT is
  "too many recipients" in disguise and stays (§4.5.3.1.10); a 5yz greeting other than 521 stays, since it is about
  us and now, not about the recipient, and another host or day may answer otherwise (§3.1; 521: RFC 7504 §3).
- 500 to 504, protocol errors, pass where the configuration says so (wish 35).
- No reply, or not an SMTP reply: stays (§4.5.4.1), also after the final dot, where the host may have taken the
  message: it may then arrive twice, which is better than not at all (§6.1).
- DNS: what does not exist fails, what does not answer stays (§5.1); null MX fails (RFC 7505 §4.2). That is so for the
  recipient's own domain; a next hop that the configuration names stays, as its typing errors are not the mail's fault.
- What the host cannot take (SIZE, SMTPUTF8, 8BITMIME, BINARYMIME) fails (RFC 1870 §6.1, RFC 6531 §3.5, RFC 6152 §3,
  RFC 3030 §3), and so does what it cannot promise (REQUIRETLS, DELIVERBY: RFC 8689 §4.2.1, RFC 2852 §4.1.3).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from mailflow.delivery.request import Delivery, Fact, Stage, Trouble
from mailflow.report import Action
from mailflow.smtp.reply import Reply


class Verdict(NamedTuple):
    """What becomes of a recipient."""

    action: Action
    status: str
    """Enhanced status code (RFC 3463); its class agrees with the action."""
    reason: str
    """In words, for log, report and bounce."""


class SiteHealth(Enum):
    """What a delivery says about its destination, for the scheduler."""

    GOOD = "took the message"
    BUSY = "answers, and asks for less"
    DEAD = "no host answers"
    NEUTRAL = "the failure is the message's own"
    UNATTEMPTED = "nothing was tried"


_FATE: dict[Trouble, tuple[Action, str]] = {
    Trouble.NO_HOST: (Action.FAILED, "5.1.2"),
    Trouble.NO_RELAY: (Action.DELAYED, "4.4.4"),
    Trouble.NULL_MX: (Action.FAILED, "5.1.10"),  # RFC 7505 §4.2
    Trouble.DNS_FAILURE: (Action.DELAYED, "4.4.3"),
    Trouble.LOOP: (Action.FAILED, "5.4.6"),
    Trouble.REFUSED: (Action.DELAYED, "4.4.1"),
    Trouble.UNREACHABLE: (Action.DELAYED, "4.4.1"),
    Trouble.TIMEOUT: (Action.DELAYED, "4.4.2"),
    Trouble.LOST: (Action.DELAYED, "4.4.2"),
    Trouble.GARBAGE: (Action.DELAYED, "4.5.0"),
    Trouble.NEEDS_8BITMIME: (Action.FAILED, "5.6.3"),
    Trouble.NEEDS_BINARYMIME: (Action.FAILED, "5.6.3"),
    Trouble.NEEDS_REQUIRETLS: (Action.FAILED, "5.7.30"),  # RFC 8689 §8
    Trouble.NEEDS_DELIVERBY: (Action.FAILED, "5.3.3"),
    Trouble.NEEDS_SMTPUTF8: (Action.FAILED, "5.6.7"),
    Trouble.TOO_LARGE: (Action.FAILED, "5.3.4"),
    Trouble.NO_MAILBOX: (Action.FAILED, "5.1.1"),
    Trouble.IO_ERROR: (Action.DELAYED, "4.3.0"),
    Trouble.DISK_FULL: (Action.DELAYED, "4.2.2"),
    # a bounce would return what is damaged; the operator may have a copy, and the queue says so until it gives up
    Trouble.DAMAGED: (Action.DELAYED, "4.3.0"),
    Trouble.REJECTED_ROUTE: (Action.FAILED, "5.7.1"),
    Trouble.BROKEN: (Action.DELAYED, "4.3.0"),
    Trouble.UNATTEMPTED: (Action.DELAYED, "4.3.2"),
}

_new = tuple.__new__  # makes a named tuple without its constructor, which takes twice as long
# A global is found faster than an enum's member.
_DOT, _FILE, _RELAYED, _DELIVERED, _GOOD = Stage.DOT, Stage.FILE, Action.RELAYED, Action.DELIVERED, SiteHealth.GOOD

_AT_GREETING = (Stage.CONNECT, Stage.BANNER, Stage.EHLO)
"""Stages at which the host has not yet heard of the message."""
_ASKING = (Stage.MAIL, Stage.RCPT, Stage.DATA)
"""Stages at which the host has heard of the message, and cannot have taken it."""
_NO_REPLY = (Trouble.REFUSED, Trouble.UNREACHABLE, Trouble.TIMEOUT, Trouble.LOST, Trouble.GARBAGE)
"""Troubles of the connection."""


def judge(fact: Fact) -> Verdict:
    """What the fact means for its recipient."""
    reply = fact.reply
    if reply is not None:
        stage = fact.stage
        if (stage is _DOT or stage is _FILE) and 200 <= reply.code < 300:
            action = _RELAYED if stage is _DOT else _DELIVERED
            return _new(Verdict, (action, reply.status or "2.0.0", fact.detail or reply.text))
        action, status = _judge_reply(fact.stage, reply, soft=fact.soft)
        return Verdict(action, status, _said(fact, reply))
    trouble = fact.trouble or Trouble.UNATTEMPTED
    action, status = _FATE[trouble]
    if trouble is Trouble.TIMEOUT and fact.stage is Stage.CONNECT:
        status = "4.4.1"
    return Verdict(action, status, _in_words(fact, trouble))


def health(delivery: Delivery) -> SiteHealth:
    """What the delivery's facts say about its destination: the best news among them counts."""
    facts = delivery.facts
    if len(facts) == 1:
        return _health(facts[0])
    found = {_health(fact) for fact in facts}
    for best in (SiteHealth.GOOD, SiteHealth.BUSY, SiteHealth.NEUTRAL, SiteHealth.DEAD):
        if best in found:
            return best
    return SiteHealth.UNATTEMPTED


def about_site(delivery: Delivery) -> Fact | None:
    """The fact for which others need not be tried at this destination now: temporary, and the site's, not a recipient's.

    None when there is none: others must be judged by their own attempt then.
    """
    for fact in delivery.facts:
        if _health(fact) in (SiteHealth.BUSY, SiteHealth.DEAD) and judge(fact).action is Action.DELAYED:
            return fact
    return None


def next_host(fact: Fact) -> bool:
    """Whether another host, or another address of the same, may do better (RFC 5321 §5.1: in order, until one succeeds).

    Yes for what is about this host: no connection, no sense, a greeting that turns us away, and a temporary refusal.
    No for a permanent refusal of the message, and no once the final dot was sent: the host may have the message.
    """
    if fact.reply is None:
        return fact.trouble in _NO_REPLY and fact.stage is not Stage.DOT
    if fact.stage in _AT_GREETING:
        return True
    return fact.reply.code < 500 and fact.stage in _ASKING


def same_host_again(fact: Fact) -> bool:
    """Whether the host merely took enough recipients for one transaction and wants the others in a further one.

    RFC 5321 §4.5.3.1.10: 452, or 552 from hosts that follow RFC 821. Only true when others were accepted.
    """
    return fact.stage is Stage.RCPT and fact.reply is not None and fact.reply.code in (452, 552)


def _judge_reply(stage: Stage, reply: Reply, *, soft: bool) -> tuple[Action, str]:
    """Action and status for a reply that is no success."""
    if reply.code >= 500 and not soft and not _is_temporary(stage, reply):
        return Action.FAILED, _status("5", stage, reply)
    return Action.DELAYED, _status("4", stage, reply)


def _is_temporary(stage: Stage, reply: Reply) -> bool:
    """Whether a 5yz reply is to be read as 4yz."""
    if stage is Stage.BANNER:
        return reply.code != 521
    return stage is Stage.RCPT and reply.code == 552


def _status(kind: str, stage: Stage, reply: Reply) -> str:
    """The host's own status code, its class as we read it; without one the closest that stage and code allow (RFC 3463)."""
    if reply.code >= 400 and reply.status:
        return kind + reply.status[1:]
    if 200 <= reply.code < 400:
        return kind + ".5.0"  # a reply out of turn: protocol status undefined
    if stage is Stage.RCPT and reply.code in (452, 552):
        return kind + ".5.3"
    return kind + _STATUS_OF_CODE.get(reply.code, _STATUS_OF_STAGE.get(stage, ".0.0"))


_STATUS_OF_CODE = {421: ".3.2", 450: ".2.0", 452: ".3.1", 521: ".3.2", 552: ".3.4", 556: ".1.10"}
_STATUS_OF_STAGE = {Stage.BANNER: ".3.2", Stage.EHLO: ".5.0", Stage.MAIL: ".1.0", Stage.RCPT: ".1.0", Stage.DOT: ".6.0"}


def _health(fact: Fact) -> SiteHealth:
    reply = fact.reply
    if reply is not None:
        if fact.stage is _DOT and 200 <= reply.code < 300:  # by far the most
            return _GOOD
        if reply.code == 421:
            return SiteHealth.BUSY
        if fact.stage in _AT_GREETING:
            return SiteHealth.BUSY if reply.code < 500 else SiteHealth.DEAD
        return SiteHealth.GOOD if 200 <= reply.code < 300 else SiteHealth.NEUTRAL
    if fact.trouble is Trouble.UNATTEMPTED:
        return SiteHealth.UNATTEMPTED
    if fact.trouble in (Trouble.DNS_FAILURE, Trouble.NO_RELAY):
        return SiteHealth.DEAD
    if fact.trouble in _NO_REPLY:
        return SiteHealth.DEAD if fact.stage in _AT_GREETING else SiteHealth.BUSY
    return SiteHealth.NEUTRAL


def _said(fact: Fact, reply: Reply) -> str:
    """host mx.example[192.0.2.1]:25 said: 550 5.1.1 No such user (in reply to RCPT TO)."""
    if fact.host is None:
        return reply.text
    if fact.stage is Stage.BANNER:
        return f"host {fact.host.relay} refused to talk to us: {reply.text}"
    if fact.stage is Stage.BODY:
        return f"host {fact.host.relay} said: {reply.text} (while {fact.stage.value})"
    return f"host {fact.host.relay} said: {reply.text} (in reply to {fact.stage.value})"


def _in_words(fact: Fact, trouble: Trouble) -> str:
    detail = f": {fact.detail}" if fact.detail else ""
    if fact.host is None:
        return f"{trouble.value}{detail}"
    relay = fact.host.relay
    if fact.stage is Stage.CONNECT:
        words = "connection timed out" if trouble is Trouble.TIMEOUT else trouble.value
        return f"connect to {relay}: {words}{detail}"
    while_ = f"while {fact.stage.value}" if fact.stage in (Stage.BANNER, Stage.BODY) else f"after {fact.stage.value}"
    twice = " (the message may have been delivered)" if fact.stage is Stage.DOT else ""
    if trouble is Trouble.LOST:
        return f"lost connection with {relay} {while_}{twice}{detail}"
    if trouble is Trouble.TIMEOUT:
        return f"conversation with {relay} timed out {while_}{twice}{detail}"
    return f"host {relay}: {trouble.value} ({while_}){twice}{detail}"
