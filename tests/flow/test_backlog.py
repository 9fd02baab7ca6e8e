"""The backlog: what is on disk is asked for until it has come, in order of due time, one load at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.backlog import Backlog, LoadRequest
from mailflow.queue import Position
from mailflow.scheduler import Lane

NEW, DEFERRED = Lane.NEW, Lane.DEFERRED


A = LoadRequest("a", NEW, None)


def at(due: float) -> Position:
    """A place in the order."""
    return Position(due, 0, 0)


def test_order_is_by_due_time_and_nothing_before() -> None:
    backlog = Backlog()
    for name, due in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("a", 5.0)):
        backlog.note(name, NEW, due)
    assert backlog.deadline() == 1.0
    assert backlog.take(0.9) is None
    assert [backlog.take(2.5).destination for _ in range(2)] == ["a", "b"]
    assert backlog.take(2.5) is None
    assert backlog.deadline() == 3.0


def test_a_slice_that_was_not_the_last_is_followed_by_the_next() -> None:
    backlog = Backlog()
    backlog.note("a", NEW, 1.0)
    assert backlog.take(1.0) == ("a", NEW, None)
    backlog.loaded(A, after=at(1.0), complete=False, next_due=None, now=1.0)
    assert backlog.take(1.0) == ("a", NEW, at(1.0))
    backlog.loaded(A, after=at(1.0), complete=True, next_due=9.0, now=1.0)
    assert backlog.take(8.9) is None
    assert backlog.take(9.0) == ("a", NEW, None)
    backlog.loaded(A, after=None, complete=True, next_due=None, now=9.0)
    assert len(backlog) == 0


def test_what_is_noted_during_a_load_is_loaded_afterwards() -> None:
    backlog = Backlog()
    backlog.note("a", NEW, 1.0)
    backlog.take(1.0)
    backlog.note("a", NEW, 0.5, overflow=1)
    assert backlog.take(1.0) is None, "one load at a time"
    backlog.loaded(A, after=None, complete=True, next_due=None, now=1.0)
    assert backlog.has_overflow("a")
    assert backlog.take(1.0) == ("a", NEW, None)


def test_a_postponed_load_waits_or_is_woken() -> None:
    backlog = Backlog()
    backlog.note("a", NEW, 1.0)
    backlog.take(1.0)
    backlog.postpone("a", NEW, 1.0, 6.0)
    assert backlog.take(5.9) is None
    backlog.unblock("a", NEW)
    assert backlog.take(1.0) == ("a", NEW, None)


@pytest.mark.wish(18)
def test_a_blocked_lane_waits_as_a_whole_and_the_other_goes_on() -> None:
    backlog = Backlog()
    for name, lane, due in (("a", NEW, 1.0), ("b", NEW, 2.0), ("a", DEFERRED, 3.0)):
        backlog.note(name, lane, due)
    backlog.block_lane(NEW, 9.0)
    assert backlog.blocked("b", NEW)
    assert not backlog.blocked("a", DEFERRED)
    assert backlog.deadline() == 3.0
    assert backlog.take(4.0) == ("a", DEFERRED, None)
    assert backlog.take(4.0) is None
    assert backlog.deadline() == 9.0, "it is looked at again, whatever happens"
    backlog.unblock_lane(NEW)
    assert backlog.take(4.0) == ("a", NEW, None)
    backlog.block_lane(NEW, 9.0)
    assert backlog.take(8.9) is None
    assert backlog.take(9.0) == ("b", NEW, None)


def test_new_mail_goes_behind_new_mail_that_waits_on_disk() -> None:
    backlog = Backlog()
    backlog.note("a", NEW, 1.0, overflow=1)
    assert backlog.has_overflow("a")
    assert not backlog.has_overflow("b")
    backlog.take(1.0)
    backlog.loaded(A, after=at(1.0), complete=False, next_due=None, now=1.0)
    assert backlog.has_overflow("a")


def test_what_is_noted_in_front_of_the_next_slice_is_not_passed_over() -> None:
    backlog = Backlog()
    backlog.note("a", NEW, 1.0)
    backlog.take(5.0)
    backlog.note("a", NEW, 2.0)  # while the slice is read, which does not show it
    backlog.loaded(A, after=at(3.0), complete=False, next_due=None, now=5.0)
    assert backlog.take(5.0) == ("a", NEW, at(3.0))
    backlog.loaded(A, after=at(4.0), complete=False, next_due=None, now=5.0)
    backlog.note("a", NEW, 3.5)  # between two slices
    assert backlog.take(5.0) == ("a", NEW, at(4.0))
    backlog.loaded(A, after=at(5.0), complete=True, next_due=None, now=5.0)
    assert backlog.take(5.0) == ("a", NEW, None)
    backlog.loaded(A, after=at(5.0), complete=True, next_due=None, now=5.0)
    assert len(backlog) == 0


def test_what_is_noted_behind_the_next_slice_needs_no_second_look() -> None:
    backlog = Backlog()
    backlog.note("a", NEW, 1.0)
    backlog.take(5.0)
    backlog.note("a", NEW, 4.0)
    backlog.loaded(A, after=at(3.0), complete=False, next_due=None, now=5.0)
    backlog.take(5.0)
    backlog.loaded(A, after=at(5.0), complete=True, next_due=None, now=5.0)
    assert len(backlog) == 0


@pytest.mark.wish(46)
def test_a_wake_lifts_a_block_and_looks_at_everything_again() -> None:
    backlog = Backlog()
    backlog.note("a", NEW, 1.0)
    backlog.take(1.0)
    backlog.loaded(A, after=at(9.0), complete=False, next_due=None, now=9.0)
    backlog.take(9.0)
    backlog.postpone("a", NEW, 9.0, 500.0)
    backlog.wake("a", 10.0)
    assert backlog.take(10.0) == ("a", NEW, at(9.0))
    assert backlog.take(10.0) == ("a", DEFERRED, None), "whatever became due may be of either kind"
    backlog.loaded(A, after=at(10.0), complete=True, next_due=None, now=10.0)
    assert backlog.take(10.0) == ("a", NEW, None)


@pytest.mark.wish(57)
def test_new_mail_goes_to_memory_again_when_the_last_of_what_waits_is_asked_for() -> None:
    backlog = Backlog()
    backlog.note("a", NEW, 1.0, overflow=150)
    backlog.note("a", NEW, 2.0, overflow=100)
    request = backlog.take(2.0)
    assert request is not None
    backlog.asked(request, 200)
    assert backlog.has_overflow("a"), "fifty are behind this slice"
    backlog.loaded(request, after=at(1.5), complete=False, next_due=None, now=2.0)
    request = backlog.take(2.0)
    assert request is not None
    backlog.asked(request, 200)
    assert not backlog.has_overflow("a"), "they are on their way, and will be put in front"


@pytest.mark.wish(47)
def test_new_and_deferred_mail_of_a_destination_are_asked_for_apart() -> None:
    backlog = Backlog()
    backlog.note("a", DEFERRED, 1.0)
    backlog.note("a", NEW, 2.0)
    assert [backlog.take(2.0).lane for _ in range(2)] == [DEFERRED, NEW]
    backlog.postpone("a", DEFERRED, 2.0, 50.0)
    backlog.loaded(A, after=at(2.0), complete=False, next_due=None, now=2.0)
    assert backlog.take(2.0) == ("a", NEW, at(2.0)), "a mountain of retries blocks no new mail"


OPERATIONS = st.lists(st.tuples(st.sampled_from("ntlpu"), st.sampled_from("abc"), st.integers(0, 20)), max_size=60)


@given(OPERATIONS)
def test_nothing_noted_is_forgotten(operations: list[tuple[str, str, int]]) -> None:
    """Against the plainest model: destination -> set of due times on disk. After all loads nothing is left over."""
    backlog, disk, loading, now = Backlog(), {}, set(), 0.0
    for kind, name, number in operations:
        now = max(now, float(number)) if kind == "t" else now
        if kind == "n":
            backlog.note(name, NEW, float(number))
            disk.setdefault(name, set()).add(float(number))
        elif kind == "t" and (request := backlog.take(now)):
            assert request.destination not in loading
            loading.add(request.destination)
        elif kind in "lp" and name in loading:
            loading.discard(name)
            if kind == "p":
                backlog.postpone(name, NEW, now, now + number)
                continue
            due = {d for d in disk[name] if d <= now}
            disk[name] -= due
            backlog.loaded(
                LoadRequest(name, NEW, None), after=None, complete=True, next_due=min(disk[name], default=None), now=now
            )
        elif kind == "u":
            backlog.unblock(name, NEW)
    for name in loading:
        backlog.postpone(name, NEW, now, now)
    for _ in range(1000):
        at = backlog.deadline()
        if at is None:
            break
        request = backlog.take(max(at, now))
        assert request is not None
        disk[request.destination] = {d for d in disk[request.destination] if d > max(at, now)}
        rest = min(disk[request.destination], default=None)
        backlog.loaded(request, after=None, complete=True, next_due=rest, now=max(at, now))
    assert not any(disk.values())
    assert len(backlog) == 0
