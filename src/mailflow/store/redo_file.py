"""The redo log's files as they are written; `redo.py` has their format, and reads them.

Apart from it because of pydantic's serialiser, a third of the work of the standard library's, which who only reads need not load.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pydantic_core import to_json

from mailflow.store.content import sync_folder
from mailflow.store.redo import FILES, HEAD_BYTES, Record, blocks, make_head, path

LEFT_AFTER = 4
"""A generation that begins behind this part of its file (a quarter) begins in the other file instead, so that it has room."""
GROW_BYTES = 2**20
"""The file grows by so much, in zeros: a sync in the steady state has no new length and no new block to note."""


class Redo:
    """The file in use, open for writing."""

    def __init__(self, spool: Path, limit: int) -> None:
        """`limit`: bytes that a file is to have."""
        self.used = 0
        """Bytes of it that records take, and those of generations that are over."""
        self.token = 0
        """What each head has, and nobody else knows."""
        self._spool = spool
        self._limit = limit
        self._generation = 0
        self._number = 0
        self._file = 0
        self._begin = 0
        """Where the generation begins in its file."""
        self._failed = False
        """A record may be on the disk whose write failed."""
        self._fds: dict[int, int] = {}
        self._sizes: dict[int, int] = {}

    def resume(self, generation: int, file: int, at: int) -> None:
        """This generation's records begin there: nothing that counts is written over."""
        self._generation, self._number = generation, 0
        self._file, self._begin, self.used = file, at, at

    def begin(self, generation: int) -> None:
        """Records are of this generation from now on; they come behind those of the one before, or at the beginning of the other file.

        Once more the same one: from its beginning.
        """
        if generation != self._generation:
            self._begin = self.used
            if self._failed or self.used > self._limit // LEFT_AFTER:
                self._file, self._begin, self._failed = (self._file + 1) % FILES, 0, False
        self._generation, self._number, self.used = generation, 0, self._begin

    def pack(self, record: Record) -> bytes:
        """What `write` writes for the next record. Raises ValueError for a text that has no encoding."""
        entries, gone, carried = record
        found = [(*values, len(content)) for values, content in entries]
        rows = to_json((found, gone, carried), inf_nan_mode="constants")
        size = sum([len(content) for _, content in entries])
        start = make_head(self.token, self._generation, self._number, rows, size)
        return b"".join((start, rows, *[content for _, content in entries]))

    def write(self, packed: bytes) -> None:
        """Writes the next record; it is durable when this returns.

        Raises OSError, and then the record may be on the disk nevertheless: nothing must be written behind it.
        """
        fd = self._open()
        while self._sizes[fd] < self.used + len(packed):
            self._sizes[fd] += os.pwrite(fd, bytes(GROW_BYTES), self._sizes[fd])
        self.place(packed)
        os.fdatasync(fd)
        self.placed(packed)

    def fits(self, packed: bytes) -> bool:
        """Whether `place` is all that there is to do: the file is open and long enough."""
        fd = self._fds.get(self._file)
        return fd is not None and self.used + len(packed) <= self._sizes[fd]

    def place(self, packed: bytes) -> int:
        """Writes the next record where a sync of the descriptor that is returned makes it durable. Raises OSError."""
        fd = self._fds[self._file]
        if os.pwrite(fd, packed, self.used) != len(packed):
            raise OSError(f"{path(self._spool, self._file)}: a write was cut short")
        return fd

    def placed(self, packed: bytes) -> None:
        """It is durable: the next record comes behind it."""
        self._number += 1
        self.used += blocks(len(packed))

    def void(self) -> None:
        """Takes back what `place` wrote, as far as that goes: whoever sent it is told that it failed."""
        self._failed = True
        with suppress(OSError, KeyError):
            os.pwrite(self._fds[self._file], bytes(HEAD_BYTES), self.used)

    def close(self) -> None:
        """Closes the files. What is in them stays."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _open(self) -> int:
        fd = self._fds.get(self._file)
        if fd is None:
            name = path(self._spool, self._file)
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._sizes[fd] = os.fstat(fd).st_size
            try:
                sync_folder(self._spool)
            except OSError:
                os.close(fd)
                raise
            self._fds[self._file] = fd
        return fd
