"""What one client, or a million, can make the server remember: bounded, and as much as is counted."""

from __future__ import annotations

import itertools
import os
import tracemalloc

import pytest

from mailflow.budget import FRAGMENT, Budget, keep
from mailflow.hooks.collecting import Collected
from mailflow.ingress.abuse.networks import Keys
from mailflow.ingress.abuse.notices import Notices
from mailflow.ingress.abuse.rates import Buckets, RateLimit
from mailflow.ingress.abuse.settings import AbuseSettings
from mailflow.ingress.abuse.stress import Stress
from mailflow.ingress.auth.cache import PasswordCache
from mailflow.ingress.auth.lockout import Limits, Lockouts
from mailflow.ingress.limits import NetworkLimit, SessionCounts
from mailflow.ingress.policy.relay import CACHED_CLIENTS, RelayControl
from mailflow.net.cache import TtlCache
from mailflow.rewrite import CACHED_DOMAINS
from tests.attack.rig import NETWORKS
from tests.ingress.fakes import FakeIntake, resolver
from tests.ingress.test_services import Talk

TORTURE = bool(os.environ.get("MAILFLOW_TORTURE"))


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


CLIENTS = 1_000_000 if TORTURE else 20_000
LITTLE = 2_000
"""Entries that the tables below may hold."""


def addresses():
    """As many clients, of both families."""
    for number in range(CLIENTS // 2):
        yield f"11.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        yield f"2001:db8:{number >> 16:x}:{number & 65535:x}::1"


def flood(kind: str) -> object:
    """A table, after all of these clients have been in it."""
    clock = itertools.count()
    match kind:
        case "lockouts":
            locks = Lockouts(Limits(entries=LITTLE))
            for address in addresses():
                locks.failed(address, f"jo@{address}", next(clock))
                locks.passed(address, f"al@{address}")
            return locks
        case "rates":
            buckets = Buckets(RateLimit(10, 60.0), LITTLE)
            keys = Keys(32, 64)
            for address in addresses():
                key = keys.client(address)
                assert key is not None
                buckets.take(key, float(next(clock)))
            return buckets
        case "stress":
            stress = Stress(AbuseSettings(known_clients=LITTLE), 100)
            for address in addresses():
                stress.learn(address)
            return stress
        case "notices":
            notices = Notices(LITTLE)
            for address in addresses():
                notices.due("x", address, float(next(clock)))
            return notices
        case "relay":
            relay = RelayControl(NETWORKS)
            for address in addresses():
                relay.trusts(address)
            return relay
        case "sessions":
            counts = SessionCounts(10, 10, network=NetworkLimit(10, Keys(24, 48).network))
            for address in addresses():
                assert counts.admit(address)
                counts.release(address)
            return counts
        case "passwords":
            cache = PasswordCache(bytes(32), 60.0, LITTLE)
            for address in addresses():
                cache.put(0, address, address, address, 0, float(next(clock)))
            return cache
        case "routes":
            resolve = resolver()
            for address in addresses():
                resolve.resolve(f"x@{address.replace(':', '-')}.test")
            return resolve
    cache = TtlCache(LITTLE, lambda: 0.0)
    for address in addresses():
        cache.put(address, address, 60.0)
    return cache


@pytest.mark.parametrize(
    "kind", ["lockouts", "rates", "stress", "notices", "relay", "sessions", "passwords", "routes", "names"]
)
def test_a_million_clients_are_not_remembered(kind):
    """Some hundred bytes for each entry that a table may hold; routes and relay have larger bounds of their own."""
    most = {"relay": CACHED_CLIENTS, "routes": CACHED_DOMAINS}.get(kind, 3 * LITTLE)
    assert measured(lambda: flood(kind)) < most * 700


def test_a_full_cache_finds_its_oldest_entry_at_once():
    """With a plain dict each took 15 µs more at 20,000 entries: under a flood of new clients, of all things."""
    cache = TtlCache(100_000, lambda: 0.0)
    for number in range(200_000):
        cache.put(number, number, 1.0)
    assert (len(cache), cache.get(99_999), cache.get(100_000)) == (100_000, None, 100_000)


def test_what_costs_a_client_nothing_is_not_logged_each_time():
    """Too many recipients and a full disk are no errors of a client's: it may ask ten thousand times, in one line."""
    talk = Talk(trusted=False)
    talk.session._desk.recipient_limit = 3
    talk.say("EHLO me.test\nMAIL FROM:<a@me.test>\n" + "RCPT TO:<alice@example.test>\n" * 10_000)
    lines = [level for name, level in talk.log.levels if name == "reject"]
    assert len(lines) == 10_000 - 3
    assert lines.count(20) == 1
    assert lines[0] == 20
    talk.say("RSET\nMAIL FROM:<nobody>\nRCPT TO:<nobody@example.test>\nRSET\nMAIL FROM:<nobody>\n")
    assert [level for name, level in talk.log.levels if name == "reject"][-2:] == [20, 20]


@pytest.mark.parametrize("last", [b"BDAT 0 LAST\r\n", b"RSET\r\n"])
def test_a_hundred_thousand_tiny_chunks_are_refused_early(last):
    talk = Talk(trusted=False)
    talk.say("EHLO me.test\nMAIL FROM:<a@me.test>\nRCPT TO:<alice@example.test>\n")
    talk.core.feed(b"BDAT 1\r\nx" * 100_000 + last)
    said = talk.core.take().decode().splitlines()
    assert next(line for line in said if not line.startswith("250")).startswith("552 5.5.0")
    assert len(said) < 1100  # then come 503, and the end
    assert talk.core.closing
    assert not talk.intake.accepted
