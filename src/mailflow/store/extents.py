"""Which pages of the segment files are used: the allocator of extents. Pure: no files, no database, no clock.

A segment is an address space of SEGMENT_PAGES pages. Every page is USED, FREE (has its block on the disk) or a HOLE (has
none, or need not keep it). One byte a page, so that searching is `bytearray.find` and neighbouring free extents are
one again by themselves. That is 16 KiB of memory for 64 MiB of content, whatever the number of messages in it: 3 MiB for a
million messages of 10 KB. A tree of free extents would be smaller when nothing is fragmented, but has no such bound.

First fit from the lowest page: an almost empty queue writes the same few pages again and again, which the page cache
holds and whose blocks are there, and the high segments run empty and can be given back. FREE comes before HOLE.

`_free` and `_open` bound the longest run of each segment (FREE pages; FREE or HOLE), one byte a segment, so that full
segments cost a search nothing. They are never too low, except by a search that has just failed.

What this module does not do: reading, writing, or knowing which message has an extent (that is the table `extent`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

PAGE_BYTES = 4096
"""The block of nearly every file system and the page of the page cache: whole pages are written, none is read first."""
SEGMENT_PAGES = 16_384
SEGMENT_BYTES = SEGMENT_PAGES * PAGE_BYTES
"""64 MiB; also the largest extent."""
SEGMENTS = 65_536
"""At most so many (4 TiB)."""
GROW_PAGES = 256
"""1 MiB: so much is given blocks at a time."""
GIVE_BACK_PAGES = 16
"""64 KiB: a shorter run of free pages keeps its blocks; the disk's own bookkeeping would cost as much."""

FREE, USED, HOLE = b"\0", b"\1", b"\2"
_OPEN = bytes.maketrans(HOLE, FREE)
_GIVE_BACK = FREE * GIVE_BACK_PAGES
_FREE_RUN = re.compile(rb"\0+")
_UNKNOWN = 255
"""A bound: the longest run may have this many pages or more."""


class Extent(NamedTuple):
    """Consecutive pages of one segment."""

    segment: int
    page: int
    pages: int


