"""The redo log against a model of its database, with crashes, failed commits and failed writes in any order.

The database is a set of ids and the generation that it names. Whatever happens, a start finds what was acknowledged and has not left, nothing
else, and no damage.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailflow.store import checksums
from mailflow.store.fresh import Fresh, Packed
from mailflow.store.redo import BLOCK_BYTES, Entry, Record

SEEDS = 60
STEPS = 100
TOKEN = 9
LARGEST_RECORD = 5 * BLOCK_BYTES
STEP_WEIGHTS = {
    "record": 12,
    "fold": 3,
    "fold fails": 1,
    "write fails": 0.6,
    "crash": 0.6,
    "crash before": 0.6,
    "crash behind": 0.6,
}
"""The crashes are somewhere, and just before and behind the commit of a fold."""


class World:
    """A spool, its database, and who has to be there. `refusing`: the database takes some messages never."""

    def __init__(self, spool: Path, seed: int, *, refusing: bool) -> None:
        self.chance = random.Random(seed)
        self.refusing = refusing
        self.spool = spool
        self.limit = self.chance.choice([12, 40]) * BLOCK_BYTES
        self.generation = 0
        self.tables: set[int] = set()
        self.refused: set[int] = set()
        self.live: set[int] = set()
        self.last = 0
        self.start()

    def start(self) -> None:
        """A process begins, and finds everything."""
        self.fresh = fresh = Fresh(self.spool, self.limit)
        fresh.load(TOKEN, self.generation)
        fresh.left(list(set(fresh.entries) & self.tables))
        assert not fresh.trouble
        assert (set(fresh.entries) | self.tables) - set(fresh.gone) == self.live

    def step(self) -> None:
        (what,) = self.chance.choices(list(STEP_WEIGHTS), list(STEP_WEIGHTS.values()))
        match what:
            case "record":
                self.record()
            case "write fails":
                self.fail()
            case "fold" | "fold fails":
                self.fold(what)
            case _:
                self.crash(what)

    def record(self) -> None:
        """Some come, some leave."""
        fresh = self.fresh
        if fresh.spoilt or fresh._redo.used + LARGEST_RECORD > self.limit:
            return
        entries = list(self.new())
        known = [key for key in sorted(self.live) if key in fresh.entries or key in self.tables]
        leaving = [key for key in known if self.chance.random() < 0.3][:2]
        record = Record(entries, [(key, 0) for key in leaving])
        assert fresh.write(Packed(record, [None] * len(leaving), fresh._redo.pack(record)))  # type: ignore[list-item]
        self.live |= {values[0] for values, _ in entries}
        self.live -= set(leaving)

    def new(self) -> Iterator[Entry]:
        for _ in range(self.chance.randint(0, 2)):
            self.last += 1
            content = b"x" * self.chance.choice([10, 5000])
            if self.refusing and self.chance.random() < 0.15:
                self.refused.add(self.last)
            yield (self.last, checksums.content(self.last, content)), content

    def fail(self) -> None:
        """A record whose write fails is void when the next commit is made."""
        fresh = self.fresh
        data = fresh._redo.pack(Record([((10**6, 0), b"")], []))
        if not fresh.spoilt and fresh._redo.fits(data):
            fresh._redo.place(data)
            fresh.failed()
            self.fold("fold")

    def fold(self, how: str) -> None:
        """As `fold.folding`, with the refused ones found by the transaction that fails."""
        fresh = self.fresh
        fresh.carry(())
        while self.refusing and (stuck := [k for k in fresh.entries if k in self.refused and k not in fresh.stuck]):
            fresh.not_folded()
            fresh.stuck.update(stuck)
            if how == "crash before" and self.chance.random() < 0.5:
                return
            fresh.carry(())
        if how == "fold fails":
            fresh.not_folded()
        elif how != "crash before":
            self.tables |= {key for key in fresh.entries if key not in fresh.stuck}
            self.tables -= set(fresh.gone)
            self.generation = fresh.generation + 1
            if how == "fold":
                fresh.folded()

    def crash(self, how: str) -> None:
        """And a start, the first attempts of which may come to nothing."""
        if how != "crash":
            self.fold(how)
        self.fresh.close()
        self.start()
        while self.chance.random() < 0.3:
            self.fold(self.chance.choice(["fold fails", "crash before"]))
            self.fresh.close()
            self.start()
        if self.fresh.dirty:
            self.fold(self.chance.choice(["fold", "fold", "fold", "fold fails"]))


@pytest.mark.parametrize("refusing", [False, True], ids=["whole database", "damaged database"])
def test_a_start_finds_what_was_acknowledged_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, refusing: bool
) -> None:
    monkeypatch.setattr("os.fdatasync", lambda _: None)
    monkeypatch.setattr("mailflow.store.redo_file.GROW_BYTES", 16 * BLOCK_BYTES)
    for seed in range(SEEDS):
        spool = tmp_path / str(seed)
        spool.mkdir()
        world = World(spool, seed, refusing=refusing)
        for _ in range(STEPS):
            world.step()
        world.fresh.close()
