"""What a power loss leaves of a folder: the part of a journal (`disk.c`) that was synced, and by chance some of the rest.

`PowerLoss(base, journal, work, chance).leave(target)` makes the folder anew in `target`. `base` is a copy of the folder
from before the journal began, all of it durable; `work` an empty folder for the files while they are put together.

The model is what POSIX promises, and no more:
- a file's bytes are durable when a sync of that file began after they were written, and returned;
- a name (made, moved, removed) is durable when its directory was synced after it; the file's own sync does not do it;
- of everything else any part may be there, in pieces of 512 bytes or 4 KiB, also a later piece without an earlier one;
- what was waiting when a sync failed is there or not, by chance, for ever: a later sync does not bring it back.
What the model leaves out: sectors that are themselves half written, disks that lie about syncs, and `-shm` files.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.disk import Op

HEADER = struct.Struct("=IIQqqII")
MAGIC = 0x6D664A31
FOLDER = 0
"""The number that stands for a folder in the tables of names."""
PIECES = (512, 4096)
ZEROS = 2**20


@dataclass
class Change:
    """Something that was done to a file and not yet synced."""

    op: Op
    at: int
    data: bytes = b""
    length: int = 0


@dataclass
class Naming:
    """Something that was done to names and not yet synced: which names, and the file of each (None: it goes)."""

    names: dict[str, int | None]

    def concerns(self, folder: str) -> bool:
        """Whether a sync of this folder makes it durable."""
        return any(os.path.dirname(name) == folder for name in self.names)

    def enter(self, folders: dict[str, int]) -> None:
        """Does the same to these names."""
        for name, number in self.names.items():
            if number is None:
                folders.pop(name, None)
            else:
                folders[name] = number


@dataclass
class Waiting:
    """The changes of one file, and how many of them each sync under way will cover."""

    changes: list[Change] = field(default_factory=list)
    covered: dict[int, int] = field(default_factory=dict)


class PowerLoss:
    """The state of a folder, from a journal."""

    def __init__(self, base: Path, journal: Path, work: Path, chance: random.Random) -> None:
        self._work, self._chance = work, chance
        work.mkdir(parents=True, exist_ok=True)
        self._files = 0
        self._durable: dict[str, int] = {}
        self._namings: list[Naming] = []
        self._naming_covered: dict[int, list[Naming]] = {}
        self._waiting: dict[int, Waiting] = {}
        self._by_inode: dict[int, int] = {}
        self._folders: dict[int, str] = {}
        self.dropped = 0
        """Bytes that were written and are gone."""
        self._take_base(base)
        self._now = dict(self._durable)
        for op, inode, at, name, other, data, length in records(journal):
            self._apply(op, inode, at, name, other, data, length)

    def leave(self, target: Path, keep: float | None = None) -> None:
        """Makes the folder as it is after the loss. `keep`: the part of what was not synced that is there all the same,
        0.0 to 1.0; by chance when it is not given."""
        keep = self._chance.choice((0.0, 0.3, 0.7, 1.0)) if keep is None else keep
        for naming in self._namings:
            if self._chance.random() < keep:
                naming.enter(self._durable)
        for number, waiting in self._waiting.items():
            self._lose(number, waiting.changes, keep)
        target.mkdir(parents=True, exist_ok=True)
        for name, number in sorted(self._durable.items()):
            path = target / name
            if not all(str(parent) in self._durable for parent in Path(name).parents if str(parent) != "."):
                continue  # its folder is gone
            if number == FOLDER:
                path.mkdir(mode=0o700, exist_ok=True)
            else:
                shutil.copyfile(self._path(number), path)
                path.chmod(0o600)

    # The journal's records

    def _take_base(self, base: Path) -> None:
        for path in sorted(base.rglob("*")):
            name = str(path.relative_to(base))
            if path.is_dir():
                self._durable[name] = FOLDER
            elif not name.endswith("-shm") and path.is_file():
                self._durable[name] = self._new()
                shutil.copyfile(path, self._path(self._durable[name]))

    def _new(self) -> int:
        self._files += 1
        self._path(self._files).touch()
        return self._files

    def _path(self, number: int) -> Path:
        return self._work / str(number)

    def _apply(self, op: Op, inode: int, at: int, name: str, other: str, data: bytes, length: int) -> None:
        if op in (Op.OPEN, Op.CREATE):
            self._open(op, inode, name, is_folder=bool(at))
        elif op in (Op.MKDIR, Op.RENAME, Op.LINK, Op.UNLINK):
            self._rename(op, name, other)
        elif inode in self._folders:
            self._sync_folder(op, self._folders[inode], at)
        elif inode in self._by_inode:
            self._change(op, self._by_inode[inode], Change(op, at, data, length))

    def _open(self, op: Op, inode: int, name: str, *, is_folder: bool) -> None:
        if is_folder:
            self._folders[inode] = name
            return
        self._folders.pop(inode, None)
        if op is Op.CREATE:
            self._rename(Op.CREATE, name, "")
        if name in self._now:
            self._by_inode[inode] = self._now[name]

    def _rename(self, op: Op, name: str, other: str) -> None:
        known = self._now.get(name)
        made: dict[Op, dict[str, int | None]] = {
            Op.CREATE: {name: self._new() if op is Op.CREATE else None},
            Op.MKDIR: {name: FOLDER},
            Op.UNLINK: {name: None},
            Op.LINK: {other: known},
            Op.RENAME: {name: None, other: known},
        }
        naming = Naming(made[op])
        self._namings.append(naming)
        naming.enter(self._now)

    def _sync_folder(self, op: Op, folder: str, thread: int) -> None:
        if op is Op.SYNC_BEGIN:
            self._naming_covered[thread] = [n for n in self._namings if n.concerns(folder)]
        elif op in Op.SYNCS:
            covered = self._naming_covered.pop(thread, [])
            for naming in covered:
                naming.enter(self._durable)
            self._namings = [n for n in self._namings if not any(n is c for c in covered)]

    def _change(self, op: Op, number: int, change: Change) -> None:
        waiting = self._waiting.setdefault(number, Waiting())
        if op is Op.SYNC_BEGIN:
            waiting.covered[change.at] = len(waiting.changes)
        elif op is Op.SYNC_FAILED:
            self._lose(number, waiting.changes, self._chance.random())
            waiting.changes.clear()
            waiting.covered.clear()
        elif op in Op.SYNCS:
            self._keep(number, waiting, waiting.covered.pop(change.at, 0))
        else:
            waiting.changes.append(change)

    def _keep(self, number: int, waiting: Waiting, count: int) -> None:
        """The first `count` changes are durable."""
        with self._path(number).open("r+b", buffering=0) as file:
            for change in waiting.changes[:count]:
                _write(file.fileno(), change)
        del waiting.changes[:count]
        waiting.covered = {thread: max(0, n - count) for thread, n in waiting.covered.items()}

    def _lose(self, number: int, changes: list[Change], keep: float) -> None:
        """Of these changes some pieces get to the disk, the others never."""
        with self._path(number).open("r+b", buffering=0) as file:
            for piece in (p for change in changes for p in self._pieces(change)):
                if self._chance.random() < keep:
                    _write(file.fileno(), piece)
                else:
                    self.dropped += len(piece.data)

    def _pieces(self, change: Change) -> Iterator[Change]:
        if change.op is not Op.WRITE:
            yield change
            return
        size = self._chance.choice(PIECES)
        at = 0
        while at < len(change.data):
            end = min(len(change.data), (change.at + at) // size * size + size - change.at)
            yield Change(Op.WRITE, change.at + at, change.data[at:end])
            at = end


def _write(fd: int, change: Change) -> None:
    if change.op is Op.WRITE:
        os.pwrite(fd, change.data, change.at)
    elif change.op is Op.TRUNCATE:
        os.ftruncate(fd, change.at)
    elif change.op is Op.ALLOCATE:
        os.ftruncate(fd, max(change.at, os.fstat(fd).st_size))
    elif change.op is Op.ZERO:
        for at in range(change.at, change.at + change.length, ZEROS):
            os.pwrite(fd, bytes(min(ZEROS, change.at + change.length - at)), at)


def records(journal: Path) -> Iterator[tuple[Op, int, int, str, str, bytes, int]]:
    """The records of a journal; one that the end of the process cut off, and all behind it, do not count."""
    with journal.open("rb") as file:
        while len(head := file.read(HEADER.size)) == HEADER.size:
            magic, op, inode, at, length, name, other = HEADER.unpack(head)
            if magic != MAGIC:
                return
            names = file.read(name), file.read(other)
            data = file.read(length) if op == Op.WRITE else b""
            if op == Op.WRITE and len(data) < length:
                return
            yield Op(op), inode, at, _plain(names[0]), _plain(names[1]), data, length


def _plain(name: bytes) -> str:
    """A path below the root as the tables have it; the root itself is ""."""
    path = os.path.normpath(os.fsdecode(name))
    return "" if path == "." else path
