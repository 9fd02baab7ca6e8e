"""Finding, counting and changing mail by conditions: each condition alone against a plain filter over all mail."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailflow.envelope import Message, Peer, Recipient
from mailflow.queue import Command, Queue
from mailflow.store import admin, scan
from mailflow.store.filters import from_json, to_json
from mailflow.store.offline import open_offline
from mailflow.store.schema import connect_read_only
from mailflow.store.search import GROUPINGS, count_by, find_messages, totals
from mailflow.store.values import Selection
from mailflow.store.writer import Writer
from tests.queue.helpers import Clock, put, with_queue

NOW = Clock().now
HOSTS = ("far.example", "near.example", "100%_odd.example", "relay.example")


@dataclass
class Mail:
    """A message as the test remembers it, with its recipients."""

    message: Message
    states: list[str]


@pytest.fixture(scope="module")
def mails(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Mail]]:
    """A queue of some hundred messages of all kinds, and what is in it."""
    spool = tmp_path_factory.mktemp("spool")
    rng = random.Random(7)

    async def body(queue: Queue) -> list[Mail]:
        made = []
        for n in range(300):
            number = queue.new_id()
            states = [rng.choice(("queued", "deferred", "held")) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            recipients = [_recipient(i, state, rng) for i, state in enumerate(states)]
            peer = Peer(
                f"192.0.2.{n % 7}", 1000 + n, f"c{n % 5}.example.net", "helo", "ESMTP", "", rng.choice(("", "jöe"))
            )
            sender = rng.choice(("", "a@example.org", "B@example.org", '"x@y"@quoted.example'))
            message = Message(number, sender, recipients, b"x" * (n % 50), arrived=NOW - n * 60, size=n % 50, peer=peer)
            made.append(Mail(message, states))
            assert await put(queue, message) is None
        held = [(m, i) for m in made for i, state in enumerate(m.states) if state == "held"]
        for m, i in held:  # one by one: a hold by id would take all recipients
            address = m.message.recipients[i].address
            await queue.hold(Selection(ids=(m.message.id,), recipient=address))
        return made

    return spool, with_queue(spool, body)


def _recipient(number: int, state: str, rng: random.Random) -> Recipient:
    host = rng.choice(HOSTS)
    tried = state == "deferred"
    return Recipient(
        number,
        f"user{number}_{rng.randrange(9)}@{host}",
        f"smtp:{host}",
        original="alias@here.example" if rng.random() < 0.2 else "",
        due=NOW + 100 if tried and rng.random() < 0.5 else NOW - 5,
        attempts=int(tried),
        reason=rng.choice(("connection refused", "451 4.2.2 Mailbox full")) if tried else "",
    )


CONDITIONS = [
    ({"sender": "a@example.org"}, lambda m, r, s: m.sender == "a@example.org"),
    ({"sender": "A@EXAMPLE.ORG"}, lambda m, r, s: m.sender == "a@example.org"),
    ({"sender": "*@example.org"}, lambda m, r, s: m.sender.endswith("@example.org")),
    ({"sender": ""}, lambda m, r, s: m.sender == ""),
    ({"recipient": "user1_*"}, lambda m, r, s: r.address.startswith("user1_")),
    ({"recipient": "*@100%_odd.example"}, lambda m, r, s: r.address.endswith("@100%_odd.example")),
    ({"recipient": "user1%"}, lambda m, r, s: False),
    ({"recipient": "alias@*"}, lambda m, r, s: r.original != ""),
    ({"destination": "smtp:far.example"}, lambda m, r, s: r.destination == "smtp:far.example"),
    ({"destination": "smtp:FAR.example"}, lambda m, r, s: False),
    ({"destination": "*ar.example"}, lambda m, r, s: r.destination.endswith("ar.example")),
    ({"client": "192.0.2.3"}, lambda m, r, s: m.peer.address == "192.0.2.3"),
    ({"client": "192.0.2"}, lambda m, r, s: False),
    ({"client": "c4.*"}, lambda m, r, s: m.peer.name == "c4.example.net"),
    ({"client": "jöe"}, lambda m, r, s: m.peer.login == "jöe"),
    ({"before": NOW - 6000.0}, lambda m, r, s: m.arrived <= NOW - 6000),
    ({"after": NOW - 6000.0}, lambda m, r, s: m.arrived >= NOW - 6000),
    ({"larger": 25}, lambda m, r, s: m.size >= 25),
    ({"smaller": 25}, lambda m, r, s: m.size <= 25),
    ({"state": "held"}, lambda m, r, s: s == "held"),
    ({"state": "queued"}, lambda m, r, s: s == "queued"),
    ({"state": "deferred"}, lambda m, r, s: s == "deferred"),
    ({"state": "due"}, lambda m, r, s: s != "held" and r.due <= NOW),
    ({"reason": "mailbox"}, lambda m, r, s: "Mailbox" in r.reason),
    ({"reason": "451*full"}, lambda m, r, s: "Mailbox" in r.reason),
    (
        {"state": "deferred", "sender": "", "larger": 10},
        lambda m, r, s: s == "deferred" and not m.sender and m.size > 9,
    ),
]


@pytest.mark.parametrize("look", [7, 5000])
@pytest.mark.parametrize(("given", "fits"), CONDITIONS, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_each_condition_finds_what_a_plain_filter_finds(
    mails: tuple[Path, list[Mail]], given: dict, fits: object, look: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, made = mails
    monkeypatch.setattr("mailflow.store.search.READ_ROWS", look)
    selection = from_json(given)
    assert from_json(to_json(selection)) == selection
    wanted = {
        m.message.id: [r.number for r, s in zip(m.message.recipients, m.states, strict=True) if fits(m.message, r, s)]
        for m in made
    }
    wanted = {key: numbers for key, numbers in wanted.items() if numbers}
    found = list(find_messages(spool, selection, NOW))
    assert {m.id: [r.number for r in m.recipients] for m in found} == wanted
    assert [m.id for m in found] == sorted(wanted)
    counts = totals(spool, selection, NOW)
    assert counts[:2] == (len(wanted), sum(map(len, wanted.values())))
    some = [m.id for m in find_messages(spool, selection, NOW, limit=3)]
    assert some == sorted(wanted)[:3]


@pytest.mark.parametrize("look", [7, 5000])
def test_counting_by_everything_one_can_count_by(
    mails: tuple[Path, list[Mail]], look: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, made = mails
    monkeypatch.setattr("mailflow.store.search.READ_ROWS", look)
    values = {
        "destination": lambda m, r, s: r.destination,
        "recipient-domain": lambda m, r, s: r.address.rpartition("@")[2],
        "sender": lambda m, r, s: m.sender,
        "sender-domain": lambda m, r, s: m.sender.rpartition("@")[2].lower(),
        "client": lambda m, r, s: m.peer.address,
        "reason": lambda m, r, s: r.reason,
        "state": lambda m, r, s: s,
    }
    assert set(values) == set(GROUPINGS)
    for by, value in values.items():
        for given, fits in (({"all": True}, lambda m, r, s: True), ({"larger": 20}, lambda m, r, s: m.size >= 20)):
            rows = [
                (value(m.message, r, s), m.message)
                for m in made
                for r, s in zip(m.message.recipients, m.states, strict=True)
                if fits(m.message, r, s)
            ]
            counts = count_by(spool, from_json(given), by, NOW)
            assert {c.value: c.recipients for c in counts} == Counter(v for v, _ in rows), (by, given)
            assert {c.value: c.messages for c in counts} == Counter(v for v, _ in {(v, m.id) for v, m in rows})
            assert [c.recipients for c in counts] == sorted((c.recipients for c in counts), reverse=True)
            assert min(c.oldest for c in counts) == min(m.id for _, m in rows) / 1e6


def test_more_different_values_than_fit_are_counted_together(
    mails: tuple[Path, list[Mail]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailflow.store.search.GROUPS", 2)
    counts = count_by(mails[0], Selection(everything=True), "client", NOW)
    assert len(counts) == 3
    assert sum(c.messages for c in counts) == len(mails[1])


@pytest.mark.parametrize("indexed", [0, 20_000], ids=["all rows", "index"])
def test_commands_change_what_a_search_finds(tmp_path: Path, indexed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "INDEXED_RECIPIENTS", indexed)
    monkeypatch.setattr(admin, "SCANNED_RECIPIENTS", 11)

    async def body(queue: Queue) -> None:
        for n in range(100):
            recipients = [Recipient(i, f"u{n}@{h}", f"smtp:{h}", due=NOW + n, attempts=1) for i, h in enumerate(HOSTS)]
            number = queue.new_id()
            await put(queue, Message(number, f"s{n % 2}@x.example", recipients, b"x", arrived=NOW, size=1, peer=Peer()))
        half = Selection(destination="smtp:near.example", sender="s1@*")
        assert sum(c.recipients for c in await queue.hold(half)) == 50
        assert totals(tmp_path, half, NOW) == (50, 50, 0, 0, 50)
        assert totals(tmp_path, Selection(everything=True), NOW).held == 50
        assert len(await queue.release(Selection(state="held", destination="smtp:near.example", limit=7))) == 7
        assert len(await queue.flush(Selection(recipient="u3*@far.example"))) == 11
        assert totals(tmp_path, Selection(state="due", destination="smtp:far.example"), NOW).recipients == 12
        assert len(await queue.delete(Selection(destination="smtp:near.example"))) == 100
        assert totals(tmp_path, Selection(everything=True), NOW)[:2] == (100, 300)
        assert len(await queue.delete(Selection(sender="s0@*"))) == 50
        assert totals(tmp_path, Selection(everything=True), NOW)[:2] == (50, 150)
        assert (await queue.counts()).messages == 50

    with_queue(tmp_path, body)


@pytest.mark.parametrize("look", [4, 1000], ids=["in parts", "at once"])
def test_a_message_counts_once_however_its_recipients_lie_apart(
    tmp_path: Path, look: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailflow.store.search.READ_ROWS", look)

    async def body(queue: Queue) -> None:
        for _ in range(2):
            recipients = [Recipient(i, f"u{i}@x.example", f"smtp:{HOSTS[i % 2]}") for i in range(31)]
            assert (
                await put(queue, Message(queue.new_id(), "", recipients, b"x", arrived=NOW, size=1, peer=Peer()))
                is None
            )
        for host, each in zip(HOSTS, (16, 15), strict=False):
            chosen = Selection(destination=f"smtp:{host}")
            assert totals(tmp_path, chosen, NOW)[:2] == (2, 2 * each)
            (count,) = count_by(tmp_path, chosen, "destination", NOW)
            assert count[1:3] == (2, 2 * each)
            assert [len(m.recipients) for m in find_messages(tmp_path, chosen, NOW)] == [each, each]

    with_queue(tmp_path, body)


@pytest.mark.parametrize("where", [{"sender": "s*"}, {"before": NOW}, {"larger": 1}, {"client": "192.0.2.1"}])
@pytest.mark.usefixtures("tables_only")
def test_what_a_look_finds_is_not_sorted(tmp_path: Path, where: dict[str, Any]) -> None:
    async def body(queue: Queue) -> None:
        plans: list[str] = []
        look = scan.Scan(Selection(**where), NOW, look=100)
        with closing(connect_read_only(tmp_path)) as db:
            explained = _Explained(db, plans)
            look.rows(explained, "message_id, number", 10)  # type: ignore[arg-type]
        assert any("SEARCH message" in step for step in plans)
        assert not any("TEMP B-TREE" in step or "SCAN" in step for step in plans)

    with_queue(tmp_path, lambda queue: _filled(queue, body))


class _Explained:
    """A connection that remembers how each statement is carried out."""

    def __init__(self, db: sqlite3.Connection, plans: list[str]) -> None:
        self._db, self._plans = db, plans

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if "FROM recipient" in sql or "JOIN recipient" in sql:
            self._plans += [row[3] for row in self._db.execute(f"EXPLAIN QUERY PLAN {sql}", *values)]
        return self._db.execute(sql, *values)


async def _filled(queue: Queue, body: Callable[[Queue], Awaitable[None]]) -> None:
    for n in range(3):
        await _put_one(queue, n)
    await body(queue)


def test_a_command_that_is_through_does_not_wait_for_the_mail_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailflow.store.administration.ADMIN_SPARES", 10**9)  # beyond the time that a test may take
    monkeypatch.setattr("mailflow.store.administration.ADMIN_PAUSE_SECONDS", 10**9)

    async def body(queue: Queue) -> None:
        for n in range(3):
            await _put_one(queue, n)  # mail went by since the last step, of which there was none
        assert len(await queue.hold(Selection(destination="smtp:far.example"))) == 3

    with_queue(tmp_path, body)


@pytest.mark.parametrize(
    ("beside", "seconds", "changed", "pause"),
    [
        (False, 0.01, 0, 0.05),
        (False, 0.01, 180, 0.05),
        (False, 0.01, 450, 0.1025),
        (False, 0.001, 450, 0.015),
        (False, 1.0, 450, 1.0),
        (True, 0.01, 0, 0.05),
        (True, 0.01, 45, 0.01),
        (True, 0.01, 180, 0.035),
        (True, 0.001, 450, 0.015),
        (True, 0.8, 450, 0.8),
    ],
)
def test_a_command_that_is_quick_leaves_the_mail_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool, seconds: float, changed: int, pause: float
) -> None:
    """Five times its own time at least, once where mail went on beside it and it changed something, fifteen at most; in
    between what leaves it 4,000 messages a second; a second at most."""
    pauses: list[float] = []

    async def sleep(length: float) -> None:
        pauses.append(length)

    async def body(queue: Queue) -> None:
        task = admin.AdminTask(Command.DELETE, Selection(everything=True), 0.0)
        task.seconds = seconds
        await _put_one(queue, 0)
        with monkeypatch.context() as patched:
            patched.setattr("mailflow.store.administration.asyncio.sleep", sleep)
            patched.setattr(Writer, "beside", beside)
            await queue._administration._give_way(task, changed)
        assert pauses == [pytest.approx(pause)]

    with_queue(tmp_path, body)


def test_mail_that_arrives_during_a_command_is_not_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailflow.store.admin.SMALLEST_STEP", 1)

    async def body(queue: Queue) -> None:
        for n in range(6):
            await _put_one(queue, n)
        seen = []
        async for step in queue.change(Command.HOLD, Selection(everything=True)):
            seen += step
            if len(seen) < 100:
                await _put_one(queue, 50)
        assert len(seen) == 6
        assert (await queue.counts()).held == 6

    with_queue(tmp_path, body)


async def _put_one(queue: Queue, n: int) -> None:
    recipient = Recipient(0, f"u{n}@far.example", "smtp:far.example")
    await put(queue, Message(queue.new_id(), "", [recipient], b"x", arrived=NOW, size=1, peer=Peer()))


def test_a_command_over_everything_keeps_nothing_and_gives_way(tmp_path: Path) -> None:
    """A step is bounded: what other senders wait for, and what is remembered of it."""

    async def body(queue: Queue) -> None:
        recipients = [Recipient(i, f"u{i}@far.example", "smtp:far.example") for i in range(3 * admin.STEP_RECIPIENTS)]
        await put(queue, Message(queue.new_id(), "", recipients, b"x", arrived=NOW, size=1, peer=Peer()))

    with_queue(tmp_path, body)
    with open_offline(tmp_path, now=Clock()) as queue:
        steps = [sum(c.recipients for c in step) for step in queue.change(Command.HOLD, Selection(everything=True))]
    assert sum(steps) == 3 * admin.STEP_RECIPIENTS
    assert max(steps) <= admin.STEP_RECIPIENTS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "has conditions, or is everything"),
        ({"limit": 3}, "has conditions, or is everything"),
        ({"all": True, "sender": "x"}, "has conditions, or is everything"),
        ({"all": "yes"}, "all: true or false expected"),
        ({"ids": []}, "ids: a list"),
        ({"ids": "abc"}, "ids: a list"),
        ({"ids": ["nonsense"]}, "not a queue id"),
        ({"sender": 5}, "sender: text expected"),
        ({"larger": "5"}, "larger: a number expected"),
        ({"larger": True}, "larger: a number expected"),
        ({"state": "lost"}, "not a state"),
        ({"sendr": "x"}, "sendr: no such condition"),
    ],
)
def test_what_is_no_selection(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_json(given)
