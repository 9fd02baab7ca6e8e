"""A delivery on its way through the SMTP agent: which recipients are still open, and what was seen of the others.

A job is handed from connection to connection until each recipient has its fact; then `finish` calls the flow's `done`,
once. A transaction carries at most `limit` of the open recipients. What keeps a recipient open is decided in
`trouble.py` (another host may do better, the host wants fewer at a time); every round either closes a recipient or
uses up one of the job's bounds (`tried` hosts, `restarts`), so a job always ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from mailflow.delivery.request import Delivery, Done, Fact, Stage, Trouble
from mailflow.delivery.trouble import next_host, same_host_again
from mailflow.envelope import PLAIN, Options, Recipient, domain_of
from mailflow.report import HostAttempt
from mailflow.smtp.reply import Reply
from mailflow.smtp.transaction import NO_PARAMETERS, Answer, End, Parameters, Step, Transaction

MAX_RESTARTS = 5
"""How often a job may find its kept connection dead before that counts as the host's failure."""

PROTOCOL_ERRORS = range(500, 505)
"""What a host says that did not understand us, or lost its thread (RFC 5321 §4.2.2): nothing about the mail itself."""

_FIRST = (0,)
_DOT = Step.DOT  # a global is found faster than an enum's member

_STAGE = (
    Stage.BANNER,
    Stage.EHLO,
    Stage.EHLO,
    Stage.MAIL,
    Stage.RCPT,
    Stage.DATA,
    Stage.BODY,
    Stage.DOT,
    Stage.MAIL,  # RSET is sent in front of MAIL
    Stage.DOT,
)
"""The stage for each `Step`."""
_TROUBLE = {
    End.REPLY: Trouble.LOST,
    End.LOST: Trouble.LOST,
    End.TIMEOUT: Trouble.TIMEOUT,
    End.GARBAGE: Trouble.GARBAGE,
    End.NOT_BEGUN: Trouble.UNATTEMPTED,
    End.NO_CONTENT: Trouble.IO_ERROR,
    End.NEEDS_8BITMIME: Trouble.NEEDS_8BITMIME,
    End.NEEDS_SMTPUTF8: Trouble.NEEDS_SMTPUTF8,
    End.NEEDS_BINARYMIME: Trouble.NEEDS_BINARYMIME,
    End.NEEDS_REQUIRETLS: Trouble.NEEDS_REQUIRETLS,
    End.NEEDS_DELIVERBY: Trouble.NEEDS_DELIVERBY,
    End.TOO_LARGE: Trouble.TOO_LARGE,
    End.BAD_ADDRESS: Trouble.REJECTED_ROUTE,
}


