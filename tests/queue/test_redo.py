"""The redo log: what is acknowledged is durable there before it is in the tables, and gets there whatever happens."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from mailflow.envelope import Message
from mailflow.errors import QueueDamaged, QueueError
from mailflow.queue import Queue, QueueSettings, Settlement
from mailflow.store import redo, redo_file
from mailflow.store.aio import Syncs
from mailflow.store.aside import read as read_aside
from mailflow.store.check import check
from mailflow.store.fresh import Fresh
from mailflow.store.reader import list_messages
from mailflow.store.redo import BLOCK_BYTES, FILES, Record
from mailflow.store.redo_file import Redo
from mailflow.store.repair import repair
from mailflow.store.schema import database
from tests.queue.helpers import Clock, everything, make, put, settle, with_queue
from tests.queue.test_aside import LARGE, spoil
from tests.support.waiting import wait_for


def rows(spool: Path, table: str = "message") -> int:
    """Rows of a table, without asking anybody to put something there."""
    with closing(sqlite3.connect(database(spool))) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def generation(spool: Path) -> int:
    with closing(sqlite3.connect(database(spool))) as db:
        return int(db.execute("SELECT value FROM meta WHERE key = 'redo'").fetchone()[0])


def log_file(spool: Path) -> Path:
    """The one that is in use."""
    with closing(sqlite3.connect(database(spool))) as db:
        token = int(db.execute("SELECT value FROM meta WHERE key = 'redo_token'").fetchone()[0])
    return redo.path(spool, redo.read(spool, token, None).file)


def crashed(spool: Path, name: str = "crashed") -> Path:
    """The files as a kill at this moment would leave them."""
    target = spool.with_name(name)
    shutil.copytree(spool, target)
    return target


def contents_of(spool: Path) -> list[bytes]:
    """What the next server finds, in order."""

    async def body(queue: Queue) -> list[bytes]:
        return [await queue.content(m) for m in await everything(queue)]  # type: ignore[misc]

    return with_queue(spool, body)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """So that its neighbours are the test's own."""
    return tmp_path / "spool"


async def put_all(queue: Queue, *contents: bytes) -> list[Message]:
    messages = [make(queue, content) for content in contents]
    for message in messages:
        assert await put(queue, message) is None
    return messages


def test_what_leaves_at_once_never_enters_the_tables(spool: Path) -> None:
    async def body(queue: Queue) -> None:
        await put_all(queue, b"first")
        before = rows(spool), generation(spool)
        for message in await put_all(queue, *[b"quick"] * 20):
            assert await settle(queue, message, message.recipients) is None
            with pytest.raises(QueueError, match="not in the queue"):
                await queue.content(message)
        assert (rows(spool), generation(spool)) == before
        assert (spool / "redo-0").stat().st_size or (spool / "redo-1").stat().st_size

    with_queue(spool, body)
    assert contents_of(spool) == [b"first"]


def test_what_stays_is_put_into_the_tables_soon_and_by_whoever_asks(spool: Path) -> None:
    async def body(queue: Queue) -> None:
        messages = await put_all(queue, b"0", b"1")
        assert rows(spool) == 0
        await asyncio.to_thread(wait_for, lambda: rows(spool) == 2, "it to be in the tables")
        await put_all(queue, b"2")
        assert (await queue.counts()).messages == 3
        assert rows(spool) == 3
        await settle(queue, messages[0], messages[0].recipients)
        assert rows(spool) == 3, "that one has left is in the log only"
        assert len(await everything(queue)) == 2
        await put_all(queue, b"3")
        assert await queue.content((await everything(queue))[-1]) == b"3"

    with_queue(spool, body)
    assert contents_of(spool) == [b"1", b"2", b"3"]


