"""What one client, or a million, can make the server remember: bounded, and as much as is counted."""

from __future__ import annotations

import tracemalloc

from mailflow.budget import FRAGMENT, Budget, keep
from mailflow.hooks.collecting import Collected
from tests.ingress.fakes import FakeIntake


def measured(work) -> int:
    """Bytes that are still there when the work is done, and what it gave with them."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = work()
        assert kept is not None
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_a_message_that_comes_two_bytes_at_a_time_takes_no_more_memory_than_it_has_bytes():
    def collect():
        collected = Collected(FakeIntake(), Budget(10**9), None)
        for number in range(100_000):
            collected.write(b"%02d" % (number % 100))
        return collected

    assert measured(collect) < 2 * 200_000


def test_pieces_are_kept_in_order_and_the_first_is_never_changed():
    pieces: list[bytes | bytearray] = []
    given = [b"ab", b"c", b"d" * FRAGMENT, b"", b"e", b"f" * (FRAGMENT - 1), b"g" * 5000, b"h"]
    for piece in given:
        keep(pieces, piece)
    assert b"".join(pieces) == b"".join(given)
    assert pieces[0] is given[0]
    assert [len(piece) for piece in pieces] == [2, 1, FRAGMENT, FRAGMENT, 5000, 1]
