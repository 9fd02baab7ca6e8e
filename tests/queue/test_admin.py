"""hold, release, delete, flush: with a running queue, and on a spool without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailflow.envelope import HELD
from mailflow.errors import QueueError, QueueLocked
from mailflow.queue import Queue, Selection
from mailflow.store.admin import STEP_RECIPIENTS
from mailflow.store.offline import open_offline
from mailflow.store.reader import counts, list_messages, read_content
from tests.queue.helpers import Clock, everything, make, put, settle, spill, with_queue


def test_hold_and_release(tmp_path: Path) -> None:
    clock = Clock()

    async def body(queue: Queue) -> None:
        one, two = make(queue), make(queue, to=("smtp:example.net", "local:a"))
        await put(queue, one)
        await put(queue, two)
        [changed] = await queue.hold(Selection(ids=(two.id, 12345)))
        assert (changed.id, set(changed.destinations), changed.recipients) == (
            two.id,
            {"smtp:example.net", "local:a"},
            2,
        )
        assert [m.id for m in await everything(queue)] == [one.id]
        assert await queue.hold(Selection(ids=(two.id,))) == [], "it is held already"
        [listed] = list_messages(tmp_path, [two.id])
        assert [r.state for r in listed.recipients] == ["held", "held"]
        assert [c.id for c in await queue.release(Selection(everything=True))] == [two.id]
        assert [m.id for m in await everything(queue)] == [one.id, two.id]
        assert {r.due for r in (await everything(queue))[1].recipients} == {clock.now}

    with_queue(tmp_path, body, clock)


def test_a_hold_placed_during_an_attempt_stays(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue)
        await put(queue, message)
        await queue.hold(Selection(ids=(message.id,)))
        recipient = message.recipients[0]
        recipient.due, recipient.attempts, recipient.reason = 9.0, 1, "busy"
        await settle(queue, message, [], [recipient])
        [entry] = list_messages(tmp_path)
        assert (entry.recipients[0].state, entry.recipients[0].due) == ("held", HELD)
        assert (entry.recipients[0].attempts, entry.recipients[0].reason) == (1, "busy")

    with_queue(tmp_path, body)


@pytest.mark.wish(46)
def test_flush_makes_one_destinations_deferred_mail_due(tmp_path: Path) -> None:
    clock = Clock()

    async def body(queue: Queue) -> None:
        messages = [make(queue, to=("smtp:example.net", "smtp:other.example")) for _ in range(3)]
        for message in messages:
            await put(queue, message)
            for recipient in message.recipients:
                recipient.due, recipient.attempts = clock.now + 500, 1
            await settle(queue, message, [], message.recipients)
        changed = await queue.flush(Selection(destination="smtp:other.example"))
        assert [(c.id, c.destinations, c.recipients) for c in changed] == [
            (m.id, ("smtp:other.example",), 1) for m in messages
        ]
        assert [d async for d in queue.destinations()] == [
            ("smtp:example.net", None, clock.now + 500),
            ("smtp:other.example", None, clock.now),
        ]
        assert len(await queue.flush(Selection(everything=True))) == 3
        assert [d async for d in queue.destinations()] == [
            ("smtp:example.net", None, clock.now),
            ("smtp:other.example", None, clock.now),
        ]

    with_queue(tmp_path, body, clock)


def test_a_command_over_more_than_one_step_reaches_everything(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue, to=("smtp:example.net",) * (2 * STEP_RECIPIENTS + 1))
        await put(queue, message)
        [changed] = await queue.hold(Selection(destination="smtp:example.net"))
        assert changed.recipients == 2 * STEP_RECIPIENTS + 1
        assert (await queue.counts()).held == changed.recipients
        many = [make(queue) for _ in range(1200)]
        for m in many[:-1]:
            queue.enqueue(m, lambda error: None)
        await put(queue, many[-1])
        deleted = await queue.delete(Selection(ids=tuple(m.id for m in many)))
        assert len(deleted) == 1200
        assert (await queue.counts()).messages == 1

    with_queue(tmp_path, body)


def test_delete_of_a_destination_leaves_the_others(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        both, one = make(queue, to=("local:a", "local:b")), make(queue, to=("local:a",))
        await put(queue, both)
        await put(queue, one)
        assert {c.id for c in await queue.delete(Selection(destination="local:a"))} == {both.id, one.id}
        [entry] = list_messages(tmp_path)
        assert (entry.id, entry.remaining, entry.recipients[0].destination) == (both.id, 1, "local:b")
        with pytest.raises(QueueError):
            await queue.content(one)
        await settle(queue, one, one.recipients)  # its delivery was under way: settled without harm
        assert len(list(list_messages(tmp_path))) == 1

    with_queue(tmp_path, body)


def test_delete_removes_a_content_file_that_may_be_being_read(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        number = queue.new_id()
        message = make(queue, await spill(queue, number, [b"x" * 1000]))
        message.id = number
        await put(queue, message)
        path = message.content.path  # type: ignore[union-attr]
        with path.open("rb") as reading:
            await queue.delete(Selection(ids=(number,)))
            assert not path.exists()
            other = queue.new_id()
            await spill(queue, other, [b"secret"])
            assert reading.read() == b"x" * 1000

    with_queue(tmp_path, body)


@pytest.mark.wish(51)
def test_the_same_without_a_server(tmp_path: Path) -> None:
    async def body(queue: Queue) -> tuple[int, int]:
        one, two = make(queue, b"one"), make(queue, b"two")
        await put(queue, one)
        await put(queue, two)
        with pytest.raises(QueueLocked), open_offline(tmp_path):
            pass
        return one.id, two.id

    one, two = with_queue(tmp_path, body)
    with open_offline(tmp_path) as queue:
        assert [c.id for c in queue.hold(Selection(ids=(one,)))] == [one]
        assert [c.id for c in queue.delete(Selection(ids=(two,)))] == [two]
    assert counts(tmp_path) == (1, 1, 0, 0, 1)
    with open_offline(tmp_path) as queue:
        assert [c.id for c in queue.release(Selection(everything=True))] == [one]
        assert [c.id for c in queue.flush(Selection(everything=True))] == [one]
    assert counts(tmp_path) == (1, 1, 1, 0, 0)
    assert read_content(tmp_path, one) == b"one"


def test_without_a_queue_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(QueueError, match="no queue here"), open_offline(tmp_path):
        pass
    with pytest.raises(QueueError, match="no queue here"):
        list(list_messages(tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []


def test_a_selection_is_one_thing() -> None:
    with pytest.raises(ValueError, match="has conditions, or is everything"):
        Selection(ids=(1,), everything=True)
    with pytest.raises(ValueError, match="has conditions, or is everything"):
        Selection()
    with pytest.raises(ValueError, match="not a state: 'lost'"):
        Selection(state="lost")
