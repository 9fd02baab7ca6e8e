"""Limits of rates: their form, their counting, their memory."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.abuse.rates import Buckets, Excess, RateLimit, parse_rate
from mailflow.ingress.abuse.settings import AbuseSettings, ClientRates

BYTES_PER_ENTRY = 150
"""What an entry may take at most; `AbuseSettings.entries` tells it to the operator."""


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("off", None),
        ("100/1h", RateLimit(100, 3600.0)),
        ("100 / 1h", RateLimit(100, 3600.0)),
        ("1/1h30m drop", RateLimit(1, 5400.0, Excess.DROP)),
        ("20/1m delay", RateLimit(20, 60.0, Excess.DELAY)),
        ("20/1m refuse", RateLimit(20, 60.0, Excess.REFUSE)),
        ("20/1m close", RateLimit(20, 60.0, Excess.CLOSE)),
    ],
)
def test_the_form_of_a_limit(text: str, limit: RateLimit | None) -> None:
    assert parse_rate(text) == limit
    assert limit is None or parse_rate(str(limit)) == limit


@pytest.mark.parametrize(
    "value", ["", "100", "100/", "0/1h", "100/0s", "100/hour", "-1/1h", "1/1h ban", 100, 1.5, True]
)
def test_what_is_no_limit(value: object) -> None:
    with pytest.raises(ValueError, match='accepted: "off", a count per time such as "100/1h"'):
        parse_rate(value)


def test_one_key_of_a_section_leaves_the_others_defaults() -> None:
    settings = AbuseSettings(client={"messages": "10/1m"})
    assert settings.client == ClientRates(messages="10/1m")
    assert settings.client.connections == RateLimit(1000, 60.0)


def test_a_bucket_is_emptied_at_once_and_filled_slowly() -> None:
    buckets = Buckets(RateLimit(100, 3600.0), 10)
    assert [buckets.take(1, 0.0) for _ in range(101)] == [True] * 100 + [False]
    assert buckets.spent(1, 0.0)
    assert buckets.take(2, 0.0)
    assert not buckets.take(1, 35.0)
    assert not buckets.spent(1, 36.5)
    assert buckets.take(1, 36.5)
    assert not buckets.take(1, 36.5)
    assert sum(buckets.take(1, 5000.0) for _ in range(200)) == 100


def test_refused_attempts_are_not_counted() -> None:
    buckets = Buckets(RateLimit(10, 10.0), 10)
    for second in range(100):
        for _ in range(50):
            buckets.charge(1, float(second))
    assert buckets.spent(1, 99.0)
    assert not buckets.spent(1, 100.1)


def test_who_is_stopped_again_and_again_is_not_forgotten_for_the_crowd() -> None:
    buckets = Buckets(RateLimit(1, 3600.0), 100)
    assert buckets.take(-1, 0.0)
    for number in range(10_000):
        buckets.take(number, 1.0)
        if number % 40 == 0:
            assert not buckets.take(-1, 1.0)
        elif number % 40 == 20:
            assert buckets.spent(-1, 1.0)


@given(st.integers(1, 20), st.lists(st.floats(0, 5), max_size=200))
def test_never_more_than_twice_the_count_and_never_less_for_the_patient(count: int, waits: list[float]) -> None:
    limit = RateLimit(count, 10.0)
    buckets, now, passed = Buckets(limit, 10), 0.0, []
    for wait in waits:
        now += wait
        if buckets.take(1, now):
            passed.append(now)
    for start in passed:
        assert sum(start <= t < start + limit.seconds for t in passed) <= 2 * count
    steady = Buckets(limit, 10)
    assert all(steady.take(1, number * 10.0 / count) for number in range(200))


def flood(buckets: Buckets, clients: int) -> None:
    """So many connections of random clients, half of them IPv6, with the keys that `Keys` makes."""
    chance = random.Random(1)
    for number in range(clients):
        key = -1 - chance.getrandbits(64) if number & 1 else chance.getrandbits(32)
        buckets.take(key, number / 1000)


@pytest.mark.wish(75)
def test_two_million_clients_are_no_more_than_those_that_are_remembered() -> None:
    buckets = Buckets(RateLimit(10, 3600.0), 10_000)
    flood(buckets, 2_000_000)
    assert len(buckets) <= 10_000


@pytest.mark.wish(75)
def test_what_a_remembered_client_takes() -> None:
    entries = 40_000
    buckets = Buckets(RateLimit(10, 3600.0), entries)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        flood(buckets, 4 * entries)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert entries * BYTES_PER_ENTRY / 3 < peak < entries * BYTES_PER_ENTRY
