"""Enqueue, load, content, settle: what users of the queue rely on."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mailflow.backlog import NEVER
from mailflow.envelope import HELD, Options, Recipient
from mailflow.errors import QueueDamaged, QueueError, QueueFull
from mailflow.queue import Position, Queue, Settlement
from mailflow.store.reader import list_messages
from tests.queue.helpers import PEER, Clock, called, everything, make, put, settle, with_queue


@pytest.mark.wish(50)
def test_a_message_comes_back_as_it_went_in_after_a_restart(tmp_path: Path) -> None:
    options = Options("8BITMIME", smtputf8=True, ret="HDRS", envid="x+2B1")
    body = b"Subject: caf\xc3\xa9\r\n\r\n\x00\xff\r\n"

    async def first(queue: Queue) -> int:
        message = make(queue, body, ("smtp:example.net", "local:bob"), sender="\u00fc@example.org", options=options)
        message.recipients[0].original = "list@example.org"
        message.recipients[0].orcpt = "rfc822;list@example.org"
        message.recipients[0].notify = "FAILURE,DELAY"
        assert await put(queue, message) is None
        return message.id

    number = with_queue(tmp_path, first)

    async def second(queue: Queue) -> None:
        [message] = await everything(queue)
        assert (message.id, message.sender, message.size, message.remaining) == (
            number,
            "\u00fc@example.org",
            len(body),
            2,
        )
        assert message.peer == PEER
        assert message.options == options
        assert message.recipients == [
            Recipient(
                0,
                "r0@example.net",
                "smtp:example.net",
                "list@example.org",
                "rfc822;list@example.org",
                "FAILURE,DELAY",
            )
        ]
        assert message.content is None
        assert await queue.content(message) == body

    with_queue(tmp_path, second)


def test_settled_recipients_leave_and_the_last_one_takes_the_message_along(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue, to=("smtp:example.net", "local:a", "local:b"))
        await put(queue, message)
        [remote] = await everything(queue)  # another object for the same message
        assert await settle(queue, remote, remote.recipients) is None
        assert remote.remaining == 2
        assert await everything(queue) == []
        assert await settle(queue, message, message.recipients[1:2]) is None
        assert message.remaining == 1, "the commit knows of the recipient that was settled elsewhere"
        assert await settle(queue, message, message.recipients[2:]) is None
        assert message.remaining == 0
        with pytest.raises(QueueError, match="not in the queue"):
            await queue.content(message)

    with_queue(tmp_path, body)
    assert list(list_messages(tmp_path)) == []
    with sqlite3.connect(tmp_path / "queue.db") as db:
        assert [db.execute(f"SELECT count(*) FROM {t}").fetchone() for t in ("recipient", "content")] == [(0,), (0,)]
    db.close()


def test_settling_twice_does_no_harm(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue, to=("smtp:example.net", "local:a"))
        await put(queue, message)
        [other] = await everything(queue)
        await settle(queue, other, other.recipients)
        await settle(queue, message, message.recipients[:1])
        assert message.remaining == 1
        [entry] = list_messages(tmp_path)
        assert (entry.remaining, [r.address for r in entry.recipients]) == (1, ["r1@a"])

    with_queue(tmp_path, body)


def test_deferral_keeps_due_attempts_and_reason(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue, to=("smtp:example.net", "smtp:example.net"))
        await put(queue, message)
        assert [d async for d in queue.destinations()] == [("smtp:example.net", 0.0, None)]
        late = message.recipients[1]
        late.due, late.attempts, late.reason = 5000.0, 3, "connection refused \u2014 later"
        assert await settle(queue, message, message.recipients[:1], [late]) is None
        assert message.remaining == 1
        assert (await queue.load("smtp:example.net", None, 4999.0, 10, retried=True)).messages == []
        [found] = (await queue.load("smtp:example.net", None, 5000.0, 10, retried=True)).messages
        assert (await queue.load("smtp:example.net", None, 5000.0, 10)).messages == []
        assert found.recipients == [late]
        assert [d async for d in queue.destinations()] == [("smtp:example.net", None, 5000.0)]

    with_queue(tmp_path, body)


def test_a_bounce_enters_as_its_cause_leaves(tmp_path: Path) -> None:
    """One transaction: when the bounce cannot be stored, the recipient stays."""

    async def body(queue: Queue) -> None:
        message = make(queue)
        await put(queue, message)
        bad = make(queue, sender="\ud800")  # a lone surrogate: SQLite takes no such text
        error = await settle(queue, message, message.recipients, new=[bad])
        assert isinstance(error, QueueError)
        assert [m.id for m in await everything(queue)] == [message.id]
        good = make(queue, b"bounce", ("smtp:example.org",), sender="")
        [again] = await everything(queue)
        assert await settle(queue, again, again.recipients, new=[good]) is None
        assert await everything(queue) == []
        assert [m.id for m in await everything(queue, "smtp:example.org")] == [good.id]

    with_queue(tmp_path, body)


def test_one_message_that_cannot_be_stored_does_not_refuse_its_batch(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        answers: dict[int, QueueError | None] = {}
        messages = [make(queue, sender="\ud800" if i in (3, 11) else "s@x") for i in range(20)]
        finished = asyncio.get_running_loop().create_future()
        for i, message in enumerate(messages):

            def done(error: QueueError | None, i: int = i) -> None:
                answers[i] = error
                if len(answers) == 20:
                    finished.set_result(None)

            queue.enqueue(message, done)
        await finished
        assert [i for i, error in sorted(answers.items()) if error] == [3, 11]
        stored = [m.id for m in await everything(queue)]
        assert stored == [m.id for i, m in enumerate(messages) if i not in (3, 11)]

    with_queue(tmp_path, body)


@pytest.mark.wish(18)
def test_slices_are_in_order_and_complete(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        made = []
        for i in range(30):
            message = make(queue, to=("smtp:example.net", "smtp:other", "smtp:example.net"), due=float(i % 4))
            await put(queue, message)
            made += [(r.due, message.id, r.number) for r in message.recipients if r.destination == "smtp:example.net"]
        for limit in (1, 7, 60, 61):
            found, after = [], None
            for _ in range(100):
                part = await queue.load("smtp:example.net", after, 3.0, limit)
                assert sum(len(m.recipients) for m in part.messages) <= limit
                found += sorted((r.due, m.id, r.number) for m in part.messages for r in m.recipients)
                assert all(m.remaining == 3 for m in part.messages)
                if part.complete:
                    break
                assert part.last == Position(*found[-1])
                after = part.last
            assert found == sorted(made)

    with_queue(tmp_path, body)


def test_damaged_or_exchanged_content_is_found(tmp_path: Path) -> None:
    async def first(queue: Queue) -> None:
        for body in (b"one", b"two", b"six"):
            await put(queue, make(queue, body))

    with_queue(tmp_path, first)
    with sqlite3.connect(tmp_path / "queue.db") as db:
        ids = [row[0] for row in db.execute("SELECT id FROM content ORDER BY id")]
        rows = dict(db.execute("SELECT id, crc FROM content"))
        db.execute("UPDATE content SET data = ?, crc = ? WHERE id = ?", (b"two", rows[ids[1]], ids[0]))
        db.execute("UPDATE content SET data = ? WHERE id = ?", (b"sax", ids[2]))
    db.close()

    async def second(queue: Queue) -> None:
        messages = await everything(queue)
        for message in (messages[0], messages[2]):
            with pytest.raises(QueueDamaged, match=message.queue_id):
                await queue.content(message)
        assert await queue.content(messages[1]) == b"two"

    with_queue(tmp_path, second)


def test_callbacks_come_from_the_loop_and_on_commit_once_after_them(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        events: list[str] = []
        finished = asyncio.get_running_loop().create_future()

        def committed() -> None:
            events.append("commit")
            finished.set_result(None)

        queue.on_commit = committed
        for _ in range(3):
            queue.enqueue(make(queue), lambda error: events.append("done"))
        assert events == []
        await finished
        assert events == ["done", "done", "done", "commit"]

    with_queue(tmp_path, body)


def test_what_is_waiting_when_the_queue_closes_is_written(tmp_path: Path) -> None:
    answers: list[QueueError | None] = []

    async def body(queue: Queue) -> None:
        for _ in range(50):
            queue.enqueue(make(queue), answers.append)
        asyncio.get_running_loop().call_soon(lambda: None)

    with_queue(tmp_path, body)
    assert answers == [None] * 50
    assert len(list(list_messages(tmp_path))) == 50


def test_a_closed_queue_says_so(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue)
        await queue.close()
        assert isinstance(await put(queue, message), QueueError)
        assert isinstance(await settle(queue, message, message.recipients), QueueError)
        with pytest.raises(QueueError, match="closed"):
            await queue.content(message)
        with pytest.raises(QueueError, match="closed"):
            [d async for d in queue.destinations()]

    with_queue(tmp_path, body)


def test_write_buffer_bounds_what_waits_in_memory(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        big = bytes(600_000)
        answers: list[QueueError | None] = []
        finished = asyncio.get_running_loop().create_future()

        def done(error: QueueError | None) -> None:
            answers.append(error)
            if len(answers) == 5:
                finished.set_result(None)

        for _ in range(5):
            queue.enqueue(make(queue, big), done)
        assert not queue.room(1)
        await finished
        assert sorted(error is None for error in answers) == [False, False, False, True, True]
        assert not any(isinstance(error, QueueFull) for error in answers)
        assert queue.room(1)

    with_queue(tmp_path, body, write_buffer=1_048_576)


@pytest.mark.wish(61)
def test_room_respects_the_reserve(tmp_path: Path) -> None:
    async def enough(queue: Queue) -> None:
        assert queue.room(1000)
        assert not queue.room(2**60)

    with_queue(tmp_path, enough)

    async def none(queue: Queue) -> None:
        assert not queue.room(1)

    with_queue(tmp_path, none, reserve="1000000GiB")


def test_a_message_with_very_many_recipients(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue, to=("smtp:example.net",) * 3001)
        await put(queue, message)
        [found] = await everything(queue, limit=10_000)
        assert [r.number for r in found.recipients] == list(range(3001))
        await settle(queue, found, found.recipients[:3000])
        [left] = await everything(queue)
        assert (left.remaining, [r.number for r in left.recipients]) == (1, [3000])

    with_queue(tmp_path, body)


def test_two_settlements_of_one_message_in_one_batch(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue, to=("smtp:example.net",) * 5)
        await put(queue, message)
        answers: list[QueueError | None] = []
        finished = asyncio.get_running_loop().create_future()
        first, second = message.recipients[:2], message.recipients[2:]
        queue.settle(Settlement(message, first), answers.append)
        queue.settle(Settlement(message, second), lambda error: finished.set_result(error))
        assert message.remaining == 0
        assert await finished is None
        assert answers == [None]
        assert await everything(queue) == []
        assert (await queue.counts()).messages == 0

    with_queue(tmp_path, body)


def test_destinations_come_in_parts_and_none_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailflow.store.lookup.DESTINATIONS_AT_ONCE", 2)

    async def body(queue: Queue) -> None:
        for n in range(5):
            await put(queue, make(queue, to=(f"smtp:{n}",), due=HELD if n in (2, 3) else float(n)))
        assert [d async for d in queue.destinations()] == [
            ("smtp:0", 0.0, None),
            ("smtp:1", 1.0, None),
            ("smtp:4", 4.0, None),
        ]

    with_queue(tmp_path, body)


def test_held_recipients_are_never_loaded(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        await put(queue, make(queue, due=HELD))
        assert (await queue.load("smtp:example.net", None, float("inf"), 10)).messages == []
        assert [d async for d in queue.destinations()] == []
        assert (await queue.counts()).held == 1

    with_queue(tmp_path, body, Clock())


@pytest.mark.wish(82)
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE recipient SET address = 'r1@example.net' WHERE message_id = ?",
        "UPDATE recipient SET notify = CAST(x'fe' AS TEXT) WHERE message_id = ?",
        "UPDATE message SET sender = 's@example.orh' WHERE id = ?",
        "UPDATE message SET arrived = arrived - 1 WHERE id = ?",
        "UPDATE message SET arrived = x'00' WHERE id = ?",
        "UPDATE message SET peer = replace(peer, 'alice', 'alicf') WHERE id = ?",
        "UPDATE message SET remaining = 2 WHERE id = ?",
        "DELETE FROM message WHERE id = ?",
    ],
)
@pytest.mark.usefixtures("tables_only")
def test_recipients_whose_envelope_is_damaged_are_told_of_and_can_be_held(tmp_path: Path, damage: str) -> None:
    async def body(queue: Queue) -> None:
        broken, whole = make(queue), make(queue)
        await put(queue, broken)
        await put(queue, whole)
        destination = whole.recipients[0].destination
        with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as db:
            assert db.execute(damage, (broken.id,)).rowcount == 1
        found = await queue.load(destination, None, NEVER, 100)
        assert ([m.id for m in found.messages], list(found.lost)) == ([whole.id], [broken.id])
        assert found.complete
        await called(lambda call: queue.quarantine(broken.id, call))
        found = await queue.load(destination, None, NEVER, 100)
        assert ([m.id for m in found.messages], list(found.lost)) == ([whole.id], [])

    with_queue(tmp_path, body)
