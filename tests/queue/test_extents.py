"""The allocator of extents against a set of pages: nothing is given twice, nothing is forgotten."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mailflow.store.extents import (
    GIVE_BACK_PAGES,
    GROW_PAGES,
    PAGE_BYTES,
    SEGMENT_PAGES,
    SEGMENTS,
    Extent,
    ExtentMap,
    pages_for,
)

sizes = st.one_of(st.integers(1, 40), st.integers(200, 300), st.sampled_from([GROW_PAGES, 5000, SEGMENT_PAGES]))


def pages_of(extent: Extent) -> set[tuple[int, int]]:
    return {(extent.segment, extent.page + i) for i in range(extent.pages)}


class ExtentModel(RuleBasedStateMachine):
    """`taken` is what has been allocated; `backed` the pages that have been given blocks."""

    extents = Bundle("extents")

    def __init__(self) -> None:
        super().__init__()
        self.map = ExtentMap()
        self.taken: set[Extent] = set()
        self.backed: set[tuple[int, int]] = set()

    def used(self) -> set[tuple[int, int]]:
        return set().union(*map(pages_of, self.taken))

    @rule(target=extents, pages=sizes)
    def allocate(self, pages: int) -> Extent:
        extent = self.map.allocate(pages)
        if extent is None:
            run = self.map.room(pages)
            assert run is not None
            assert pages <= run.pages <= max(pages, GROW_PAGES)
            assert not pages_of(run) & self.used()
            self.map.grow(run)
            self.backed |= pages_of(run)
            extent = self.map.allocate(pages)
        assert extent is not None
        assert extent.pages == pages
        assert 0 <= extent.page <= SEGMENT_PAGES - pages
        assert not pages_of(extent) & self.used(), "given twice"
        assert pages_of(extent) <= self.backed, "a page without a block"
        self.taken.add(extent)
        return extent

    @rule(extent=consumes(extents))
    def release(self, extent: Extent) -> None:
        self.map.release(extent)
        self.taken.remove(extent)

    @rule(limit=st.integers(1, 3))
    def give_back(self, limit: int) -> None:
        runs = self.map.free_runs(limit)
        assert len(runs) <= limit
        assert runs or self.map.returnable() == 0
        for run in runs:
            assert run.pages >= GIVE_BACK_PAGES
            assert pages_of(run) <= self.backed - self.used()
            self.map.give_back(run)
            self.backed -= pages_of(run)

    @rule()
    def restart(self) -> None:
        self.map = ExtentMap()
        self.map.occupy(self.taken)
        self.backed = self.used()
        for segment in {extent.segment for extent in self.taken}:
            self.map.backed(segment)
            self.backed |= {(segment, page) for page in range(SEGMENT_PAGES)}

    @rule()
    def drop_last(self) -> None:
        while self.map.drop_last():
            assert not any(segment == len(self.map) for segment, _ in self.backed)

    @invariant()
    def counts_agree(self) -> None:
        used = self.used()
        assert self.map.used == len(used)
        assert self.map.free == len(self.backed - used)


TestExtentModel = ExtentModel.TestCase
TestExtentModel.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)


def taken(extents: ExtentMap, pages: int) -> Extent:
    extent = extents.allocate(pages)
    if extent is None:
        extents.grow(extents.room(pages))  # type: ignore[arg-type]
        extent = extents.allocate(pages)
    assert extent
    return extent


def test_pages_that_were_used_are_used_again_before_others() -> None:
    pages = ExtentMap()
    first = [taken(pages, 3) for _ in range(10)]
    assert first == [Extent(0, 3 * i, 3) for i in range(10)], "one behind the other"
    pages.release(first[4])
    pages.release(first[5])
    assert taken(pages, 5) == Extent(0, 12, 5), "neighbours are one again"
    assert taken(pages, 1) == Extent(0, 17, 1)
    assert taken(pages, 1) == Extent(0, 30, 1)


def test_a_segment_that_is_full_is_passed_over_and_the_next_begun() -> None:
    pages = ExtentMap()
    whole = taken(pages, SEGMENT_PAGES)
    assert taken(pages, 300) == Extent(1, 0, 300)
    pages.release(whole)
    assert taken(pages, 300) == Extent(0, 0, 300)


def test_rows_that_cannot_be_do_no_harm() -> None:
    pages = ExtentMap()
    wrong = [Extent(-1, 0, 1), Extent(0, SEGMENT_PAGES, 1), Extent(0, 5, -1), Extent(SEGMENTS, 0, 1), Extent(0, -1, 2)]
    pages.occupy([Extent(0, 0, 4), *wrong])
    assert (len(pages), pages.used) == (1, 4)
    for extent in wrong:
        pages.release(extent)
    assert pages.used == 4


def test_a_row_in_a_segment_that_is_not_there_takes_no_memory_and_frees_nothing_later() -> None:
    pages = ExtentMap()
    wrong = Extent(1, 0, 4)
    assert pages.occupy([Extent(0, 0, SEGMENT_PAGES), Extent(60_000, 0, 1), wrong], segments=1) == 3
    assert len(pages) == 1
    mine = taken(pages, 4)
    assert mine == wrong, "the segment has come to be"
    pages.release(wrong)
    assert taken(pages, 4) != mine


def test_extents_that_overlap_keep_each_other() -> None:
    """A damaged row that points into another's content: when its message is deleted, the other stays whole."""
    pages = ExtentMap()
    pages.occupy([Extent(0, 0, 4), Extent(0, 2, 4), Extent(1, 0, 4)])
    pages.backed(0)
    pages.backed(1)
    pages.release(Extent(0, 0, 4))
    assert taken(pages, 4) == Extent(0, 6, 4)
    pages.release(Extent(1, 0, 4))
    assert pages.used == 6 + 4


@pytest.mark.parametrize(
    ("size", "pages"),
    [(0, 1), (1, 1), (PAGE_BYTES, 1), (PAGE_BYTES + 1, 2), (2**20, 256), (SEGMENT_PAGES * PAGE_BYTES, SEGMENT_PAGES)],
)
def test_pages_for(size: int, pages: int) -> None:
    assert pages_for(size) == pages
