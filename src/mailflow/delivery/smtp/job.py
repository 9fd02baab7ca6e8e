"""A delivery on its way through the SMTP agent: which recipients are still open, and what was seen of the others.

A job is handed from connection to connection until each recipient has its fact; then `finish` calls the flow's `done`,
once. A transaction carries at most `limit` of the open recipients. What keeps a recipient open is decided in
`trouble.py` (another host may do better, the host wants fewer at a time); every round either closes a recipient or
uses up one of the job's bounds (`tried` hosts, `restarts`), so a job always ends.
"""

from __future__ import annotations

import asyncio

from mailflow.delivery.request import Delivery, Done, Fact, Stage, Trouble
from mailflow.delivery.trouble import next_host, same_host_again
from mailflow.envelope import PLAIN
from mailflow.report import HostAttempt
from mailflow.smtp.transaction import Answer, End, Step, Transaction

MAX_RESTARTS = 5
"""How often a job may find its kept connection dead before that counts as the host's failure."""

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
    End.TOO_LARGE: Trouble.TOO_LARGE,
    End.BAD_ADDRESS: Trouble.REJECTED_ROUTE,
}


class Job:
    """One delivery, and who wants to know its end."""

    __slots__ = ("began", "delivery", "done", "facts", "open", "restarts", "sent", "tried")

    def __init__(self, delivery: Delivery, done: Done) -> None:
        self.delivery = delivery
        self.done = done
        count = len(delivery.recipients)
        self.facts: list[Fact | None] = [None] * count
        """What was seen so far; for an open recipient what the last host did."""
        self.open: list[int] = list(range(count)) if count > 1 else [0]
        """Indexes of the recipients that have no final fact."""
        self.sent: list[int] = []
        """Those of them that are in the transaction under way."""
        self.tried: list[str] = []
        """"address:port" of the hosts that had their chance."""
        self.restarts = 0
        self.began = 0.0
        """Loop time when the transaction under way began."""

    def __repr__(self) -> str:
        return f"<Job {self.delivery!r} open={len(self.open)} tried={self.tried} restarts={self.restarts}>"

    def transaction(self, limit: int) -> Transaction:
        """The next transaction: at most `limit` of the open recipients."""
        delivery = self.delivery
        message, content = delivery.message, delivery.content
        self.sent = sent = self.open if len(self.open) <= limit else self.open[:limit]
        addresses, dsn, wants_dsn = [], [], False
        for index in sent:
            recipient = delivery.recipients[index]
            addresses.append(recipient.address)
            dsn.append((recipient.notify, recipient.orcpt))
            wants_dsn = wants_dsn or recipient.notify != "" or recipient.orcpt != ""
        if isinstance(content, bytes):
            transaction = Transaction(message.sender, addresses, content, len(content), tag=self)
        else:
            transaction = Transaction(message.sender, addresses, None, content.size, tag=self)
        if wants_dsn:
            transaction.dsn = dsn
        options = message.options
        if options is not PLAIN:
            transaction.body, transaction.smtputf8 = options.body, options.smtputf8
            transaction.ret, transaction.envid = options.ret, options.envid
        return transaction

    def restart(self) -> bool:
        """Whether the job may go to another connection as if nothing had been; counts."""
        self.restarts += 1
        return self.restarts <= MAX_RESTARTS

    def take_in(self, answers: list[Answer | None], host: HostAttempt, *, other_hosts: bool) -> None:
        """Notes the answers of a finished transaction; `open` is afterwards who needs another one.

        `other_hosts`: whether there are hosts that this job has not tried.
        """
        self.delivery.hosts.append(host)
        if len(self.facts) == 1 and len(answers) == 1:  # by far the most
            fact = fact_of(answers[0], host)
            self.facts[0] = fact
            if not other_hosts or not next_host(fact):
                self.open = []
            return
        accepted = any(answer is not None and answer[0] is Step.DOT for answer in answers)
        stay = set(self.open[len(self.sent) :])
        for index, answer in zip(self.sent, answers, strict=True):
            fact = self.facts[index] = fact_of(answer, host)
            if (accepted and same_host_again(fact)) or (other_hosts and next_host(fact)):
                stay.add(index)
        self.open = [index for index in self.open if index in stay]

    def wants_other_host(self) -> bool:
        """Whether those who are open were turned away by the last host, rather than waiting for their turn there."""
        facts = [fact for index in self.open if (fact := self.facts[index]) is not None]
        return bool(facts) and not any(same_host_again(fact) for fact in facts)

    def fail(self, fact: Fact) -> None:
        """Everybody who has no fact yet gets this one; with others the last host's word stands. Ends the job."""
        self.facts = [fact if found is None else found for found in self.facts]
        self.finish()

    def finish(self) -> None:
        """Gives the delivery back, with all its facts."""
        delivery = self.delivery
        delivery.facts.extend([fact for fact in self.facts if fact is not None])
        try:
            self.done(delivery)
        except Exception as error:  # noqa: BLE001 - the caller's failure must not break the connection for others
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "done() of a delivery failed", "exception": error})


def fact_of(answer: Answer | None, host: HostAttempt) -> Fact:
    """The fact for one recipient's answer."""
    if answer is None:
        return Fact(Stage.MAIL, None, Trouble.UNATTEMPTED, host)
    step, reply, end = answer
    if reply is not None:
        return Fact(_STAGE[step], reply, None, host)
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