@pytest.mark.interpreted("a constant is replaced")
def test_who_reads_beside_a_server_leaves_its_log_alone(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to put the log into the tables is slow to load, and while mail comes there is always something in it."""
    monkeypatch.setattr("mailflow.store.writer.FOLD_SECONDS", 3600.0)

    async def body(queue: Queue) -> None:
        await put_all(queue, b"0")
        with monkeypatch.context() as patched:
            patched.setattr(redo, "contents", None)
            assert list(list_messages(spool)) == []

    with_queue(spool, body)
    assert len(list(list_messages(spool))) == 1


def test_after_a_crash_everything_acknowledged_is_there_and_nothing_that_has_left(spool: Path) -> None:
    async def body(queue: Queue) -> Path:
        old = await put_all(queue, b"old", b"old and gone")
        await queue.counts()
        new = await put_all(queue, b"new", b"new and gone", b"bounced")
        for message in (old[1], new[1]):
            assert await settle(queue, message, message.recipients) is None
        bounce = make(queue, b"bounce", sender="")
        assert await settle(queue, new[2], new[2].recipients, new=[bounce]) is None
        return crashed(spool)

    found = with_queue(spool, body)
    assert [m.size for m in list_messages(crashed(found, "listed"))] == [3, 3, 6], "a listing finds it without a server"
    assert contents_of(found) == [b"old", b"new", b"bounce"]
    assert list(check(found, full=True)) == []


def test_ids_go_on_behind_what_is_in_the_log_only(spool: Path) -> None:
    async def body(queue: Queue) -> tuple[Path, int]:
        messages = await put_all(queue, b"0", b"1")
        return crashed(spool), messages[-1].id

    found, key = with_queue(spool, body)
    with closing(sqlite3.connect(database(found), isolation_level=None)) as db:
        db.execute("DELETE FROM meta WHERE key = 'high_water'")  # which is ahead of them else

    async def again(queue: Queue) -> int:
        return queue.new_id()

    assert with_queue(found, again, Clock(0.0)) > key


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_record_that_a_crash_has_torn_was_never_there(spool: Path, cut: int) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"1", b"2" * 300)
        found = crashed(spool)
        file = log_file(found)
        (last,) = (
            at
            for at in range(0, file.stat().st_size, BLOCK_BYTES)
            if b"2" * 300 in file.read_bytes()[at : at + BLOCK_BYTES]
        )
        end = file.read_bytes().index(b"2" * 300) + 300
        with file.open("r+b") as stream:
            stream.seek(max(last, end - cut))
            stream.write(bytes(cut))
        return found

    assert contents_of(with_queue(spool, body)) == [b"0", b"1"]


def _spoil_record(spool: Path, marker: bytes, shift: int) -> None:
    """Changes a byte of the record with this content, so far from the content's beginning."""
    file = log_file(spool)
    data = bytearray(file.read_bytes())
    data[data.index(marker) + shift] ^= 1
    file.write_bytes(data)


def test_a_damaged_content_is_held_and_all_others_are_delivered(spool: Path) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"one", b"2")
        return crashed(spool)

    found = with_queue(spool, body)
    _spoil_record(found, b"one", 1)

    async def again(queue: Queue) -> list[object]:
        assert any("damaged" in line for line in queue.trouble)
        return [await queue.content(m) if m.size != 3 else await _error(queue, m) for m in await everything(queue)]

    assert [str(c) if isinstance(c, QueueDamaged) else c for c in with_queue(found, again)][0::2] == [b"0", b"2"]
    assert [f.kind.value for f in check(found)] == ["content"]


async def _error(queue: Queue, message: Message) -> QueueError:
    with pytest.raises(QueueDamaged) as caught:
        await queue.content(message)
    return caught.value


@pytest.mark.parametrize("shift", [-30, -1])
def test_a_damaged_record_is_told_and_kept_and_those_behind_it_count(spool: Path, shift: int) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"one", b"2")
        return crashed(spool)

    found = with_queue(spool, body)
    _spoil_record(found, b"one", shift)
    kept = log_file(found).read_bytes()

    async def again(queue: Queue) -> list[bytes]:
        assert any("damaged" in line for line in queue.trouble)
        return [await queue.content(m) for m in await everything(queue)]  # type: ignore[misc]

    assert with_queue(found, again) == [b"0", b"2"]
    (copy,) = (found / "damaged").iterdir()
    assert copy.read_bytes() == kept


def test_a_head_that_is_damaged_hides_only_its_own_record(spool: Path) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"one", b"2", b"3")
        return crashed(spool)

    found = with_queue(spool, body)
    file = log_file(found)
    with file.open("r+b") as stream:
        stream.write(b"x")
    assert contents_of(found) == [b"one", b"2", b"3"]


def _unreadable(monkeypatch: pytest.MonkeyPatch, *bad: int) -> None:
    """The disk does not give these blocks back."""
    pread = os.pread

    def some(fd: int, size: int, at: int) -> bytes:
        if any(at <= block * BLOCK_BYTES < at + size for block in bad):
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", some)


