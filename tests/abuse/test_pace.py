"""Who sends too slowly, in supplied time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from mailflow.ingress.abuse.pace import Pace, Paces, Unfinished
from mailflow.ingress.abuse.settings import AbuseSettings


class FakeConnection:
    def __init__(self) -> None:
        self.pace: Pace | None = None
        self.unfinished: Unfinished = None
        self.favoured = False


def caught(sending: Callable[[int], Unfinished], **settings: Any) -> tuple[int, str] | None:
    """After how many seconds, and for what, the client is caught that is seen to be sending so at each second."""
    hurry, favoured = settings.pop("hurry", math.inf), settings.pop("favoured", False)
    paces = Paces(AbuseSettings(**{"data_window": "1m"} | settings))
    connection = FakeConnection()
    connection.favoured = favoured
    for second in range(0, 20_000, int(paces.interval)):
        connection.unfinished = sending(second)
        for _, why in paces.late([connection], float(second), hurry):
            return second, why
    return None


def test_a_look_is_often_enough() -> None:
    assert Paces(AbuseSettings()).interval == 15.0
    assert Paces(AbuseSettings(data_window="4s")).interval == 1.0


@pytest.mark.parametrize(
    ("sending", "fate"),
    [
        (lambda _: None, None),
        (lambda second: b"MAIL FROM:<"[: second // 30], (315, "a command line takes too long")),
        (lambda _: b"", (315, "a command line takes too long")),  # the rest of a line that is too long
        (lambda second: b"abc" if second % 60 else None, None),
        (lambda second: b"abc" if second % 30 else b"xyz", None),  # two lines
        (lambda second: second * 99, (60, "a message comes too slowly")),
        (lambda _: 0, (60, "a message comes too slowly")),
        (lambda second: second * 101, (7215, "a message takes too long")),
        (lambda second: second % 600 * 101, None),  # one message after the other
        (lambda second: second * 101 if second % 3600 else None, None),  # held by us now and then
        (lambda second: min(second, 200) * 10_000, (240, "a message comes too slowly")),
        (lambda second: second - 10**9, (60, "a message comes too slowly")),  # a refused chunk that is swallowed
    ],
)
def test_limits(sending: Callable[[int], Unfinished], fate: tuple[int, str] | None) -> None:
    found = caught(sending)
    if fate is None:
        assert found is None
    else:
        assert found is not None
        assert found[1] == fate[1]
        assert fate[0] <= found[0] <= fate[0] + 60


def test_no_minimum() -> None:
    assert caught(lambda second: second, data_rate=0) == (7215, "a message takes too long")


def test_one_that_waits_for_us_has_no_pace() -> None:
    paces, connection = Paces(AbuseSettings()), FakeConnection()
    connection.unfinished = 5
    assert paces.late([connection], 0.0) == []
    assert connection.pace is not None
    connection.unfinished = None
    assert paces.late([connection], 15.0) == []
    assert connection.pace is None


@pytest.mark.parametrize("sending", [lambda second: b"x" * second, lambda second: second])
def test_under_stress_there_is_less_time_but_not_for_all(sending: Callable[[int], Unfinished]) -> None:
    found = caught(sending, hurry=30.0, data_window="5m")
    assert found is not None
    assert 30 <= found[0] <= 60
    kept = caught(sending, hurry=30.0, data_window="5m", favoured=True)
    assert kept is not None
    assert kept[0] >= 300
