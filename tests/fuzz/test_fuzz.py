"""The short form of `make fuzz`: some hundred inputs for each target, always the same."""

from __future__ import annotations

import pytest

from tests.fuzz.plain import Fuzzer
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.interpreted("lines are counted")
def test_nothing_is_found_in_a_few_inputs(name: str) -> None:
    target, seeds = TARGETS[name]
    fuzzer = Fuzzer(target, seeds(), 1)
    begun = len(fuzzer.seen)
    fuzzer.go(runs=200)
    assert fuzzer.runs >= 200
    assert begun > 10


def test_what_breaks_is_told_with_its_input() -> None:
    def target(data: bytes) -> None:
        assert b"!" not in data

    fuzzer = Fuzzer(target, [b"x"], 1)
    with pytest.raises(AssertionError) as caught:
        fuzzer.run(b"a!b")
    assert caught.value.__notes__ == ["input: b'a!b'"]
