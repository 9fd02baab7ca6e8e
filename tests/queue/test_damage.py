"""Bytes of the database change: what is delivered is what was stored, and what is not delivered is told of (wish 82).

Each round writes over some bytes somewhere behind the first page of a queue's database, and then asks for everything that a
server would: open, destinations, slices, contents, and its own inspection.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mailflow.cli.listing import message_lines
from mailflow.errors import QueueDamaged, QueueError
from mailflow.ids import format_id
from mailflow.queue import Queue, QueueSettings
from mailflow.store import contents, query, slices
from mailflow.store.check import Kind, check, structure
from mailflow.store.reader import list_messages
from mailflow.store.repair import repair
from mailflow.store.schema import connect_read_only, database
from mailflow.store.sqlite import Store
from tests.queue.helpers import make, put, settle, with_queue

MESSAGES = 60
FIRST_PAGE_BYTES = 8192
ROUNDS = 100
SLICE = 7
SLICES = 100
"""More than there can be, unless they go round in a circle."""

Key = tuple[int, int]
"""Message id and recipient number."""


class View:
    """What a server sees of a queue: `seen` it would deliver, `named` are messages that it says are damaged, `loud` is what
    it says of the queue as a whole."""

    def __init__(self, spool: Path) -> None:
        self.seen: dict[Key, Any] = {}
        self.remaining: dict[int, int] = {}
        self.named: set[int] = set()
        self.loud: list[str] = []
        try:
            store = Store.open(spool, QueueSettings())
            store.close(store.high_water)
            with closing(connect_read_only(spool)) as db:
                self._look(db, spool)
                self.loud += map(str, structure(db))
                for message in list_messages(spool):
                    assert message_lines(message, details=True), "an operator sees what there is"
        except (QueueError, sqlite3.Error) as error:
            self.loud.append(str(error))

    def _look(self, db: sqlite3.Connection, spool: Path) -> None:
        for destination, _, _ in query.destinations(db, "", 1000):
            for retried in (False, True):
                try:
                    for part in _slices(db, destination, retried=retried):
                        self._take(db, spool, part)
                except sqlite3.DatabaseError as error:  # as the loader logs it
                    self.loud.append(str(error))

    def _take(self, db: sqlite3.Connection, spool: Path, part: slices.Slice) -> None:
        self.named.update(part.lost)
        for m in part.messages:
            content = contents.read(db, spool, [m.id])[m.id]
            if isinstance(content, QueueError):
                self.named.add(m.id)
                continue
            self.remaining[m.id] = m.remaining
            assert len({r.number for r in m.recipients}) == len(m.recipients), "would be delivered twice"
            for r in m.recipients:
                envelope = (m.sender, m.arrived, m.size, m.peer, m.options)
                to = (r.address, r.destination, r.original, r.orcpt, r.notify)
                self.seen[m.id, r.number] = (envelope, to, content)


def _slices(db: sqlite3.Connection, destination: str, *, retried: bool) -> Iterator[slices.Slice]:
    after = None
    for _ in range(SLICES):
        part = slices.load(db, destination, after, 2e9, SLICE, retried=retried)
        yield part
        if part.complete:
            return
        after = part.last
    raise AssertionError("the slices have no end")


async def _fill(queue: Queue) -> None:
    for n in range(MESSAGES):
        to = (f"smtp:site{n % 5}.example",) * (3 if n % 4 == 0 else 1)
        message = make(queue, b"Subject: x\r\n\r\n%d\r\n" % n * (1 + n % 20), to, sender=f"s{n}@example.org")
        for r in message.recipients:
            r.address, r.attempts = f"u{n}.{r.number}@example.net", n % 2
            r.reason = "451 4.7.1 try again later" * (n % 2)
        assert await put(queue, message) is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, View]:
    spool = tmp_path_factory.mktemp("whole")
    with_queue(spool, _fill)
    view = View(spool)
    assert (len(view.seen), view.named, view.loud) == (90, set(), [])
    return spool, view


def _spoilt(origin: Path, spool: Path, chance: random.Random, size: int) -> int:
    """A copy of a spool with other bytes somewhere in its database; where."""
    shutil.copytree(origin, spool)
    with database(spool).open("r+b") as file:
        file.seek(place := chance.randrange(FIRST_PAGE_BYTES, database(spool).stat().st_size - size))
        file.write(chance.randbytes(size))
    return place


@pytest.mark.wish(82)
@pytest.mark.parametrize("size", [1, 16, 512])
def test_what_is_damaged_is_never_delivered_and_never_passed_over_in_silence(
    whole: tuple[Path, View], tmp_path: Path, size: int
) -> None:
    origin, before = whole
    chance = random.Random(size)
    hurt = 0
    for number in range(ROUNDS):
        spool = tmp_path / str(number)
        place = _spoilt(origin, spool, chance, size)
        now = View(spool)
        assert now.seen.items() <= before.seen.items(), f"bytes at {place}: what was not stored would be delivered"
        assert now.remaining.items() <= before.remaining.items(), f"bytes at {place}: recipients would be forgotten"
        missing = {key for key in before.seen.keys() - now.seen.keys() if key[0] not in now.named}
        assert not missing or now.loud, f"bytes at {place}: nothing is said of {missing}"
        hurt += now.seen != before.seen
        shutil.rmtree(spool)
    assert hurt > ROUNDS // 20, "hardly anything was damaged"


def test_the_index_alone_says_who_is_due(whole: tuple[Path, View]) -> None:
    """Else a broken page of the table would be met before anything could be read around it."""
    wanted = dict.fromkeys(
        ("destination", "retried", "until", "limit", "after_due", "after_message", "after_number"), 1
    )
    with closing(connect_read_only(whole[0])) as db:
        for sql, values in ((slices._DUE, wanted), (slices._NEXT, (1, 1, 1, 1))):
            plan = db.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
            assert "USING COVERING INDEX recipient_due" in plan[0][3]


@pytest.mark.wish(82)
def test_a_broken_page_of_recipients_holds_up_no_others(tmp_path: Path) -> None:
    with_queue(tmp_path, _fill_many)
    with closing(sqlite3.connect(database(tmp_path))) as db:
        sql = "SELECT pageno, pgsize FROM dbstat WHERE name = 'recipient' AND pagetype = 'leaf' ORDER BY pageno"
        pages = db.execute(sql).fetchall()
        page, size = pages[2]
    with database(tmp_path).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with closing(connect_read_only(tmp_path)) as db:
        found = list(_slices(db, "smtp:example.net", retried=False))
    whole, lost = sum(len(part.messages) for part in found), sum(len(part.lost) for part in found)
    assert (whole + lost, lost > 0) == (400, True)
    assert lost < 400 / (len(pages) - 1)


async def _fill_many(queue: Queue) -> None:
    for n in range(400):
        assert await put(queue, make(queue, due=float(n))) is None


@pytest.mark.wish(82)
@pytest.mark.parametrize("counter", [110, 160])
def test_a_damaged_counter_takes_no_recipients_along(tmp_path: Path, counter: int) -> None:
    async def body(queue: Queue) -> None:
        await put(queue, make(queue, to=("smtp:example.net",) * 150))
        queue._store.db.execute("UPDATE message SET remaining = ?", (counter,))
        for share in (100, 10, 10):
            part = await queue.load("smtp:example.net", None, 2e9, share)
            for message in part.messages:
                assert await settle(queue, message, message.recipients) is None
        counts = await queue.counts()
        assert (counts.messages, counts.recipients) == (1, 30)
        assert (await queue.load("smtp:example.net", None, 2e9, 100)).messages[0].remaining == 30

    with_queue(tmp_path, body)


@pytest.mark.wish(82)
def test_what_was_damaged_before_there_were_checksums_holds_up_no_others(tmp_path: Path) -> None:
    with_queue(tmp_path, _fill)
    with closing(sqlite3.connect(database(tmp_path), isolation_level=None)) as db:
        db.execute("ALTER TABLE recipient DROP COLUMN envelope_crc")
        db.execute("PRAGMA user_version = 4")
        ids = [row[0] for row in db.execute("SELECT id FROM message ORDER BY id")]
        db.execute("UPDATE message SET sender = CAST(x'ff41' AS TEXT) WHERE id = ?", (ids[3],))
        db.execute("UPDATE message SET peer = 'who' WHERE id = ?", (ids[7],))
    view = View(tmp_path)
    assert view.named == {ids[3], ids[7]}
    assert {key for key, _ in view.seen} == set(ids) - view.named


@pytest.mark.wish(82)
@pytest.mark.parametrize("column", ["segment", "page", "size"])
def test_an_extent_that_makes_no_sense_is_told_of_and_leaves(tmp_path: Path, column: str) -> None:
    async def body(queue: Queue) -> None:
        message = make(queue, b"x" * 400_000)
        await put(queue, message)
        queue._store.db.execute(f"UPDATE extent SET {column} = 'x'")
        with pytest.raises(QueueDamaged, match="makes no sense"):
            await queue.content(message)
        assert await settle(queue, message, message.recipients) is None
        assert await put(queue, make(queue)) is None

    with_queue(tmp_path, body)


@pytest.mark.wish(82)
@pytest.mark.parametrize("size", [1, 16, 512])
def test_after_a_repair_all_that_is_whole_is_delivered_and_the_rest_is_on_hold_or_kept(
    whole: tuple[Path, View], tmp_path: Path, size: int
) -> None:
    origin, before = whole
    chance = random.Random(1000 + size)
    for number in range(ROUNDS // 2):
        spool = tmp_path / str(number)
        place = _spoilt(origin, spool, chance, size)
        first = View(spool)
        list(repair(spool, QueueSettings()))
        now = View(spool)
        where = f"bytes at {place}"
        assert [str(f) for f in check(spool, full=True) if f.kind is not Kind.QUARANTINED] == [], where
        assert now.seen.items() <= before.seen.items(), where
        kept = {path.name[:11] for path in (spool / "damaged").glob("*.json")}
        held = {key for key in before.seen if format_id(key[0]) in kept}
        assert first.seen.keys() - held <= now.seen.keys(), where
        rescued = any((spool / "damaged").glob("queue.db.*"))
        assert rescued or before.seen.keys() - held <= now.seen.keys(), where
        shutil.rmtree(spool)