def pages_for(size: int) -> int:
    """Pages that a content of `size` bytes takes; an empty one takes a page too, so that it has a place."""
    return -(-size // PAGE_BYTES) or 1


class ExtentMap:
    """The pages of all segments, numbered from 0."""

    def __init__(self) -> None:
        self.used = 0
        """Pages."""
        self.free = 0
        """Pages that have blocks and no content."""
        self.shared: set[int] = set()
        """Segments with extents that overlap, which only a damaged database has."""
        self._maps: list[bytearray] = []
        self._free = bytearray()
        self._open = bytearray()

    def __repr__(self) -> str:
        return f"<ExtentMap segments={len(self._maps)} used={self.used} free={self.free}>"

    def __len__(self) -> int:
        """How many segments there are."""
        return len(self._maps)

    def allocate(self, pages: int) -> Extent | None:
        """An extent of FREE pages, which are USED then; None when `grow` has to make some first."""
        for segment in _candidates(self._free, pages):
            page = self._maps[segment].find(bytes(pages))
            if page >= 0:
                self._maps[segment][page : page + pages] = USED * pages
                self.used += pages
                self.free -= pages
                return Extent(segment, page, pages)
            self._free[segment] = min(pages - 1, _UNKNOWN)
        return None

    def room(self, pages: int) -> Extent | None:
        """Where `pages` pages could be, some of them HOLEs, and up to GROW_PAGES where more follow; a segment that is
        not there yet may be named. None: SEGMENTS is reached. The caller gives them blocks, then calls `grow`."""
        for segment in _candidates(self._open, pages):
            pattern = self._maps[segment].translate(_OPEN)
            page = pattern.find(bytes(pages))
            if page >= 0:
                last = min(page + max(pages, GROW_PAGES), SEGMENT_PAGES)
                end = pattern.find(USED, page, last)
                return Extent(segment, page, (last if end < 0 else end) - page)
            self._open[segment] = min(pages - 1, _UNKNOWN)
        return Extent(len(self._maps), 0, max(pages, GROW_PAGES)) if len(self._maps) < SEGMENTS else None

    def grow(self, run: Extent) -> None:
        """Every page of `run`, which `room` gave, has a block now: HOLEs become FREE."""
        self._reach(run.segment)
        pages = self._maps[run.segment]
        self.free += pages.count(HOLE, run.page, run.page + run.pages)
        pages[run.page : run.page + run.pages] = FREE * run.pages
        self._free[run.segment] = _UNKNOWN

    def release(self, extent: Extent) -> None:
        """USED pages become FREE."""
        segment, page, pages = extent
        if not 0 <= segment < len(self._maps) or not 0 <= page < page + pages <= SEGMENT_PAGES:
            return  # as in `occupy`
        if segment in self.shared:
            return
        self._maps[segment][page : page + pages] = FREE * pages
        self.used -= pages
        self.free += pages
        self._free[segment] = self._open[segment] = _UNKNOWN

    def occupy(self, extents: Iterable[tuple[int, int, int]], segments: int = SEGMENTS) -> int:
        """At start: these extents are in use, all other pages of their segments are HOLEs. Returns how many they are.

        `segments`: how many there can be, by the files that are there; else one bad number would cost 1 GiB of memory.

        In a damaged database an extent may be impossible: it is passed over, for nothing is ever written there. Or it
        may overlap another: then nothing of that segment is released before the next start, lest the other is lost too.
        """
        count, maps = 0, self._maps
        for segment, page, pages in extents:  # a million times, perhaps: so nothing is called that need not be
            count, end = count + 1, page + pages
            if not (0 <= segment < SEGMENTS and 0 <= page < end <= SEGMENT_PAGES):
                continue
            if segment >= len(maps):
                if segment >= segments:
                    self.shared.add(segment)  # it may come to be, and then the extent is another's
                    continue
                self._reach(segment)
            if maps[segment].find(USED, page, end) >= 0:
                self.shared.add(segment)
            maps[segment][page:end] = USED * pages
        self.used = sum(pages.count(USED) for pages in maps)
        return count

    def reserve(self, segments: int) -> None:
        """At start: of the first `segments`, what no extent has is not to be used, and so is USED."""
        if segments:
            self._reach(segments - 1)
        for segment in range(segments):
            pages = self._maps[segment]
            self.used += pages.count(HOLE)
            self._maps[segment] = bytearray(pages.replace(HOLE, USED))

    def backed(self, segment: int) -> None:
        """At start: the HOLEs of this segment have blocks, as far as can be told, and so are FREE."""
        pages = self._maps[segment]
        self.free += pages.count(HOLE)
        self._maps[segment] = bytearray(pages.translate(_OPEN))
        self._free[segment] = _UNKNOWN

    def used_in(self, segment: int) -> int:
        """USED pages of a segment."""
        return self._maps[segment].count(USED)

    def free_runs(self, limit: int) -> list[Extent]:
        """Some runs of FREE pages that are long enough to be given back, all of one segment; none when there are none.

        The last segment that has any comes first, for the first segments are the first to be used again.
        """
        for segment in range(len(self._maps) - 1, -1, -1):
            if self._free[segment] >= GIVE_BACK_PAGES:
                runs = list(islice(self._runs(segment), limit))
                if runs:
                    return runs
                self._free[segment] = GIVE_BACK_PAGES - 1
        return []

    def _runs(self, segment: int) -> Iterator[Extent]:
        pages, page = self._maps[segment], 0
        while (page := pages.find(_GIVE_BACK, page)) >= 0:
            run = _FREE_RUN.match(pages, page)
            yield Extent(segment, page, (end := run.end() if run else page) - page)
            page = end

    def returnable(self) -> int:
        """FREE pages in runs that are long enough to be given back; less than that by the runs' last few pages."""
        return sum(self._maps[s].count(_GIVE_BACK) for s in _candidates(self._free, GIVE_BACK_PAGES)) * GIVE_BACK_PAGES

    def give_back(self, run: Extent) -> None:
        """The blocks of these FREE pages have gone: they are HOLEs."""
        self._maps[run.segment][run.page : run.page + run.pages] = HOLE * run.pages
        self.free -= run.pages

    def drop_last(self) -> bool:
        """Forgets the last segment if all of it is HOLEs."""
        if not self._maps or self._maps[-1].count(HOLE) < SEGMENT_PAGES:
            return False
        del self._maps[-1], self._free[-1], self._open[-1]
        return True

    def _reach(self, segment: int) -> None:
        while len(self._maps) <= segment:
            self._maps.append(bytearray(HOLE * SEGMENT_PAGES))
            self._free.append(0)
            self._open.append(_UNKNOWN)


def _candidates(bounds: bytearray, pages: int) -> Iterator[int]:
    """The segments that may have a run of `pages`, lowest first."""
    return (match.start() for match in _at_least(min(pages, _UNKNOWN)).finditer(bounds))


@lru_cache(maxsize=256)
def _at_least(bound: int) -> re.Pattern[bytes]:
    return re.compile(rb"[\x%02x-\xff]" % bound, re.DOTALL)
