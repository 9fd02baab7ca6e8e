"""Whether damage is found, mended without a loss, and leaves all other mail alone (wish 82)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mailflow.errors import QueueDamaged, QueueError, QueueLocked
from mailflow.ids import format_id
from mailflow.queue import Queue, QueueSettings, Selection
from mailflow.store.check import Kind, check
from mailflow.store.reader import list_messages, read_content
from mailflow.store.repair import repair
from mailflow.store.schema import FORMAT, database
from tests.queue.helpers import make, put, spill, with_queue

MESSAGES = 30


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A queue with contents of every kind of place: database, segment, file."""

    async def body(queue: Queue) -> None:
        for n in range(MESSAGES):
            await put(queue, make(queue, b"small %d " % n * 20, to=("smtp:a.example", f"smtp:b{n}.example")))
        await put(queue, make(queue, os.urandom(300_000)))
        number = queue.new_id()
        large = make(queue, await spill(queue, number, [b"large" * 1000]))
        large.id = number
        await put(queue, large)

    with_queue(tmp_path, body)
    return tmp_path


def kinds(spool: Path) -> list[tuple[Kind, int]]:
    return [(f.kind, f.id) for f in check(spool, full=True)]


def edit(spool: Path, sql: str, *values: object) -> None:
    with sqlite3.connect(database(spool)) as db:
        assert db.execute(sql, values).rowcount == 1
    db.close()


def ids(spool: Path) -> list[int]:
    return [m.id for m in list_messages(spool)]


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 255]))


def everything_on_disk(spool: Path) -> list[object]:
    with closing(sqlite3.connect(database(spool))) as db:
        rows = list(db.iterdump())
    return [rows, *((p.name, p.read_bytes()) for d in ("segments", "content") for p in sorted((spool / d).iterdir()))]


def mail_on_disk(spool: Path) -> list[object]:
    """The same without what a rescue notes of itself."""
    (rows, *files) = everything_on_disk(spool)
    return [sorted(row for row in rows if '"meta"' not in row), *files]  # type: ignore[attr-defined]


def test_a_whole_queue_has_no_findings_beside_a_server_too(spool: Path) -> None:
    async def body(queue: Queue) -> None:
        assert kinds(spool) == []
        with pytest.raises(QueueLocked):
            list(repair(spool, QueueSettings()))

    with_queue(spool, body)
    before = everything_on_disk(spool)
    assert list(repair(spool, QueueSettings())) == []
    assert everything_on_disk(spool) == before
    assert not (spool / "damaged").exists()


def test_without_a_queue(tmp_path: Path) -> None:
    for look in (check(tmp_path), repair(tmp_path, QueueSettings())):
        with pytest.raises(QueueError, match="no queue here"):
            list(look)
    assert list(tmp_path.iterdir()) == []


def _in_database(spool: Path, key: int) -> None:
    edit(spool, "UPDATE content SET data = CAST(x'00' || substr(data, 2) AS BLOB) WHERE id = ?", key)


def _in_segment(spool: Path, key: int) -> None:
    flip(next((spool / "segments").iterdir()), 100_000)


def _in_file(spool: Path, key: int) -> None:
    flip(next((spool / "content").iterdir()), 100)


def _missing(spool: Path, key: int) -> None:
    edit(spool, "DELETE FROM content WHERE id = ?", key)


@pytest.mark.parametrize(
    ("damage", "place"), [(_in_database, 3), (_in_segment, MESSAGES), (_in_file, MESSAGES + 1), (_missing, 5)]
)
def test_a_damaged_content_is_quarantined_and_all_others_are_left_alone(
    spool: Path, damage: Callable[[Path, int], None], place: int
) -> None:
    before = ids(spool)
    key = before[place]
    damage(spool, key)
    assert kinds(spool) == [(Kind.CONTENT, key)]
    [mended] = repair(spool, QueueSettings())
    assert "on hold" in mended.done
    assert ids(spool) == before, "nothing is deleted"
    states = {m.id: {r.state for r in m.recipients} for m in list_messages(spool)}
    assert states.pop(key) == {"held"}
    assert set.union(*states.values()) == {"queued"}
    kept = json.loads((spool / "damaged" / f"{format_id(key)}.json").read_text())
    assert kept["sender"] == "s@example.org"
    assert [r["address"] for r in kept["recipients"]] == [
        r.address for r in next(list_messages(spool, [key])).recipients
    ]
    content = (spool / "damaged" / f"{format_id(key)}.eml").read_bytes()
    assert bool(content) == (damage is not _missing)
    assert kinds(spool) == [(Kind.QUARANTINED, key)]
    assert [m.done for m in repair(spool, QueueSettings())] == [""], "it waits for the operator"
    for other in before:
        if other != key:
            read_content(spool, other)
    with pytest.raises((QueueDamaged, QueueError)):
        read_content(spool, key)


