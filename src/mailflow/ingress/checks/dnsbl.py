"""Block and allow lists in the DNS: every list's weight is added to a score, and the score decides (RFC 5782).

`Dnsbl.score` asks all lists at once, those of one zone with one question, within one time limit. It answers at once
where all answers are in the resolver's cache, which keeps them by their TTL. What fails or comes too late does
not count; a zone that failed `FAILURES` times in a row is left alone for `REST_SECONDS`, so that a list that has gone
costs a session its time limit now and then, and not each time. `dnsbl_selftest.py` leaves out zones that list everybody.

Trusted clients, private addresses and exempt networks have the score 0, and nobody is asked.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from mailflow.ingress.checks import subjects
from mailflow.ingress.checks.answers import OVER_QUOTA, Accepts, any_of, usable
from mailflow.ingress.checks.settings import DnsblSettings
from mailflow.ingress.checks.words import clean
from mailflow.ingress.verdict import Action, Finding, Situation, Verdict
from mailflow.net.dns import DnsError
from mailflow.smtp.reply import reply

FAILURES = 3
"""Time-outs and refusals in a row after which a zone rests."""
REST_SECONDS = 60.0
REASON_SECONDS = 2.0
"""How long the reason of a listing is waited for; the refusal does without it then."""
REASON_LIMIT = 200
"""Characters of a list's own words."""

Kind = Literal["client", "helo", "sender"]


class Lookups(Protocol):
    """The name service (`net.dns.Resolver`)."""

    def known(self, name: str, kind: Literal["A", "TXT"]) -> tuple[str, ...] | None:
        """Records from the cache; None when they have to be asked for."""
        ...

    async def records(self, name: str, kind: Literal["A", "TXT"]) -> tuple[str, ...]:
        """Records; none when there are none. Raises `DnsError`."""
        ...


@dataclass(slots=True)
class Zone:
    """A zone as it has shown itself so far."""

    name: str
    failures: int = 0
    """In a row."""
    rests_until: float = 0.0
    lists_everybody: bool = False

    def usable(self, now: float) -> bool:
        """Whether it is asked at all."""
        return not self.lists_everybody and now >= self.rests_until


class List(NamedTuple):
    """One entry of the settings."""

    zone: Zone
    kind: Kind
    weight: int
    accepts: Accepts

    def holds(self, answers: tuple[str, ...]) -> bool:
        """Whether these answers mean that the subject is listed."""
        return any(usable(a) and self.accepts(a) and not (self.weight < 0 and a == OVER_QUOTA) for a in answers)


class Listing(NamedTuple):
    """One list that holds the client, its HELO name or the sender's domain."""

    zone: str
    weight: int
    kind: Kind
    subject: str
    """What was looked up, as people know it."""
    name: str
    """The DNS name that exists."""


class Score(NamedTuple):
    """What all lists together say."""

    total: int = 0
    listings: tuple[Listing, ...] = ()

    def __str__(self) -> str:
        return f"{self.total} ({', '.join(f'{listing.zone} {listing.weight:+d}' for listing in self.listings)})"


NOTHING = Score()


class Question(NamedTuple):
    """One name to be asked for; lists of one zone share it."""

    name: str
    zone: Zone
    kind: Kind
    subject: str


