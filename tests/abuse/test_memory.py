"""What is remembered of clients is bounded, and it is the latest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.abuse.memory import Recent


@given(st.lists(st.tuples(st.integers(0, 30), st.integers()), max_size=200), st.integers(2, 20))
def test_it_holds_the_latest_half_and_never_more_than_all(steps: list[tuple[int, int]], entries: int) -> None:
    recent: Recent[int, int] = Recent(entries)
    latest: dict[int, int] = {}
    for key, value in steps:
        recent.put(key, value)
        latest.pop(key, None)
        latest[key] = value
        assert len(recent) <= entries
        for known in list(latest)[-(entries // 2) :]:
            assert recent.get(known) == latest[known]
            assert known in recent
        for known, held in latest.items():
            assert recent.get(known) in (None, held)


def test_what_is_in_use_is_not_forgotten() -> None:
    recent: Recent[int, int] = Recent(10)
    for number in range(1, 1000):
        recent.put(0, recent.get(0) or 7)
        recent.put(number, number)
    assert recent.get(0) == 7
    assert recent.get(1) is None