def test_what_a_server_has_put_on_hold_already_is_kept_too_once(spool: Path) -> None:
    key = ids(spool)[MESSAGES]
    _in_segment(spool, key)

    async def body(queue: Queue) -> None:
        await queue.hold(Selection(ids=(key,)))

    with_queue(spool, body)
    assert kinds(spool) == [(Kind.QUARANTINED, key)]
    assert [m.done for m in repair(spool, QueueSettings())] == [f"kept as {spool}/damaged/{format_id(key)}.json"]
    assert (spool / "damaged" / f"{format_id(key)}.eml").stat().st_size == 300_000
    assert [m.done for m in repair(spool, QueueSettings())] == [""]


def test_a_wrong_counter_is_counted_anew(spool: Path) -> None:
    key = ids(spool)[0]
    edit(spool, "UPDATE message SET remaining = 7 WHERE id = ?", key)
    assert kinds(spool) == [(Kind.COUNTER, key)]
    assert [m.done for m in repair(spool, QueueSettings())] == ["counted anew"]
    assert next(list_messages(spool, [key])).remaining == 2
    assert kinds(spool) == []


@pytest.mark.parametrize(
    ("table", "column", "found"),
    [("message", "id", Kind.ORPHAN), ("recipient", "message_id", Kind.EMPTY)],
)
def test_what_belongs_to_no_message_is_kept_and_leaves(spool: Path, table: str, column: str, found: Kind) -> None:
    key = ids(spool)[4]
    with sqlite3.connect(database(spool)) as db:
        db.execute(f"DELETE FROM {table} WHERE {column} = ?", (key,))
    db.close()
    assert {k for k, _ in kinds(spool)} == {found}
    assert all("moved to" in m.done for m in repair(spool, QueueSettings()))
    assert b"small 4" in (spool / "damaged" / f"{format_id(key)}.eml").read_bytes()
    kept = json.loads((spool / "damaged" / f"{format_id(key)}.json").read_text())
    assert len(kept["recipients"]) == (2 if table == "message" else 0)
    assert kinds(spool) == []
    assert len(ids(spool)) == MESSAGES + 1


def test_an_index_that_does_not_agree_is_made_anew(spool: Path) -> None:
    with sqlite3.connect(database(spool)) as db:
        sql = db.execute("SELECT sql FROM sqlite_master WHERE name = 'recipient_due'").fetchone()[0]
        db.execute("PRAGMA writable_schema = ON")
        db.execute("DELETE FROM sqlite_master WHERE name = 'recipient_due'")
        db.execute("PRAGMA writable_schema = RESET")
        db.execute("DELETE FROM recipient WHERE number = 1 AND message_id = ?", (ids(spool)[0],))
        db.execute("UPDATE message SET remaining = 1 WHERE id = ?", (ids(spool)[0],))
    db.close()
    assert sql
    assert {k for k, _ in kinds(spool)} == {Kind.DATABASE}
    list(repair(spool, QueueSettings()))
    assert kinds(spool) == []
    assert len(ids(spool)) == MESSAGES + 2


def break_leaf(spool: Path, table: str) -> None:
    """Writes over the first page of a table that has rows."""
    with sqlite3.connect(database(spool)) as db:
        sql = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'"
        page = db.execute(sql, (table,)).fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    db.close()
    with database(spool).open("r+b") as stream:
        stream.seek((page - 1) * size)
        stream.write(b"\xff" * size)


def test_broken_pages_cost_no_more_than_what_was_on_them(spool: Path) -> None:
    before = ids(spool)
    break_leaf(spool, "content")
    assert Kind.DATABASE in {k for k, _ in kinds(spool)}
    mended = list(repair(spool, QueueSettings()))
    assert "rescued" in mended[0].done
    assert ids(spool) == before, "every envelope is there"
    held = {m.id for m in list_messages(spool) if {r.state for r in m.recipients} == {"held"}}
    assert {k for k, _ in kinds(spool)} == {Kind.QUARANTINED}
    assert 0 < len(held) <= len(before)
    for key in set(before) - held:
        read_content(spool, key)
    assert (spool / "damaged" / "queue.db.1").exists()
    with_queue(spool, _nothing)