def test_a_sector_that_cannot_be_read_costs_what_is_in_it_and_no_start(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"one", b"2")
        return crashed(spool)

    found = with_queue(spool, body)

    async def again(queue: Queue) -> list[bytes]:
        assert any("redo-0: 1 blocks cannot be read" in line for line in queue.trouble)
        assert any("commits 1 of 3 are damaged" in line for line in queue.trouble)
        return [await queue.content(m) for m in await everything(queue)]  # type: ignore[misc]

    with monkeypatch.context() as patched:
        _unreadable(patched, 1)
        assert with_queue(found, again) == [b"0", b"2"]
    (copy,) = (found / "damaged").iterdir()
    assert copy.stat().st_size == redo.path(found, 0).stat().st_size


def test_a_sector_that_nobody_misses_is_not_told(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(queue: Queue) -> None:
        await put_all(queue, b"0")

    async def again(queue: Queue) -> None:
        assert not queue.trouble

    with_queue(spool, body)
    _unreadable(monkeypatch, 100)
    with_queue(spool, again)
    assert not (spool / "damaged").exists()


def test_a_damaged_log_that_cannot_be_kept_prevents_no_start(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"one", b"2")
        return crashed(spool)

    found = with_queue(spool, body)
    _spoil_record(found, b"one", -30)
    (found / "damaged").write_bytes(b"")

    async def again(queue: Queue) -> list[bytes]:
        assert any("cannot be kept" in line for line in queue.trouble)
        return [await queue.content(m) for m in await everything(queue)]  # type: ignore[misc]

    assert with_queue(found, again) == [b"0", b"2"]


def test_a_log_of_which_nothing_can_be_read_is_told(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0")
        return crashed(spool)

    found = with_queue(spool, body)
    _unreadable(monkeypatch, *range(redo.MOST_UNREADABLE + 1))
    with pytest.raises(QueueError, match=r"redo log cannot be read.*redo-0"):
        contents_of(found)


@pytest.mark.parametrize("who", ["kernel", "thread"])
def test_a_log_that_cannot_be_synced_is_passed_over(spool: Path, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"1")
        if who == "kernel":
            assert isinstance(queue._writer._syncs, Syncs)
            monkeypatch.setattr(
                queue._writer._syncs, "start", lambda fd, done: asyncio.get_running_loop().call_soon(done, errno.EIO)
            )
        else:
            queue._writer._syncs = None
            monkeypatch.setattr("mailflow.store.redo_file.os.fdatasync", _failing)
        await put_all(queue, b"2")
        monkeypatch.undo()
        assert rows(spool) == 3
        return crashed(spool)

    assert contents_of(with_queue(spool, body)) == [b"0", b"1", b"2"]


def _failing(fd: int) -> None:
    raise OSError(errno.EIO, "the disk")


@pytest.mark.interpreted("a constant is replaced")
def test_where_the_kernel_does_not_sync_for_us_or_makes_us_wait_a_thread_does(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailflow.store.fresh.SLOW_SECONDS", -1.0)
    started: list[int] = []
    real = Syncs.start
    monkeypatch.setattr(Syncs, "start", lambda self, fd, done: (started.append(fd), real(self, fd, done)))

    async def body(queue: Queue) -> None:
        await put_all(queue, *[b"x"] * 10)
        assert len(started) == 1, "then the log is left to the thread for a while"

    with_queue(spool, body)
    monkeypatch.setattr("mailflow.store.aio.platform.machine", lambda: "pdp11")
    with_queue(spool, body)
    assert len(contents_of(spool)) == 20


@pytest.mark.interpreted("a method is replaced")
def test_a_log_that_cannot_be_written_is_passed_over(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Redo.place

    def failing(self: Redo, packed: bytes) -> int:
        real(self, packed)
        raise OSError(errno.EIO, "the disk")

    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"1")
        monkeypatch.setattr(Redo, "place", failing)
        await put_all(queue, b"2")
        assert rows(spool) == 3, "in the tables, with what the log had"
        monkeypatch.setattr(Redo, "place", real)
        await put_all(queue, b"3")
        assert rows(spool) == 4, "the log has a rest"
        monkeypatch.setattr(queue._store.fresh, "_resting_until", 0.0)
        await put_all(queue, b"4")
        assert rows(spool) == 4
        return crashed(spool)

    assert contents_of(with_queue(spool, body)) == [b"0", b"1", b"2", b"3", b"4"]


def test_the_files_stay_small_and_nothing_is_lost_where_they_are_used_again(spool: Path) -> None:
    async def body(queue: Queue) -> None:
        for n in range(100):
            await put_all(queue, b"%d" % n + bytes(50_000))

    with_queue(spool, body, redo_log="1MiB")
    assert max(file.stat().st_size for file in spool.glob("redo-*")) <= 2 * 2**20
    found = contents_of(spool)
    assert [content[:4].strip(b"\0") for content in found] == [b"%d" % n for n in range(100)]


@pytest.mark.interpreted("a constant is replaced")
def test_no_more_than_some_messages_wait_there(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailflow.store.fresh.MOST", 10)

    async def body(queue: Queue) -> None:
        most = 0
        for n in range(50):
            await put_all(queue, b"%d" % n)
            most = max(most, len(queue._store.fresh.entries))
        assert 5 < most <= 11

    with_queue(spool, body)
    assert len(contents_of(spool)) == 50


@pytest.mark.interpreted("a constant is replaced")
def test_the_room_on_the_disk_is_looked_up_beside_the_log(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailflow.store.writer.LOOK_SECONDS", 0.0)

    async def body(queue: Queue) -> None:
        await put_all(queue, b"0", b"1", b"2")
        assert rows(spool) == 0
        assert queue._writer.room.promised == 0, "what is written is not counted any longer"

    with_queue(spool, body)


def test_without_a_log_there_are_no_files(spool: Path) -> None:
    async def body(queue: Queue) -> None:
        await put_all(queue, b"0", b"1")
        assert rows(spool) == 2

    with_queue(spool, body, redo_log=0)
    assert not list(spool.glob("redo-*"))


def test_where_the_database_does_not_say_which_records_count_the_newest_do(spool: Path) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"1")
        await queue.counts()
        await put_all(queue, b"2", b"3")
        return crashed(spool)

    found = with_queue(spool, body)
    with closing(sqlite3.connect(database(found), isolation_level=None)) as db:
        db.execute("DELETE FROM meta WHERE key GLOB 'redo*'")
    assert contents_of(found) == [b"0", b"1", b"2", b"3"]


def _write(log: Redo, generation: int, *gone: int, carried: bool = False) -> None:
    """One record for each of these."""
    log.begin(generation)
    for key in gone:
        log.write(log.pack(Record([], [(key, 0)], carried)))


def _gone(spool: Path, generation: int | None) -> list[int]:
    """What the log says to a database that is at this generation, if it says that nothing is damaged."""
    log = redo.read(spool, 0, generation)
    assert not [line for line in log.trouble if "lost commits" not in line]
    return [key for record in log.records for key, _ in record.gone]


def test_records_of_a_generation_that_is_over_do_not_count(spool: Path) -> None:
    spool.mkdir()
    with closing(Redo(spool, 2**20)) as log:
        _write(log, 7, 70, 71, 72)
        _write(log, 8, 80, 81)
        assert _gone(spool, 8) == [80, 81]
        _write(log, 9, 90)
    assert _gone(spool, 9) == [90]
    assert _gone(spool, 7) == [70, 71, 72, 80, 81, 90], "they are there still, should the database lose what it has"
    assert redo.read(spool, 0, None).next == 10
    assert redo.begun(spool, 0, 9)
    assert not redo.begun(spool, 0, 10)


def test_generations_share_a_file_until_it_has_too_little_room(spool: Path) -> None:
    spool.mkdir()
    in_a_file = 8
    with closing(Redo(spool, (in_a_file - 1) * redo_file.LEFT_AFTER * BLOCK_BYTES)) as log:
        for generation in range(5 * in_a_file):
            _write(log, generation, generation)
            kept = generation // in_a_file * in_a_file - in_a_file  # of the other file, all
            assert _gone(spool, max(kept, 0)) == list(range(max(kept, 0), generation + 1))


def test_a_generation_that_is_begun_once_more_begins_where_it_had(spool: Path) -> None:
    spool.mkdir()
    with closing(Redo(spool, 2**20)) as log:
        _write(log, 7, 70)
        _write(log, 8, 80, carried=True)
        _write(log, 8, 81, carried=True)
        assert _gone(spool, 8) == [81]
        _write(log, 9, 90)
    assert _gone(spool, 7) == [70, 81, 90]


def test_nothing_comes_behind_a_record_whose_write_failed(spool: Path) -> None:
    spool.mkdir()
    with closing(Redo(spool, 2**20)) as log:
        _write(log, 7, 70)
        log.place(log.pack(Record([], [(71, 0)])))
        log.void()
        _write(log, 8, 80)
    assert [redo.read(spool, 0, n).file for n in (7, 8)] == [1, 1]
    assert _gone(spool, 7) == [70, 80]


def test_what_is_carried_over_may_be_there_before_the_commit_that_makes_it_count(spool: Path) -> None:
    spool.mkdir()
    with closing(Redo(spool, 2**20)) as log:
        _write(log, 7, 70)
        _write(log, 8, 70, carried=True)
    log = redo.read(spool, 0, 7)
    assert log.records == [Record([], [(70, 0)]), Record([], [(70, 0)], carried=True)]
    assert not log.trouble


def _begun_again(spool: Path, generation: int) -> Redo:
    """The log of a process that has just started on a database that is at this generation."""
    found = redo.read(spool, 0, generation)
    log = Redo(spool, 2**20)
    log.resume(found.next, found.file, found.at)
    return log


@pytest.mark.parametrize("left_after", [4, 2**40], ids=["one file", "two files"])
@pytest.mark.interpreted("a constant is replaced")
def test_a_start_writes_nothing_over_that_counts(spool: Path, monkeypatch: pytest.MonkeyPatch, left_after: int) -> None:
    monkeypatch.setattr(redo_file, "LEFT_AFTER", left_after)
    spool.mkdir()
    with closing(Redo(spool, 2**20)) as log:
        _write(log, 7, 70, 71)
    with closing(_begun_again(spool, 7)) as log:  # killed before the commit that begins 8
        log.begin(8)
        log.write(log.pack(Record([], [(70, 0)] * 500, carried=True)))
    for _ in range(3):  # and once more
        with closing(_begun_again(spool, 7)) as log:
            _write(log, 8, 71, carried=True)
        assert redo.read(spool, 0, 7).records[:2] == [Record([], [(70, 0)]), Record([], [(71, 0)])]
        assert _gone(spool, 8) == [71], "of the attempt before nothing is left"
    with closing(_begun_again(spool, 8)) as log:
        _write(log, 9, 90)
    assert _gone(spool, 9) == [90]
    assert _gone(spool, 8) == [71, 90]


def test_a_record_that_was_torn_while_it_was_carried_is_no_loss(spool: Path) -> None:
    spool.mkdir()
    with closing(Redo(spool, 2**20)) as log:
        _write(log, 7, 70)
        log.begin(8)
        torn = log.pack(Record([], [(70, 0)], carried=True))
        log.place(torn[:-1] + bytes([torn[-1] ^ 1]))
    assert redo.read(spool, 0, 7).trouble == []
    assert _gone(spool, 7) == [70]


def test_a_database_that_has_lost_its_last_commits_is_told_and_the_log_has_them(spool: Path) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"0", b"1")
        found = crashed(spool)
        for content in (b"2", b"3", b"4"):
            await queue.counts()
            await put_all(queue, content)
        for file in spool.glob("redo-*"):
            shutil.copy(file, found)
        return found

    found = with_queue(spool, body)

    async def again(queue: Queue) -> list[bytes]:
        assert any("lost commits" in line for line in queue.trouble)
        return [await queue.content(m) for m in await everything(queue)]  # type: ignore[misc]

    assert with_queue(found, again) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.interpreted("a constant is replaced")
def test_mail_that_looks_like_a_record_is_none(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's mail lies in the file still when its record has been written over, and begins wherever he likes."""
    monkeypatch.setattr("mailflow.store.writer.FOLD_SECONDS", 3600.0)
    monkeypatch.setattr(redo_file, "LEFT_AFTER", 2**40)  # each generation has a file for itself

    async def body(queue: Queue) -> Path:
        (kept,) = await put_all(queue, b"kept")
        await queue.write_out()
        now = generation(spool)
        forged = Redo(spool, 0)
        forged.begin(now + FILES)
        record = forged.pack(Record([], [(kept.id, 0)]))
        shift = short = BLOCK_BYTES
        while short:  # an id may have a digit less than the one before
            shift += short
            message = make(queue, bytes(shift) + record + bytes(2 * BLOCK_BYTES - len(record)))
            packed = queue._store.pack([message], [], message.id)
            assert packed
            short = -packed.data.index(record) % BLOCK_BYTES
        assert await put(queue, message) is None
        file = log_file(spool)
        for _ in range(FILES):
            await queue.write_out()
            await put_all(queue, b"small")
        data = file.read_bytes()
        assert generation(spool) == now + FILES
        assert any(data.startswith(record, at) for at in range(0, len(data), BLOCK_BYTES))
        return crashed(spool)

    assert b"kept" in contents_of(with_queue(spool, body))


# Beside a damaged database

WIDE = LARGE[:60_000]
"""A content that is not too large for the redo log, and has pages of its own all the same."""


@pytest.fixture
def damaged_spool(spool: Path) -> Path:
    """Its pages can be read; what needs a new page, or gives one back, fails."""

    async def fill(queue: Queue) -> None:
        await put_all(queue, b"small\r\n", LARGE, b"small\r\n")

    with_queue(spool, fill, redo_log=0)
    spoil(spool)
    return spool


@pytest.mark.wish(82)
def test_who_has_left_is_set_aside_where_the_tables_keep_him(damaged_spool: Path) -> None:
    async def body(queue: Queue) -> list[Message]:
        told: list[Message] = []
        queue.on_aside = lambda message, why: told.append(message)
        for message in await everything(queue):
            assert await settle(queue, message, message.recipients) is None
        assert await everything(queue) == []
        return told

    (message,) = with_queue(damaged_spool, body)
    assert message.size == len(LARGE)
    assert read_aside(damaged_spool) == {(message.id, 0)}
    for _ in range(2):
        assert with_queue(damaged_spool, everything) == []
    assert [m.id for m in list_messages(damaged_spool)] == [message.id]


@pytest.mark.wish(82)
def test_who_has_left_is_set_aside_after_a_crash_too(damaged_spool: Path) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"new")
        for message in await everything(queue):
            queue.settle(Settlement(message, message.recipients))
        await put_all(queue, b"newer")
        return crashed(damaged_spool)

    found = with_queue(damaged_spool, body)
    assert contents_of(found) == [b"newer"]
    assert len(read_aside(found)) == 1


@pytest.mark.wish(82)
def test_what_the_tables_do_not_take_stays_in_the_log_and_is_delivered_or_comes_in_after_a_repair(
    damaged_spool: Path,
) -> None:
    async def body(queue: Queue) -> Path:
        await put_all(queue, b"new")
        message, other = await put_all(queue, WIDE, WIDE)
        assert (await queue.counts()).messages == 4, "all but these"
        assert await queue.content(message) == WIDE
        found = crashed(damaged_spool)
        assert await settle(queue, message, message.recipients) is None
        message = other
        message.recipients[0].due, message.recipients[0].attempts = 7.0, 1
        told: list[Message] = []
        queue.on_aside = lambda message, why: told.append(message)
        await settle(queue, message, [], message.recipients)
        assert told == [message], "its outcome is for the tables"
        return found

    found = with_queue(damaged_spool, body)
    assert len(contents_of(found)) == 4
    assert len(contents_of(found)) == 4, "again, for the log was carried over"
    list(repair(found, QueueSettings()))
    assert sorted(map(len, contents_of(found))) == sorted([7, 7, 3, len(LARGE), *[len(WIDE)] * 2])
    list(repair(damaged_spool, QueueSettings()))
    assert sorted(map(len, contents_of(damaged_spool))) == sorted([7, 7, 3, len(LARGE), len(WIDE)])


def test_a_fold_whose_fate_is_not_known_is_found_out_by_opening_anew(spool: Path) -> None:
    fresh = Fresh(spool, 2**20)
    fresh.generation = 4
    fresh.entries[1] = ((1,), b"x")
    fresh.regain(4)
    assert fresh.entries
    assert fresh.dirty
    fresh.regain(None)
    assert fresh.entries
    fresh.regain(5)
    assert not fresh.entries
    assert (fresh.generation, fresh.dirty) == (5, True), "nothing goes behind what may be there"


def test_what_is_stuck_is_carried_on_though_the_log_is_switched_off(spool: Path) -> None:
    """Or a commit with which it leaves would not void the record of it."""
    fresh = Fresh(spool, 0)
    assert not fresh.used
    fresh.entries[1] = ((1,), b"x")
    fresh.stuck.add(1)
    assert fresh.used
    assert not fresh.dirty


def test_heads_are_of_the_format_that_is_documented(spool: Path) -> None:
    log = Redo(spool, 0)
    log.begin(5)
    log.token = -7
    head = struct.unpack_from("<8sqQIIII", log.pack(Record([], [(1, 0)])))
    assert head[:4] == (b"mflwredo", -7, 5, 0)
    assert os.listdir(spool.parent) == []
