"""The backlog: what is on disk is asked for until it has come, in order of due time, one load at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.backlog import Backlog
from mailflow.queue import Position


def at(due: float) -> Position:
    """A place in the order."""
    return Position(due, 0, 0)


def test_order_is_by_due_time_and_nothing_before() -> None:
    backlog = Backlog()
    for name, due in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("a", 5.0)):
        backlog.note(name, due)
    assert backlog.deadline() == 1.0
    assert backlog.take(0.9) is None
    assert [backlog.take(2.5).destination for _ in range(2)] == ["a", "b"]
    assert backlog.take(2.5) is None
    assert backlog.deadline() == 3.0


def test_a_slice_that_was_not_the_last_is_followed_by_the_next() -> None:
    backlog = Backlog()
    backlog.note("a", 1.0)
    assert backlog.take(1.0) == ("a", None)
    backlog.loaded("a", after=at(1.0), complete=False, next_due=None, now=1.0)
    assert backlog.take(1.0) == ("a", at(1.0))
    backlog.loaded("a", after=at(1.0), complete=True, next_due=9.0, now=1.0)
    assert backlog.take(8.9) is None
    assert backlog.take(9.0) == ("a", None)
    backlog.loaded("a", after=None, complete=True, next_due=None, now=9.0)
    assert len(backlog) == 0


def test_what_is_noted_during_a_load_is_loaded_afterwards() -> None:
    backlog = Backlog()
    backlog.note("a", 1.0)
    backlog.take(1.0)
    backlog.note("a", 0.5, fresh=True)
    assert backlog.take(1.0) is None, "one load at a time"
    backlog.loaded("a", after=None, complete=True, next_due=None, now=1.0)
    assert backlog.has_fresh("a")
    assert backlog.take(1.0) == ("a", None)


def test_a_postponed_load_waits_or_is_woken() -> None:
    backlog = Backlog()
    backlog.note("a", 1.0)
    backlog.take(1.0)
    backlog.postpone("a", 1.0, 6.0)
    assert backlog.take(5.9) is None
    backlog.unblock("a")
    assert backlog.take(1.0) == ("a", None)


@pytest.mark.wish(18)
def test_new_mail_goes_behind_new_mail_that_waits_on_disk() -> None:
    backlog = Backlog()
    backlog.note("a", 1.0, fresh=True)
    assert backlog.has_fresh("a")
    assert not backlog.has_fresh("b")
    backlog.take(1.0)
    backlog.loaded("a", after=at(1.0), complete=False, next_due=None, now=1.0)
    assert backlog.has_fresh("a")


def test_what_is_noted_in_front_of_the_next_slice_is_not_passed_over() -> None:
    backlog = Backlog()
    backlog.note("a", 1.0)
    backlog.take(5.0)
    backlog.note("a", 2.0)  # while the slice is read, which does not show it
    backlog.loaded("a", after=at(3.0), complete=False, next_due=None, now=5.0)
    assert backlog.take(5.0) == ("a", at(3.0))
    backlog.loaded("a", after=at(4.0), complete=False, next_due=None, now=5.0)
    backlog.note("a", 3.5)  # between two slices
    assert backlog.take(5.0) == ("a", at(4.0))
    backlog.loaded("a", after=at(5.0), complete=True, next_due=None, now=5.0)
    assert backlog.take(5.0) == ("a", None)
    backlog.loaded("a", after=at(5.0), complete=True, next_due=None, now=5.0)
    assert len(backlog) == 0


def test_what_is_noted_behind_the_next_slice_needs_no_second_look() -> None:
    backlog = Backlog()
    backlog.note("a", 1.0)
    backlog.take(5.0)
    backlog.note("a", 4.0)
    backlog.loaded("a", after=at(3.0), complete=False, next_due=None, now=5.0)
    backlog.take(5.0)
    backlog.loaded("a", after=at(5.0), complete=True, next_due=None, now=5.0)
    assert len(backlog) == 0


@pytest.mark.wish(46)
def test_a_wake_lifts_a_block_and_looks_at_everything_again() -> None:
    backlog = Backlog()
    backlog.note("a", 1.0)
    backlog.take(1.0)
    backlog.loaded("a", after=at(9.0), complete=False, next_due=None, now=9.0)
    backlog.take(9.0)
    backlog.postpone("a", 9.0, 500.0)
    backlog.wake("a", 10.0)
    assert backlog.take(10.0) == ("a", at(9.0))
    backlog.loaded("a", after=at(10.0), complete=True, next_due=None, now=10.0)
    assert backlog.take(10.0) == ("a", None)


OPERATIONS = st.lists(st.tuples(st.sampled_from("ntlpu"), st.sampled_from("abc"), st.integers(0, 20)), max_size=60)


@given(OPERATIONS)
def test_nothing_noted_is_forgotten(operations: list[tuple[str, str, int]]) -> None:
    """Against the plainest model: destination -> set of due times on disk. After all loads nothing is left over."""
    backlog, disk, loading, now = Backlog(), {}, set(), 0.0
    for kind, name, number in operations:
        now = max(now, float(number)) if kind == "t" else now
        if kind == "n":
            backlog.note(name, float(number))
            disk.setdefault(name, set()).add(float(number))
        elif kind == "t" and (request := backlog.take(now)):
            assert request.destination not in loading
            loading.add(request.destination)
        elif kind in "lp" and name in loading:
            loading.discard(name)
            if kind == "p":
                backlog.postpone(name, now, now + number)
                continue
            due = {d for d in disk[name] if d <= now}
            disk[name] -= due
            backlog.loaded(name, after=None, complete=True, next_due=min(disk[name], default=None), now=now)
        elif kind == "u":
            backlog.unblock(name)
    for name in loading:
        backlog.postpone(name, now, now)
    for _ in range(1000):
        at = backlog.deadline()
        if at is None:
            break
        request = backlog.take(max(at, now))
        assert request is not None
        disk[request.destination] = {d for d in disk[request.destination] if d > max(at, now)}
        rest = min(disk[request.destination], default=None)
        backlog.loaded(request.destination, after=None, complete=True, next_due=rest, now=max(at, now))
    assert not any(disk.values())
    assert len(backlog) == 0