@pytest.mark.parametrize(("table", "folder"), [("extent", "segments"), ("content", "content")])
def test_contents_whose_rows_are_lost_are_not_overwritten_while_the_old_database_is_kept(
    spool: Path, table: str, folder: str
) -> None:
    if table == "content":
        edit(spool, "DELETE FROM content WHERE file IS NOT NULL")  # a row that not even its page shows
    (file,) = (spool / folder).iterdir()
    kept = file.read_bytes()
    break_leaf(spool, table)
    mended, *_ = repair(spool, QueueSettings())
    assert "rescued" in mended.done

    async def much_mail(queue: Queue) -> None:
        for _ in range(3):
            number = queue.new_id()
            large = make(queue, await spill(queue, number, [b"other" * 1000]))
            large.id = number
            assert await put(queue, large) is None
            assert await put(queue, make(queue, b"other" * 60_000)) is None

    with_queue(spool, much_mail)
    with_queue(spool, much_mail)
    assert file.read_bytes()[: len(kept)] == kept
    assert not [k for k, _ in kinds(spool) if k is not Kind.QUARANTINED]
    (spool / "damaged" / "queue.db.1").unlink()
    with_queue(spool, much_mail)
    assert not file.exists() or file.read_bytes()[: len(kept)] != kept, "nobody wants it any more"


async def _nothing(queue: Queue) -> None:
    assert (await queue.counts()).messages == MESSAGES + 2


def first_page(spool: Path, offset: int, data: bytes) -> None:
    with database(spool).open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


@pytest.mark.wish(82)
@pytest.mark.parametrize(
    "offset",
    [0, 15, 16, 17, 18, 19, 20, 21, 23, 28, 31, 44, 47, 55, 56, 59, 60, 67, 68, 91, 101, 103, "CREATE TABLE rec"],
)
def test_a_damaged_first_page_costs_no_mail(spool: Path, offset: int | str) -> None:
    before = mail_on_disk(spool)
    page = database(spool).read_bytes()[:8192]
    place = page.index(offset.encode()) if isinstance(offset, str) else offset
    first_page(spool, place, bytes([page[place] ^ 0xFF]))
    done = [m.done for m in repair(spool, QueueSettings())]
    assert mail_on_disk(spool) == before
    assert kinds(spool) == []
    if done:  # else SQLite does not mind
        kept = next((spool / "damaged").glob("queue.db.*"))
        assert kept.read_bytes()[place] == page[place] ^ 0xFF
    with_queue(spool, _nothing)


@pytest.mark.parametrize("offset", [0, 18, 47, 68])
def test_who_cannot_open_a_damaged_queue_is_told_how_to_mend_it(spool: Path, offset: int) -> None:
    first_page(spool, offset, b"\x7f")
    with pytest.raises(QueueError, match="queue check --repair"):
        with_queue(spool, _nothing)


def test_after_a_crash_the_first_page_that_is_in_the_log_only_is_no_damage(tmp_path: Path) -> None:
    young, crashed = tmp_path / "young", tmp_path / "crashed"

    async def body(queue: Queue) -> None:
        await put(queue, make(queue))
        shutil.copytree(young, crashed)

    with_queue(young, body)
    assert database(crashed).read_bytes()[68:72] != b"mflw", "it is in the log only"
    assert list(repair(crashed, QueueSettings())) == []
    assert len(ids(crashed)) == 1


def test_a_first_page_that_was_tried_when_a_repair_crashed_is_put_back(spool: Path) -> None:
    """On a queue that has another one than new ones: its tables begin elsewhere."""
    before = mail_on_disk(spool)
    with closing(sqlite3.connect(database(spool), isolation_level=None)) as db:
        db.execute("DROP INDEX content_file")
        db.execute("CREATE TABLE other (x)")
        db.execute("CREATE INDEX content_file ON content (file) WHERE file IS NOT NULL")
        db.execute("DROP TABLE other")
        own = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'content_file'").fetchone()
    page = database(spool).read_bytes()[:8192]
    assert list(map(str, repair(spool, QueueSettings()))) == [], f"that it differs is no damage: {own}"
    assert database(spool).read_bytes()[100:8192] == page[100:]
    (spool / "damaged").mkdir(exist_ok=True)
    (spool / "damaged" / "queue.db.page1").write_bytes(page)
    first_page(spool, 100, os.urandom(8092))
    done = [m.done for m in repair(spool, QueueSettings())]
    assert done[0].startswith("the database's first page was written anew")
    assert mail_on_disk(spool) == before


def test_a_newer_format_is_no_damage(spool: Path) -> None:
    first_page(spool, 60, (FORMAT + 1).to_bytes(4))
    before = database(spool).read_bytes()
    with pytest.raises(QueueError, match="newer mailflow"):
        list(repair(spool, QueueSettings()))
    assert database(spool).read_bytes() == before
    assert not (spool / "damaged").exists()