class Dnsbl:
    """The checks `reject_dnsbl` and `permit_dnswl`."""

    def __init__(
        self,
        settings: DnsblSettings,
        dns: Lookups,
        now: Callable[[], float],
        warn: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """`now` gives seconds of any clock that does not jump; `warn` is told which zones fail."""
        self._settings = settings
        self._dns, self._now, self._warn = dns, now, warn
        self.zones = {entry.zone: Zone(entry.zone) for entry in settings.list}
        self.lists = [
            List(self.zones[entry.zone], entry.kind, entry.weight, any_of(entry.replies)) for entry in settings.list
        ]

    def __repr__(self) -> str:
        return f"<Dnsbl {' '.join(self.zones)}>"

    # The checks

    def reject(self, situation: Situation) -> Finding | Awaitable[Finding]:
        """`reject_dnsbl`: a refusal when the score is high enough, or None."""
        score = self.score(situation)
        if not isinstance(score, Score):
            return self._judge_later(score)
        return self._judge(score)

    def permits(self, situation: Situation) -> bool | Awaitable[bool]:
        """`permit_dnswl`: whether the score is low enough."""
        score = self.score(situation)
        if not isinstance(score, Score):
            return self._permits_later(score)
        return score.total <= self._settings.permit_at

    def score(self, situation: Situation) -> Score | Awaitable[Score]:
        """What the lists say of this session as it is now; at once when all of it is known."""
        questions = self._questions(situation)
        if not questions:
            return NOTHING
        known = self._dns.known
        answers = {question.name: known(question.name, "A") for question in questions}
        missing = [question for question in questions if answers[question.name] is None]
        if not missing:
            return self._add_up(questions, answers)
        return self._look_up(questions, answers, missing)

    # Asking

    def _questions(self, situation: Situation) -> list[Question]:
        if situation.trusted or not self.lists or self._is_exempt(situation.peer.address):
            return []
        now = self._now()
        found = {}
        for zone, kind, _, _ in self.lists:
            subject, label = _subject(kind, situation)
            name = f"{label}.{zone.name}"
            if label and zone.usable(now) and len(name) <= 253:
                found[name, kind] = Question(name, zone, kind, subject)
        return list(found.values())

    async def _look_up(
        self, questions: list[Question], answers: dict[str, tuple[str, ...] | None], missing: list[Question]
    ) -> Score:
        zones = {question.name: question.zone for question in missing}
        tasks = {name: asyncio.get_running_loop().create_task(self._dns.records(name, "A")) for name in zones}
        try:
            await asyncio.wait(tasks.values(), timeout=self._settings.time_limit)
            for name, task in tasks.items():
                answers[name] = self._answer_of(task, zones[name])
        finally:
            for task in tasks.values():
                task.cancel()
        return self._add_up(questions, answers)

    def _answer_of(self, task: asyncio.Task[tuple[str, ...]], zone: Zone) -> tuple[str, ...]:
        if task.done() and not isinstance(task.exception(), DnsError):
            zone.failures = 0
            return task.result()  # raises what is a mistake of ours and not the list's
        zone.failures += 1
        if zone.failures >= FAILURES:
            zone.failures = 0
            zone.rests_until = self._now() + REST_SECONDS
            self._warn(f"{zone.name} does not answer, it is not asked for {REST_SECONDS:.0f} seconds")
        return ()

    def _add_up(self, questions: list[Question], answers: dict[str, tuple[str, ...] | None]) -> Score:
        listings = [
            Listing(question.zone.name, entry.weight, entry.kind, question.subject, question.name)
            for question in questions
            for entry in self.lists
            if entry.zone is question.zone and entry.kind == question.kind and entry.holds(answers[question.name] or ())
        ]
        return Score(sum(listing.weight for listing in listings), tuple(listings)) if listings else NOTHING

    def _is_exempt(self, client: str) -> bool:
        if not self._settings.exempt:
            return False
        address = subjects.plain_address(client)
        return address is not None and any(address in network for network in self._settings.exempt)

    # Judging

    async def _permits_later(self, score: Awaitable[Score]) -> bool:
        return (await score).total <= self._settings.permit_at

    async def _judge_later(self, score: Awaitable[Score]) -> Finding:
        found = self._judge(await score)
        return await found if inspect.isawaitable(found) else found

    def _judge(self, score: Score) -> Finding | Awaitable[Finding]:
        settings = self._settings
        code = 554 if score.total >= settings.reject_at else 450 if 0 < settings.defer_at <= score.total else 0
        if not code:
            return None
        worst = max(score.listings, key=lambda listing: listing.weight)
        texts = self._dns.known(worst.name, "TXT") if settings.reasons else ()
        return self._with_reason(code, score, worst) if texts is None else _refusal(code, score, worst, texts)

    async def _with_reason(self, code: int, score: Score, worst: Listing) -> Verdict:
        try:
            async with asyncio.timeout(REASON_SECONDS):
                texts = await self._dns.records(worst.name, "TXT")
        except (DnsError, TimeoutError):
            texts = ()
        return _refusal(code, score, worst, texts)


def _subject(kind: Kind, situation: Situation) -> tuple[str, str]:
    """What is looked up, as people know it and as DNS lists do; "" for what they cannot know."""
    if kind == "client":
        address = situation.peer.address
        return f"Client [{address}]", subjects.of_client(address)
    if kind == "helo":
        label = subjects.of_domain(situation.peer.helo)
        return f"HELO name {label}", label
    label = subjects.of_domain((situation.sender or "").rpartition("@")[2])
    return f"Sender domain {label}", label


def _refusal(code: int, score: Score, worst: Listing, texts: tuple[str, ...]) -> Verdict:
    words = f"{worst.subject} is listed by {worst.zone}"
    if texts:
        words += f": {clean(texts[0], REASON_LIMIT)}"
    return Verdict(Action.REFUSE, reply(code, f"{code // 100}.7.1", clean(words)), f"score {score}", "reject_dnsbl")
