"""Mail that is delivered, and that a damaged database does not let go: it is not delivered again, and nothing else waits for it (wish 82)."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest

from mailflow.envelope import Message
from mailflow.errors import QueueError, QueueFull
from mailflow.ids import format_id
from mailflow.queue import Queue, QueueSettings, Selection, Settlement
from mailflow.store import commit, writer
from mailflow.store.aside import Aside, read
from mailflow.store.check import Kind, check
from mailflow.store.failure import StoreDamaged
from mailflow.store.offline import open_offline
from mailflow.store.reader import list_messages
from mailflow.store.repair import repair
from mailflow.store.schema import database
from mailflow.store.sqlite import Store
from tests.queue.helpers import everything, make, put, settle, with_queue

pytestmark = pytest.mark.usefixtures("tables_only")  # with a redo log: test_redo.py

FREE_LIST = 32
"""Where in the first page stands which page begins the list of free ones, and how many there are (SQLite's file format, 1.3)."""
LARGE = b"x" * 100_000
"""A content that has pages of its own in the database, which are to be put on the list when it leaves."""


def spoil(spool: Path) -> None:
    """Breaks the list of free pages: what frees one cannot be written any more, all else can."""
    with database(spool).open("r+b") as file:
        file.seek(FREE_LIST)
        file.write(struct.pack(">II", 2**31 - 1, 1))


async def fill(queue: Queue) -> None:
    """Two messages that can leave, with one between them that cannot."""
    for content in (b"small\r\n", LARGE, b"small\r\n"):
        assert await put(queue, make(queue, content)) is None


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    with_queue(tmp_path, fill)
    spoil(tmp_path)
    return tmp_path


def settled_together(queue: Queue, settlements: list[Settlement]) -> asyncio.Future[list[QueueError | None]]:
    """What each of them is answered, when they are one commit."""
    answers: list[QueueError | None] = []
    ready: asyncio.Future[list[QueueError | None]] = asyncio.get_running_loop().create_future()

    def answered(error: QueueError | None) -> None:
        answers.append(error)
        if len(answers) == len(settlements):
            ready.set_result(answers)

    for settlement in settlements:
        queue.settle(settlement, answered)
    return ready


def watch(queue: Queue) -> list[Message]:
    """The messages that are set aside from now on."""
    told: list[Message] = []

    def heard(message: Message, why: str) -> None:
        assert "queue check --repair" in why
        told.append(message)

    queue.on_aside = heard
    return told


async def deliver_all(queue: Queue) -> list[Message]:
    """As the flow does; the messages that are set aside."""
    told = watch(queue)
    found = await everything(queue)
    answers = await settled_together(queue, [Settlement(m, m.recipients) for m in found])
    assert answers == [None] * len(found), "durable, each of them"
    assert await everything(queue) == []
    return told


async def large(queue: Queue) -> Message:
    return next(m for m in await everything(queue) if m.size == len(LARGE))


@pytest.mark.wish(82)
def test_what_cannot_leave_is_not_delivered_again_by_this_server_or_the_next(spool: Path) -> None:
    told = with_queue(spool, deliver_all)
    assert [(message.size, message.remaining) for message in told] == [(len(LARGE), 1)]
    assert [m.id for m in list_messages(spool)] == [told[0].id], "the others have left"
    for _ in range(2):
        assert with_queue(spool, everything) == []


@pytest.mark.wish(82)
def test_a_repair_takes_it_out(spool: Path) -> None:
    (message,) = with_queue(spool, deliver_all)
    assert (Kind.ASIDE, message.id) in [(f.kind, f.id) for f in check(spool)]
    done = {m.finding.kind: m.done for m in repair(spool, QueueSettings())}
    assert done[Kind.ASIDE] == "taken out of the queue"
    assert list(list_messages(spool)) == []
    assert list(check(spool, full=True)) == []
    assert not (spool / "aside").exists()


def test_a_bounce_is_made_once_and_its_cause_is_set_aside(spool: Path) -> None:
    async def body(queue: Queue) -> Message:
        told = watch(queue)
        message, bounce = await large(queue), make(queue, b"bounced\r\n", ("smtp:back.example",), sender="")
        assert await settle(queue, message, message.recipients, new=[bounce]) is None
        assert told == [message]
        return bounce

    bounce = with_queue(spool, body)
    again = with_queue(spool, lambda queue: everything(queue, "smtp:back.example"))
    assert [m.id for m in again] == [bounce.id]
    assert len(with_queue(spool, everything)) == 2, "the small ones"


def test_where_not_even_the_bounce_can_be_written_the_next_server_tries_again(spool: Path) -> None:
    async def body(queue: Queue) -> None:
        message, bounce = await large(queue), make(queue, LARGE, ("smtp:back.example",), sender="")
        assert await settle(queue, message, message.recipients, new=[bounce]) is not None
        assert len(await everything(queue)) == 2
        assert await everything(queue, "smtp:back.example") == []

    with_queue(spool, body)
    assert len(with_queue(spool, everything)) == 3


def test_what_is_put_off_is_left_alone_by_this_server_only(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        message = (await everything(queue))[0]
        recipient = message.recipients[0]
        recipient.due, recipient.attempts, recipient.reason = 5.0, 1, "451 try later " + "x" * 100_000
        told = watch(queue)
        assert await settle(queue, message, [], [recipient]) is None
        assert told == [message]
        assert message.id not in [m.id for m in await everything(queue)]

    with_queue(tmp_path, fill)
    spoil(tmp_path)
    with_queue(tmp_path, body)
    assert not (tmp_path / "aside").exists()
    assert len(with_queue(tmp_path, everything)) == 3


def test_what_cannot_be_noted_is_told_and_left_alone_by_this_server(spool: Path) -> None:
    (spool / "aside").mkdir()

    async def body(queue: Queue) -> None:
        message = await large(queue)
        assert "queue check --repair" in str(await settle(queue, message, message.recipients))
        assert len(await everything(queue)) == 2

    with pytest.raises(QueueError, match="aside"):
        with_queue(spool, body)
    (spool / "aside").rmdir()

    async def later(queue: Queue) -> None:
        (spool / "aside").mkdir()
        await body(queue)

    with_queue(spool, later)


def test_a_store_that_lets_too_much_not_go_has_failed(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "MOST_ASIDE", 0)

    async def body(queue: Queue) -> None:
        failed: list[QueueError] = []
        queue.on_failure = failed.append
        message = await large(queue)
        assert await settle(queue, message, message.recipients) is None, "it is noted all the same"
        assert len(failed) == 1

    with_queue(spool, body)
    assert len(read(spool)) == 1


def test_of_a_message_only_those_who_are_done_are_set_aside(tmp_path: Path) -> None:
    async def put_two(queue: Queue) -> None:
        assert await put(queue, make(queue, LARGE, ("smtp:a.example", "smtp:example.net"))) is None

    async def last(queue: Queue) -> None:
        (message,) = await everything(queue)
        first = await everything(queue, "smtp:a.example")
        assert await settle(queue, first[0], first[0].recipients) is None, "one recipient frees no page"
        told = watch(queue)
        message.remaining -= 1
        assert await settle(queue, message, message.recipients) is None
        assert told == [message]

    with_queue(tmp_path, put_two)
    spoil(tmp_path)
    with_queue(tmp_path, last)
    (key,) = read(tmp_path)
    assert key[1] == 1


def test_the_operator_s_commands_try_too(spool: Path) -> None:
    assert len(with_queue(spool, deliver_all)) == 1
    with database(spool).open("r+b") as file:
        file.seek(FREE_LIST)
        file.write(bytes(8))
    with open_offline(spool):
        assert list(list_messages(spool)) == []
    assert not (spool / "aside").exists()


@pytest.mark.parametrize(
    ("lost", "left"),
    [
        ("message", [(1,)]),
        ("recipient WHERE number = 1", []),
        ("recipient WHERE number = 0", [(1,)]),
        ("recipient", []),
    ],
)
def test_where_rows_are_lost_nothing_else_is_taken_along(tmp_path: Path, lost: str, left: list[object]) -> None:
    async def put_two(queue: Queue) -> int:
        message = make(queue, b"to be kept", ("smtp:a.example", "smtp:example.net"))
        assert await put(queue, message) is None
        return message.id

    key = with_queue(tmp_path, put_two)
    store = Store.open(tmp_path, QueueSettings())
    store.db.execute(f"DELETE FROM {lost}")
    Aside(tmp_path).add([(key, 0)])
    assert Aside.open(store).keys == set()
    assert store.db.execute("SELECT number FROM recipient").fetchall() == left
    assert store.db.execute("SELECT data FROM content").fetchall() == [(b"to be kept",)]
    store.close(store.high_water)
    list(repair(tmp_path, QueueSettings()))
    kept = tmp_path / "damaged" / f"{format_id(key)}.eml"
    assert lost.endswith("0") or kept.read_bytes() == b"to be kept"
    assert list(check(tmp_path, full=True)) == []


@pytest.mark.parametrize("first", [True, False])
def test_no_other_delivery_of_the_message_takes_one_along_whose_bounce_cannot_be_made(
    tmp_path: Path, first: bool
) -> None:
    """A refused recipient, whose bounce finds no page, and one that was delivered, in one commit."""

    async def put_two(queue: Queue) -> None:
        assert await put(queue, make(queue, b"x", ("smtp:a.example", "smtp:example.net"))) is None

    async def body(queue: Queue) -> None:
        (message,) = await everything(queue, "smtp:a.example")
        refused, delivered = message.recipients[0], (await everything(queue))[0].recipients[0]
        message.recipients.append(delivered)
        bounce = make(queue, LARGE, ("smtp:back.example",), sender="")
        both = [Settlement(message, [refused], new=[bounce]), Settlement(message, [delivered])]
        answers = await settled_together(queue, both if first else both[::-1])
        assert sorted(map(str, answers))[1] == "None", "one of them went"
        assert len(set(answers)) == 2

    with_queue(tmp_path, put_two)
    spoil(tmp_path)
    with_queue(tmp_path, body)
    (left,) = with_queue(tmp_path, lambda queue: everything(queue, "smtp:a.example"))
    assert left.remaining == 1
    assert with_queue(tmp_path, everything) == []


def test_without_room_to_note_it_the_outcome_is_written_again_and_its_bounce_is_not(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, tries = Aside.add, []

    def full_once(self: Aside, keys: list[tuple[int, int]]) -> None:
        tries.append(keys)
        if len(tries) == 1:
            raise QueueFull("no room")
        add(self, keys)

    async def body(queue: Queue) -> None:
        message, bounce = await large(queue), make(queue, b"bounced\r\n", ("smtp:back.example",), sender="")
        assert await settle(queue, message, message.recipients, new=[bounce]) is None
        assert len(tries) == 2

    monkeypatch.setattr(Aside, "add", full_once)
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.01)
    with_queue(spool, body)
    assert len(read(spool)) == 1
    assert len(with_queue(spool, lambda queue: everything(queue, "smtp:back.example"))) == 1


def test_a_broken_mark_of_the_ids_keeps_no_outcome_out(tmp_path: Path) -> None:
    async def body(queue: Queue) -> None:
        def broken(key: str, value: int) -> None:
            raise StoreDamaged("the table meta")

        queue._store._reserved, queue._store.write_meta = 0, broken  # type: ignore[method-assign]
        assert "meta" in str(await put(queue, make(queue)))
        assert await deliver_all(queue) == []
        assert list(list_messages(tmp_path)) == []
        del queue._store.write_meta

    with_queue(tmp_path, fill)
    with_queue(tmp_path, body)


def test_who_has_left_is_no_longer_in_the_file(spool: Path) -> None:
    assert len(with_queue(spool, deliver_all)) == 1
    aside = Aside(spool)
    aside.add([(10**15 + n, 0) for n in range(50)])
    assert len(read(spool)) == 51
    with_queue(spool, everything)
    assert len(read(spool)) == 1


def test_the_file_keeps_what_was_noted_and_no_half_lines(tmp_path: Path) -> None:
    aside = Aside(tmp_path)
    keys = {(10**15 + n, n % 3) for n in range(100)}
    aside.add(keys)
    assert read(tmp_path) == keys
    os.truncate(aside.path, aside.path.stat().st_size - 5)
    assert len(read(tmp_path)) == 99
    aside.add([(10**15, 7)])
    assert len(read(tmp_path)) == 100
    data = bytearray(aside.path.read_bytes())
    data[data.index(format_id(10**15 + 5).encode()) + 3] ^= 1
    aside.path.write_bytes(data)
    assert len(read(tmp_path)) == 99


@pytest.mark.wish(82)
def test_a_damaged_message_that_cannot_be_held_is_told_of_once(spool: Path) -> None:
    async def body(queue: Queue) -> None:
        assert queue.quarantine(1, lambda _changed: None), "there is no such message: nothing to be held"
        await queue.hold(Selection(ids=(1,)))
        assert not queue.quarantine(1, lambda _changed: None)
        held = asyncio.Event()
        message = await large(queue)
        assert queue.quarantine(message.id, lambda _changed: held.set())
        assert not queue.quarantine(message.id, lambda _changed: None)
        await held.wait()
        assert len(await everything(queue)) == 2
        await queue.release(Selection(ids=(message.id,)))
        assert queue.quarantine(message.id, lambda _changed: None), "released, it is told of anew"
        await queue.hold(Selection(ids=(message.id,)))
        assert queue.quarantine(message.id, lambda _changed: None), "another delivery of it; nothing is left to be held"
        await queue.hold(Selection(ids=(2,)))
        await queue.release(Selection(ids=(message.id,)))
        assert queue.quarantine(message.id, lambda _changed: None), "released again"

    with_queue(spool, body)
