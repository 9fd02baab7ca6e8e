"""Who is let in, and with which limits, when nearly all sessions are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.abuse.settings import AbuseSettings
from mailflow.ingress.abuse.stress import Stress
from mailflow.ingress.limits import NetworkLimit, SessionCounts
from tests.abuse.fakes import FakeSession, abuse
from tests.ingress.fakes import FakeLog


def crowd(sessions: int, **settings: object) -> tuple[Stress, SessionCounts, list[tuple[bool, int]]]:
    told: list[tuple[bool, int]] = []
    stress = Stress(
        AbuseSettings(**settings),  # type: ignore[arg-type]
        sessions,
        lambda address: address.startswith("10."),
        lambda on, number: told.append((on, number)),
    )
    return stress, SessionCounts(sessions, 1000, lambda address: address.startswith("10."), stress=stress), told


@pytest.mark.wish(75)
def test_the_last_sessions_are_for_known_clients() -> None:
    stress, counts, told = crowd(100)
    stress.learn("198.51.100.7")
    assert [counts.admit(f"192.0.{i}.1") for i in range(95)] == [True] * 90 + [False] * 5
    assert counts.admit("198.51.100.7")
    assert counts.admit("10.0.0.1")
    assert counts.admit("")  # a balancer, or a UNIX socket
    assert [counts.admit("198.51.100.7") for _ in range(10)] == [True] * 7 + [False] * 3
    assert counts.total == 100
    assert told == [(True, 80)]


def test_it_begins_and_ends_once() -> None:
    stress, counts, told = crowd(10)
    for _ in range(8):
        counts.admit("10.0.0.1")
    assert stress.on
    counts.release("10.0.0.1")
    assert not stress.on
    assert told == [(True, 8), (False, 7)]
    stress, counts, told = crowd(1000)
    for _ in range(800):
        counts.admit("10.0.0.1")
    for _ in range(50):
        counts.release("10.0.0.1")
        counts.admit("10.0.0.1")
    for _ in range(79):
        counts.release("10.0.0.1")
    assert stress.on
    counts.release("10.0.0.1")
    assert not stress.on
    assert told == [(True, 800), (False, 720)]
    assert stress.began == 1


def test_it_can_be_turned_off() -> None:
    stress, counts, told = crowd(10, stress=0)
    assert [counts.admit("192.0.2.1") for _ in range(11)] == [True] * 10 + [False]
    assert not stress.on
    assert told == []


def test_known_clients_are_bounded() -> None:
    stress, _, _ = crowd(10, known_clients=100)
    for number in range(100_000):
        stress.learn(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(stress._known) <= 100
    assert stress.knows("10.1.134.159")
    assert not stress.knows("10.0.0.1")
    stress.learn("")
    assert not stress.knows("")


def test_strangers_may_make_fewer_errors() -> None:
    parts = abuse(sessions=10)
    conduct, stress = parts.conduct, parts.conduct.stress
    assert conduct.tolerates(FakeSession(), 20) == 20
    stress.follow(8)
    assert conduct.tolerates(FakeSession(), 20) == 2
    assert conduct.tolerates(FakeSession(), 5) == 1
    assert conduct.tolerates(FakeSession(trusted=True), 20) == 20
    good = FakeSession("198.51.100.7")
    good.messages = 1
    conduct.closed(good)
    conduct.closed(FakeSession("198.51.100.8"))
    assert conduct.tolerates(FakeSession("198.51.100.7"), 20) == 20
    assert conduct.tolerates(FakeSession("198.51.100.8"), 20) == 2
    stress.follow(7)
    assert conduct.tolerates(FakeSession(), 20) == 20


def test_it_is_logged_once_when_it_begins_and_ends() -> None:
    log = FakeLog()
    stress = abuse(log=log, sessions=10).conduct.stress
    for number in (7, 8, 9, 8, 7, 6):
        stress.follow(number)
    assert log.named("stress") == [
        {"state": "begins", "sessions": 8, "limit": 10},
        {"state": "ends", "sessions": 7, "limit": 10},
    ]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["10.0.0.1", "192.0.2.1", "192.0.2.2", "192.0.3.1", ""]))))
def test_counts_never_pass_their_limits_and_come_back_to_nothing(steps: list[tuple[bool, str]]) -> None:
    conduct = abuse().conduct
    stress, _, _ = crowd(10)
    counts = SessionCounts(
        10,
        3,
        lambda address: address.startswith("10."),
        network=NetworkLimit(4, conduct.network),
        stress=stress,
    )
    held: list[str] = []
    for admit, address in steps:
        if admit and counts.admit(address):
            held.append(address)
        elif not admit and address in held:
            held.remove(address)
            counts.release(address)
        assert counts.total == len(held) <= 10
        assert sum(a.startswith("192.0.2.") for a in held) <= 4
        assert max(held.count("192.0.2.1"), held.count("192.0.3.1")) <= 3
    for address in held:
        counts.release(address)
    assert (counts.total, counts._by_client, counts._by_network) == (0, {}, {})
    assert not stress.on
