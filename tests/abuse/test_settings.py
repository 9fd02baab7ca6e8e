"""What is wrong in [abuse] though each value by itself is right."""

from __future__ import annotations

import pytest

from mailflow.settings import Settings


@pytest.mark.parametrize(
    ("stress", "reserve", "wrong"), [(80, 20, False), (95, 10, True), (0, 90, False), (100, 0, False)]
)
def test_strangers_are_not_turned_away_before_there_is_stress(stress: int, reserve: int, wrong: bool) -> None:
    settings = Settings(hostname="mx.test.example", abuse={"stress": stress, "stress_reserve": reserve})
    found = [mistake for mistake in settings.mistakes() if mistake.path == ("abuse", "stress_reserve")]
    assert bool(found) is wrong
