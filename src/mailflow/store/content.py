"""Content files: where a message lives that is too large for the database.

A content file is `<spool>/content/<number>`; the row of its message names the number. The files are a pool: one whose
message has been settled is kept, its room included, and the next large message overwrites it, so that no file is made
or removed for each message (wish 85). A file is in use from `take` until the message's row is durably gone; which are
in use is known from the database alone, so a crash leaves nothing to repair: at `sweep` every file without a row is a
spare. A file of a message that an administrator deleted is removed, not kept: somebody may be reading it still.

`ContentFiles` is used by the event loop, the writer and the reader thread: its few variables are behind a lock.
What this module does not do: streaming (`spill.py`), and deciding what is large (the setting content_file_threshold).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from threading import Lock

SPARE_FILES = 32
SPARE_BYTES = 128 * 2**20
"""At most so many settled files, and so many bytes in them, are kept for the next large messages."""


class ContentFiles:
    """The pool of content files of one spool."""

    def __init__(self, spool: Path) -> None:
        self.folder = spool / "content"
        self._lock = Lock()
        self._spare: dict[int, int] = {}
        self._next = 1
        self._in_use: dict[int, int] = {}
        self._finished: dict[int, tuple[int, int]] = {}
        self._named: set[int] = set()

    def __repr__(self) -> str:
        return f"<ContentFiles {self.folder} in_use={len(self._in_use)} spare={len(self._spare)}>"

    def path(self, number: int) -> Path:
        """The file of this number."""
        return self.folder / f"{number:08}"

    def sweep(self, in_use: dict[int, int], reserved: int = 0) -> None:
        """At start: `in_use` is message id → file number as the database has it; all other files become spares, but for
        those with numbers below `reserved`, which are left alone.

        Raises OSError. A file that is not ours by its name is left alone.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._in_use = dict(in_use)
        sync_folder(self.folder)
        taken = set(in_use.values())
        found = [int(entry.name) for entry in os.scandir(self.folder) if len(entry.name) == 8 and entry.name.isdigit()]
        self._next = max([*found, *taken, 0]) + 1
        self._named = set(found)
        for number in found:
            if number not in taken and number >= reserved:
                self.give_back(number)

    def take(self) -> int:
        """A file number to write to: a spare's, or a new one (whose file does not exist yet)."""
        with self._lock:
            if self._spare:
                return self._spare.popitem()[0]
            self._next += 1
            return self._next - 1

    def give_back(self, number: int) -> None:
        """The file is free: it becomes a spare, or is removed when there are enough. Raises OSError."""
        path = self.path(number)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        with self._lock:
            keep = len(self._spare) < SPARE_FILES and sum(self._spare.values()) + size <= SPARE_BYTES
            if keep:
                self._spare[number] = size
        if not keep:
            self._remove(number)

    def drop(self, number: int) -> None:
        """The file is free, and its room is wanted. Raises OSError."""
        self._remove(number)

    def drop_spares(self) -> None:
        """The disk is full: spare files go. Raises OSError."""
        with self._lock:
            spare, self._spare = self._spare, {}
        for number in spare:
            self._remove(number)

    def sync(self, number: int, fd: int) -> None:
        """Brings the bytes of an open file to the disk, and its name when that is new. Raises OSError."""
        os.fsync(fd)
        if number not in self._named:
            sync_folder(self.folder)
            self._named.add(number)

    def finished(self, id: int, number: int, crc: int) -> None:
        """The content of message `id` is complete and synced in file `number`."""
        with self._lock:
            self._finished[id] = (number, crc)

    def claim(self, id: int) -> tuple[int, int] | None:
        """The file number and checksum of a finished content, for its row; None when there is none."""
        with self._lock:
            return self._finished.get(id)

    def stored(self, id: int) -> None:
        """The row that names the file of message `id` is durable."""
        with self._lock:
            self._in_use[id] = self._finished.pop(id)[0]

    def refused(self, id: int) -> None:
        """Message `id` did not get into the queue: its file is free. Raises OSError."""
        with self._lock:
            entry = self._finished.pop(id, None)
        if entry:
            self.give_back(entry[0])

    def settled(self, id: int) -> None:
        """Message `id` is durably gone, and nobody reads it any more. Raises OSError."""
        with self._lock:
            number = self._in_use.pop(id, 0)
        if number:
            self.give_back(number)

    def deleted(self, id: int) -> None:
        """Message `id` is durably gone, but may still be being read: its file goes. Raises OSError."""
        with self._lock:
            number = self._in_use.pop(id, 0)
        if number:
            self._remove(number)

    def _remove(self, number: int) -> None:
        self._named.discard(number)
        self.path(number).unlink(missing_ok=True)

    def has(self, id: int) -> bool:
        """Whether message `id` has a content file."""
        return id in self._in_use

    @property
    def in_use(self) -> dict[int, int]:
        """Which messages have a content file, and which one."""
        return self._in_use

    @property
    def busy(self) -> bool:
        """Whether any message has a content file (the common case has none, and then needs no look-ups)."""
        return bool(self._in_use)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Makes a folder with mode 0700, and what is missing above it, each name durable in its parent. Raises OSError.

    A folder that is there may have been made just before a crash: its name is synced too, where we may do that.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)
    if not missing:
        with suppress(PermissionError):
            sync_folder(folder.parent)