class Job(Transaction):
    """One delivery, and who wants to know its end. For the client it is the transaction, filled anew for each round."""

    __slots__ = ("began", "delivery", "done", "facts", "open", "restarts", "tried")

    def __init__(self, delivery: Delivery, done: Done) -> None:
        # the base's fields are filled by `prepare`: one job is made for each message, and one call less for it
        self.delivery = delivery
        self.done = done
        count = len(delivery.recipients)
        self.facts: list[Fact | None] = [None] * count
        """What was seen so far; for an open recipient what the last host did."""
        self.open: Sequence[int] = _FIRST if count == 1 else range(count)
        """Indexes of the recipients that have no final fact."""
        self.tried: tuple[str, ...] = ()
        """"address:port" of the hosts that had their chance."""
        self.restarts = 0
        self.began = 0.0
        """Loop time when the transaction under way began."""

    def __repr__(self) -> str:
        return f"<Job {self.delivery!r} open={len(self.open)} tried={self.tried} restarts={self.restarts}>"

    def prepare(self, limit: int) -> None:
        """Makes the next transaction of it: at most `limit` of the open recipients."""
        delivery = self.delivery
        message, content = delivery.message, delivery.content
        if len(self.open) == 1:  # by far the most
            recipient = delivery.recipients[self.open[0]]
            self.recipients = (recipient.address,)
            wants_dsn = recipient.notify != "" or recipient.orcpt != ""
        else:
            recipients = [delivery.recipients[index] for index in self.open[:limit]]
            self.recipients = [recipient.address for recipient in recipients]
            wants_dsn = any(recipient.notify or recipient.orcpt for recipient in recipients)
        self.sender = message.sender
        if isinstance(content, bytes):
            self.content, self.size = content, len(content)
        else:
            self.content, self.size = None, content.size
        self.answers = []
        if wants_dsn or message.options is not PLAIN:
            self.parameters = self._parameters(message.options)
        else:
            self.parameters = NO_PARAMETERS

    def _parameters(self, options: Options) -> Parameters:
        """What the client asked for beyond addresses, for the recipients that were prepared."""
        chosen = [self.delivery.recipients[index] for index in self.open[: len(self.recipients)]]
        dsn = [(recipient.notify, recipient.orcpt) for recipient in chosen]
        by = _time_left(options, time.time()) if options.by else ""
        return Parameters(options.body, options.smtputf8, options.ret, options.envid, dsn, by, options.requiretls)

    def restart(self) -> bool:
        """Whether the job may go to another connection as if nothing had been; counts."""
        self.restarts += 1
        return self.restarts <= MAX_RESTARTS

    def delivered(self) -> Reply | None:
        """The host's word, if this is what nearly every transaction is: the job's only recipient, and accepted."""
        answer = self.answers[0]
        if answer is None or len(self.facts) != 1:
            return None
        step, reply, _ = answer
        return reply if step is _DOT and reply is not None and reply.code < 300 else None

    def take_in(self, host: HostAttempt, *, other_hosts: bool, soft: bool = False) -> None:
        """Notes the answers of a finished transaction; `open` is afterwards who needs another one.

        `other_hosts`: whether there are hosts that this job has not tried. `soft`: protocol errors may pass.
        """
        self.delivery.hosts.append(host)
        answers = self.answers
        sent = self.open[: len(answers)]
        accepted = any(answer is not None and answer[0] is Step.DOT for answer in answers)
        stay = set(self.open[len(sent) :])
        for index, answer in zip(sent, answers, strict=True):
            fact = self.facts[index] = fact_of(answer, host, soft=soft)
            if (accepted and same_host_again(fact)) or (other_hosts and next_host(fact)):
                stay.add(index)
        self.open = [index for index in self.open if index in stay]

    def wants_other_host(self) -> bool:
        """Whether those who are open were turned away by the last host, rather than waiting for their turn there."""
        facts = [fact for index in self.open if (fact := self.facts[index]) is not None]
        return bool(facts) and not any(same_host_again(fact) for fact in facts)

    def fail(self, fact: Fact) -> None:
        """Everybody who has no fact yet gets this one; with others the last host's word stands. Ends the job."""
        recipients = self.delivery.recipients
        self.facts = [
            self._fact_for(recipient, fact) if found is None else found
            for recipient, found in zip(recipients, self.facts, strict=True)
        ]
        self.finish()

    def _fact_for(self, recipient: Recipient, fact: Fact) -> Fact:
        """Tells a domain without mail hosts from a configured next hop without: the recipient's is another one."""
        absent = fact.trouble is Trouble.NO_HOST or fact.trouble is Trouble.NULL_MX
        if absent and domain_of(recipient.address) != self.delivery.next_hop.lower():
            return Fact(fact.stage, None, Trouble.NO_RELAY, None, fact.detail or self.delivery.next_hop)
        return fact

    def finish(self) -> None:
        """Gives the delivery back, with all its facts."""
        self.delivery.facts.extend([fact for fact in self.facts if fact is not None])
        self.give_back()

    def give_back(self) -> None:
        """The same when the delivery has its facts already."""
        try:
            self.done(self.delivery)
        except Exception as error:  # noqa: BLE001 - the caller's failure must not break the connection for others
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "done() of a delivery failed", "exception": error})


def _time_left(options: Options, now: float) -> str:
    """BY= for the next host: what is left of the time; below zero it may be for "N" only, and is bounded (RFC 2852 §4)."""
    seconds = max(int(options.by - now), -999999999 if "N" in options.by_mode else 1)
    return f"{seconds};{options.by_mode}"


def fact_of(answer: Answer | None, host: HostAttempt, *, soft: bool = False) -> Fact:
    """The fact for one recipient's answer."""
    if answer is None:
        return Fact(Stage.MAIL, None, Trouble.UNATTEMPTED, host)
    step, reply, end = answer
    if reply is not None:
        return Fact(_STAGE[step], reply, None, host, "", soft and reply.code in PROTOCOL_ERRORS)
    if end is End.NO_CONTENT:
        return Fact(Stage.STORE, None, Trouble.IO_ERROR)
    detail = "line end in an address" if end is End.BAD_ADDRESS else ""
    return Fact(_STAGE[step], None, _TROUBLE[end or End.LOST], host, detail)


def end_words(answers: list[Answer | None]) -> str:
    """A transaction's end in one line, for the record of the host: the last reply, or our words for what happened."""
    last = answers[-1] if answers else None
    if last is None:
        return ""
    _, reply, end = last
    return reply.text if reply is not None else (end or End.LOST).value
