"""Segment files: where the contents of most messages live, written once and in place (wish 85).

A segment is `<spool>/segments/<number>`, up to 64 MiB; a content has an extent of whole pages in it, and its row in the table
`extent` says where. Which pages are used is known from these rows alone and is built from them at the start (a map on
the disk would be written at every commit, and would have to agree with the rows); so a crash leaves nothing to repair.

The order is the promise. `write` puts a batch's contents on the disk before the rows that name them are committed. An
extent that leaves with its row (`leave`) is free only after `committed`: no row that a crash can bring back points at
other bytes. `undone` frees what was written for a transaction that was not committed.

No file is made or removed for a message: pages are used again, lowest first. What is free beyond SPARE_BYTES is given
back to the disk, a bounded part with each commit; a last segment that is all free is removed.

For one thread, the writer's. What this does not do: reading (`contents.py`), choosing extents (`extents.py`), rows.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path

from mailflow.errors import QueueFull
from mailflow.store.content import sync_folder
from mailflow.store.extents import PAGE_BYTES, SEGMENTS, Extent, ExtentMap, pages_for
from mailflow.store.failure import write_failure
from mailflow.store.holes import punch_hole

SPARE_BYTES = 128 * 2**20
"""So much free space keeps its blocks for the next contents."""
GIVE_BACK_RUNS = 64
"""Runs of free pages that are given back with one commit, at most."""
OPEN_SEGMENTS = 16
"""Files kept open; a batch rarely touches more than one."""
BUFFERS = 1000
"""For one pwritev; Linux takes 1,024 (IOV_MAX)."""
_ZEROS = bytes(PAGE_BYTES)

Row = tuple[int, int, int]
"""Segment, first page, size in bytes, as a row has them."""


def segment_path(spool: Path, segment: int) -> Path:
    """The file of a segment."""
    return spool / "segments" / f"{segment:08}"


class Segments:
    """The segment files of one spool, for its writer."""

    def __init__(self, spool: Path, *, spare_bytes: int = SPARE_BYTES) -> None:
        self.spool = spool
        self._spare_bytes = spare_bytes
        self.rows = 0
        """Contents in segments."""
        self.tight = False
        """The disk is nearly full: files grow by no more than what is needed."""
        self._map = ExtentMap()
        self._taken: list[Extent] = []
        self._leaving: list[Row] = []
        self._files: dict[int, int] = {}
        self._new_name = False
        self._can_punch = True

    def __repr__(self) -> str:
        return f"<Segments rows={self.rows} {self._map!r}>"

    def load(self, extents: Iterable[tuple[int, int, int]], reserved: int = 0) -> None:
        """At start: segment, page and pages of all that the database has. Files that no row needs are removed.

        `reserved`: in segments below this number, what no row names is kept as it is.
        Raises OSError, and what the iterator raises.
        """
        self.close()
        self._map, self._taken, self._leaving = ExtentMap(), [], []
        folder = self.spool / "segments"
        folder.mkdir(mode=0o700, exist_ok=True)
        names = (e for e in os.scandir(folder) if len(e.name) == 8 and e.name.isdigit())
        blocks = {int(entry.name): entry.stat().st_blocks * 512 for entry in names}
        there = min(max(blocks, default=-1) + 1, SEGMENTS)
        self.rows = self._map.occupy(extents, there)
        self._map.reserve(min(reserved, there))
        for segment, size in blocks.items():
            if segment >= reserved:
                self._sweep(segment, size)

    def _sweep(self, segment: int, blocks: int) -> None:
        """A file found at the start: removed when nothing is in it; else its free pages may have blocks still."""
        used = self._map.used_in(segment) if segment < len(self._map) else 0
        if not used:
            segment_path(self.spool, segment).unlink()
        elif blocks > used * PAGE_BYTES:
            self._map.backed(segment)

    def close(self) -> None:
        """Closes the files."""
        files, self._files = self._files, {}
        for fd in files.values():
            os.close(fd)

    # A transaction

    def write(self, contents: Sequence[bytes]) -> list[Row]:
        """Brings contents to the disk, durable when it returns. Says where each of them is, for its row.

        Raises QueueFull, StoreBroken; `undone` has to be called then, as after any other failure of the transaction.
        """
        rows: list[Row] = []
        placed: list[tuple[Extent, bytes]] = []
        for content in contents:
            extent = self._take(pages_for(len(content)))
            placed.append((extent, content))
            rows.append((extent.segment, extent.page, len(content)))
        placed.sort(key=itemgetter(0))
        for segment in dict.fromkeys(extent.segment for extent, _ in placed):
            self._write_segment(segment, [item for item in placed if item[0].segment == segment])
        if self._new_name:
            self._sync_names()
        return rows

    def leave(self, rows: Iterable[Row]) -> None:
        """These were deleted in the transaction under way: free once it is committed."""
        self._leaving += rows

    def committed(self) -> None:
        """The transaction is durable: what it deleted is free, what it wrote is used."""
        self.rows += len(self._taken) - len(self._leaving)
        self._taken.clear()
        for segment, page, size in self._leaving:
            self._map.release(Extent(segment, page, pages_for(size)))
        self._leaving.clear()
        if self._map.free * PAGE_BYTES > self._spare_bytes:
            self._give_back_some()

    def undone(self) -> None:
        """The transaction was not committed: what it wrote is free, what it deleted is used still."""
        for extent in self._taken:
            self._map.release(extent)
        self._taken.clear()
        self._leaving.clear()

    # Room

    @property
    def spare(self) -> int:
        """Bytes that `give_back` could give to the disk."""
        return self._map.returnable() * PAGE_BYTES if self._can_punch else 0

    def give_back(self) -> int:
        """Gives the blocks of all free pages back to the disk, but for runs of less than 64 KiB. Returns the bytes.

        Where the file system cannot, nothing happens; the pages are used again all the same.
        """
        given = 0
        while part := self._give_back_some():
            given += part
        return given

    def _give_back_some(self) -> int:
        given = 0
        for run in self._map.free_runs(GIVE_BACK_RUNS) if self._can_punch else ():
            try:
                punch_hole(self._file(run.segment), run.page * PAGE_BYTES, run.pages * PAGE_BYTES)
            except OSError:
                self._can_punch = False
                break
            self._map.give_back(run)
            given += run.pages * PAGE_BYTES
        while self._map.drop_last():
            self._remove(len(self._map))
        return given

    def _remove(self, segment: int) -> None:
        fd = self._files.pop(segment, -1)
        if fd >= 0:
            os.close(fd)
        try:
            segment_path(self.spool, segment).unlink(missing_ok=True)
        except OSError:
            return  # it takes no room, and the next start's sweep finds it

    def _take(self, pages: int) -> Extent:
        extent = self._map.allocate(pages)
        if extent is None:
            self._grow(pages)
            extent = self._map.allocate(pages)
        if extent is None:
            raise QueueFull(f"{self.spool / 'segments'}: no place for {pages} pages")
        self._taken.append(extent)
        return extent

    def _grow(self, pages: int) -> None:
        """Has blocks reserved for so many pages in a row, and for some more if they are to be had."""
        run = self._map.room(pages)
        if run is None:
            return
        exact = run._replace(pages=pages)
        if not self.tight and self._reserve(run) is None:
            self._map.grow(run)
        elif (error := self._reserve(exact)) is None:
            self._map.grow(exact)
        else:
            raise write_failure(error, str(segment_path(self.spool, run.segment)))

    def _reserve(self, run: Extent) -> OSError | None:
        """Has blocks reserved, or says why not; then none are."""
        place = run.page * PAGE_BYTES, run.pages * PAGE_BYTES
        try:
            os.posix_fallocate(self._file(run.segment), *place)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # without a reservation, writing finds out
                return None
            with suppress(OSError):
                punch_hole(self._file(run.segment), *place)  # those that were there
            return error
        return None

    # Files

    def _file(self, segment: int) -> int:
        """The open file of a segment, which is made where it is missing. Raises OSError."""
        fd = self._files.get(segment, -1)
        if fd < 0:
            if len(self._files) >= OPEN_SEGMENTS:
                os.close(self._files.pop(next(iter(self._files))))
            path, flags = segment_path(self.spool, segment), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                fd = os.open(path, flags)
            except FileNotFoundError:
                fd = os.open(path, flags | os.O_CREAT, 0o600)
                self._new_name = True
            self._files[segment] = fd
        return fd

    def _write_segment(self, segment: int, placed: list[tuple[Extent, bytes]]) -> None:
        """Contents of one segment, in the order of their pages: neighbours with one call, then one sync."""
        try:
            fd = self._file(segment)
            first = at = placed[0][0].page
            buffers: list[bytes] = []
            for extent, content in placed:
                if extent.page != at or len(buffers) >= BUFFERS:
                    _write_all(fd, buffers, first * PAGE_BYTES)
                    first, buffers = extent.page, []
                buffers += (content, _ZEROS[: extent.pages * PAGE_BYTES - len(content)])
                at = extent.page + extent.pages
            _write_all(fd, buffers, first * PAGE_BYTES)
            os.fdatasync(fd)
        except OSError as error:
            raise write_failure(error, str(segment_path(self.spool, segment))) from error

    def _sync_names(self) -> None:
        try:
            sync_folder(self.spool / "segments")
        except OSError as error:
            raise write_failure(error, str(self.spool / "segments")) from error
        self._new_name = False


def _write_all(fd: int, buffers: list[bytes], offset: int) -> None:
    size = sum(map(len, buffers))
    done = os.pwritev(fd, buffers, offset)
    if done < size:  # a signal, or a disk that is nearly full: the next call says which
        rest = memoryview(b"".join(buffers))
        while done < size:
            done += os.pwrite(fd, rest[done:], offset + done)
