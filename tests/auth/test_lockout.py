"""Locks against guessing, in time that stands still."""

from __future__ import annotations

import ipaddress
import random

from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.auth.lockout import Limits, Lockouts, network_of

A, B = "192.0.2.1", "192.0.2.2"


def fail(locks, times, client=A, login="alice", now=0.0):
    for _ in range(times):
        locks.failed(client, login, now)


def test_each_failure_beyond_the_free_ones_doubles_the_lock():
    locks = Lockouts(Limits(failures=3, first=30, longest=100))
    fail(locks, 2)
    assert locks.client_lock(A, 0) == 0
    for lock in (30, 60, 100, 100):
        fail(locks, 1)
        assert locks.client_lock(A, 0) == lock
    assert locks.client_lock(A, 40) == 60
    assert locks.client_lock(A, 101) == 0
    assert locks.client_lock(B, 0) == 0


def test_an_ipv6_client_is_its_64():
    locks = Lockouts(Limits(failures=1))
    fail(locks, 1, "2001:db8::1")
    assert locks.client_lock("2001:db8::ffff:2", 0) > 0
    assert locks.client_lock("2001:db8:0:1::1", 0) == 0
    fail(locks, 1, "::ffff:192.0.2.1")
    assert locks.client_lock(A, 0) > 0
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("") == ""


def test_all_is_forgotten_after_a_while():
    locks = Lockouts(Limits(failures=2, memory=1000))
    fail(locks, 1)
    fail(locks, 1, now=1001)
    assert locks.client_lock(A, 1001) == 0
    fail(locks, 5, now=1001)
    assert locks.client_lock(A, 2002) == 0


def test_a_right_password_clears_the_same_logins_failures_only():
    locks = Lockouts(Limits(failures=3))
    fail(locks, 2)
    locks.passed(A, "Alice")
    fail(locks, 1)
    assert locks.client_lock(A, 0) == 0
    # Who owns a mailbox could else guess at all others without end.
    fail(locks, 1, login="bob")
    locks.passed(A, "alice")
    fail(locks, 1, login="bob")
    assert locks.client_lock(A, 0) > 0


def test_a_login_is_locked_for_strangers():
    locks = Lockouts(Limits(failures=100, login_failures=3))
    locks.passed(B, "alice")
    for number in range(3):
        fail(locks, 1, f"198.51.100.{number}", "ALICE")
    assert locks.login_lock(A, "alice", 0) > 0
    assert locks.login_lock(B, "Alice", 0) == 0
    assert locks.login_lock(A, "bob", 0) == 0


def test_exempt_clients_never_count():
    locks = Lockouts(Limits(failures=1, login_failures=1, exempt=[ipaddress.ip_network("192.0.2.0/24")]))
    fail(locks, 10)
    assert locks.client_lock(A, 0) == 0
    assert locks.login_lock(B, "alice", 0) == 0


def test_an_attack_from_millions_of_addresses_takes_bounded_memory():
    limits = Limits(failures=1, entries=1000)
    locks = Lockouts(limits)
    dice = random.Random(1)
    for _ in range(200_000):
        locks.failed(str(ipaddress.IPv4Address(dice.getrandbits(32))), f"user{dice.getrandbits(30)}", 0)
        locks.passed(str(ipaddress.IPv4Address(dice.getrandbits(32))), "alice")
    assert repr(locks) == "<Lockouts clients=1000 logins=1000>"
    assert len(locks._known) == 1000


@given(st.text(max_size=60))
def test_no_address_makes_it_raise(client):
    locks = Lockouts(Limits(failures=1, exempt=[ipaddress.ip_network("192.0.2.0/24")]))
    locks.failed(client, client, 0)
    assert (locks.client_lock(client, 0) > 0) == bool(client)
    locks.login_lock(client, client, 0)
    locks.passed(client, client)
