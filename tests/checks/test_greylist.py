"""Greylisting as a decision, in virtual time, and over restarts."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.checks import greylist_store
from mailflow.ingress.checks.greylist import Entry, Rules, fold, network_of, triplet_key, wait
from mailflow.ingress.checks.greylist_store import GreylistStore
from mailflow.ingress.checks.greylisting import Greylisting
from mailflow.ingress.checks.settings import GreylistSettings
from tests.checks.fakes import Clock, FakeSituation, answer, in_loop

RULES = Rules(delay=300, retry_window=7200, lifetime=86400, auto_allow=0)
T = 1_800_000_000


# The decision


def test_the_life_of_a_triplet():
    entry, left = wait(None, T, RULES)
    assert (entry, left) == (Entry(T, T, 0), 300)
    assert wait(entry, T + 299, RULES) == (entry, 1)
    entry, left = wait(entry, T + 300, RULES)
    assert (entry, left) == (Entry(T, T + 300, 1), 0)
    assert wait(entry, T + 86000, RULES) == (Entry(T, T + 86000, 1), 0)
    assert wait(entry, T + 300 + 86400, RULES)[1] == 300  # forgotten


def test_who_comes_too_late_comes_for_the_first_time():
    assert wait(Entry(T, T, 0), T + 7200, RULES) == (Entry(T + 7200, T + 7200, 0), 300)


def test_a_clock_that_was_set_back_keeps_nobody_out():
    assert wait(Entry(T + 10**6, T + 10**6, 0), T, RULES) == (Entry(T, T, 0), 300)


@given(st.lists(st.integers(0, 20_000), max_size=30), st.integers(1, 1000), st.integers(1001, 5000))
def test_whoever_comes_again_in_time_passes(gaps, delay, window):
    rules = Rules(delay, window, 10_000, 0)
    now, entry = T, None
    for gap in gaps:
        now += gap
        before, (entry, left) = entry, wait(entry, now, rules)
        assert 0 <= left <= delay
        if before is not None and delay <= now - before.first < window:
            assert left == 0
        if left == 0:
            assert before is not None
            assert now - before.first >= delay


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bounce-1234-joe@list.example", "bounce-987-joe@list.example"),
        ("bounce-a3f09c@list.example", "bounce-77be01@list.example"),
        ("joe+news@x.example", "Joe+other@X.example"),
        ("SRS0=HHH=TT=orig.example=user@fwd.example", "srs0=GGG=UU=else.example=joe@fwd.example"),
        ("prvs=0123abcdef=joe@x.example", "prvs=ffff000000=joe@x.example"),
    ],
)
def test_senders_that_are_one(one, other):
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("joe@x.example", "jim@x.example"), ("joe@x.example", "joe@y.example"), ("joe@a1.example", "joe@a2.example")],
)
def test_senders_that_are_two(one, other):
    assert fold(one) != fold(other)


@given(st.text())
def test_any_sender_can_be_folded(sender):
    fold(sender)


def test_the_null_sender_stays():
    assert fold("") == ""


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.99", "192.0.2.0"),
        ("::ffff:192.0.2.99", "192.0.2.0"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::"),
        ("unix", "unix"),
    ],
)
def test_networks(address, network):
    assert network_of(address, 24, 64) == network


@given(st.text(), st.text(), st.text())
def test_keys_are_small(a, b, c):
    assert len(triplet_key(a, b, c)) == 16


# The check


class Grey:
    """A check, the file behind it, and the clock of both."""

    def __init__(self, path: Path, clock: Clock, **settings) -> None:
        self.clock, self.warnings = clock, []
        self.settings = GreylistSettings(use="always", **settings)
        self.store = GreylistStore(path, self.settings.entries, clock, self.warnings.append)
        self.check = Greylisting(self.settings, self.store, clock)

    async def ask(self, *about, **more) -> str:
        verdict = await answer(self.check.ask(FakeSituation(*about, **more)))
        return "" if verdict is None else verdict.reply.text

    def asked_at_once(self, *about, **more) -> bool:
        """Asks; whether no waiting was necessary."""
        found = self.check.ask(FakeSituation(*about, **more))
        if asyncio.iscoroutine(found):
            found.close()
            return False
        return True


@asynccontextmanager
async def grey(path: Path, clock: Clock | None = None, **settings):
    it = Grey(path, clock or Clock(), **settings)
    try:
        yield it
    finally:
        await it.store.close()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "spool" / "greylist.db"


@in_loop
async def test_the_first_attempt_waits_and_the_second_passes(path):
    async with grey(path, delay="5m") as it:
        assert await it.ask() == "450 4.7.1 Greylisted, try again in 300 seconds"
        it.clock.time += 100
        assert await it.ask() == "450 4.7.1 Greylisted, try again in 200 seconds"
        it.clock.time += 200
        assert await it.ask("192.0.2.7") == ""  # another address of the same network
        assert await it.ask() == ""
        assert await it.ask(recipient="bob@example.test")
        assert await it.ask(sender="else@sender.example")
        assert await it.ask("192.0.3.99")


@in_loop
async def test_an_ipv6_network_is_one_client(path):
    async with grey(path) as it:
        assert await it.ask("2001:db8:1:2::1")
        it.clock.time += 300
        assert await it.ask("2001:db8:1:2:ffff::9") == ""
        assert await it.ask("2001:db8:1:3::1")


@in_loop
async def test_what_has_passed_is_known_after_a_restart(path):
    clock = Clock()
    async with grey(path, clock) as it:
        await it.ask()
        await it.ask(sender="other@sender.example")
        clock.time += 300
        assert await it.ask() == ""
    async with grey(path, clock) as it:
        assert await it.ask() == ""
        assert await it.ask(sender="other@sender.example") == ""  # had waited before
        clock.time += 36 * 86400
        assert await it.ask()


@in_loop
async def test_a_network_that_has_shown_itself_passes_at_once_also_after_a_restart(path):
    clock = Clock()
    async with grey(path, clock, auto_allow=3) as it:
        for n in "abc":
            assert await it.ask(recipient=f"{n}@example.test")
        clock.time += 300
        for n in "abc":
            assert await it.ask(recipient=f"{n}@example.test") == ""
            assert await it.ask(recipient=f"{n}@example.test") == ""  # counts once
            assert bool(await it.ask(recipient=f"new-{n}@example.test")) == (n != "c")
        assert await it.ask("192.0.3.1")
    async with grey(path, clock, auto_allow=3) as it:
        assert await it.ask(recipient="yet-another@example.test") == ""
        assert it.asked_at_once(recipient="and-one-more@example.test")
        clock.time += 36 * 86400
        assert await it.ask(recipient="yet-another@example.test")


@in_loop
async def test_only_what_is_unknown_waits_for_the_disk(path):
    async with grey(path) as it:
        assert not it.asked_at_once()
        await it.ask()
        assert it.asked_at_once()
        assert it.asked_at_once(trusted=True, sender="unknown@sender.example")


@in_loop
async def test_the_exempt_pass(path):
    async with grey(path, exempt=["198.51.100.0/24"]) as it:
        assert await it.ask(trusted=True) == ""
        assert await it.ask("198.51.100.7") == ""
        assert await it.ask("198.51.101.7")


@pytest.mark.parametrize("waits", [False, True])
@in_loop
async def test_who_is_spoken_for_passes_and_is_asked_about_only_when_refused(path, waits):
    asked = []

    async def later(found):
        await asyncio.sleep(0)
        return found

    def spared(situation):
        asked.append(situation.peer.address)
        found = situation.peer.address == "192.0.2.99"
        return later(found) if waits else found

    async with grey(path) as it:
        it.check = Greylisting(it.settings, it.store, it.clock, spared=spared)
        assert await it.ask() == ""
        assert await it.ask("192.0.3.1")
        it.clock.time += 300
        assert await it.ask("192.0.3.1") == ""
        assert asked == ["192.0.2.99", "192.0.3.1"]


@in_loop
async def test_memory_is_bounded_and_the_disk_knows_the_rest(path):
    async with grey(path, memory_entries=100) as it:
        for n in range(200):
            assert await it.ask(sender=f"x{chr(97 + n % 26)}{chr(97 + n // 26)}@sender.example")
        assert len(it.check._known) == 100
        it.clock.time += 300
        assert not it.asked_at_once(sender="xaa@sender.example")
        assert await it.ask(sender="xaa@sender.example") == ""


@in_loop
async def test_many_at_once_for_the_same_triplet_are_one(path):
    async with grey(path) as it:
        answers = await asyncio.gather(*(it.ask() for _ in range(50)))
        assert set(answers) == {"450 4.7.1 Greylisted, try again in 300 seconds"}
        it.clock.time += 300
        assert await it.ask() == ""


# The file


def rows(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT count(*) FROM entry").fetchone()[0]
    finally:
        db.close()


@in_loop
async def test_what_has_expired_leaves_the_disk(path):
    clock = Clock()
    async with grey(path, clock) as it:
        await it.ask()
        await it.ask(sender="other@sender.example")
    assert rows(path) == 2
    clock.time += 3 * 86400
    async with grey(path, clock) as it:
        await it.ask(sender="new@sender.example")
    assert rows(path) == 1


@in_loop
async def test_the_number_of_rows_is_bounded_and_those_that_ended_first_go(path):
    clock = Clock()
    store = GreylistStore(path, 1000, clock, print)
    for n in range(3000):
        store.put(n.to_bytes(16), Entry(T, T, 0), T + 7200 + n)
    await store.close()
    assert rows(path) == 1000
    store = GreylistStore(path, 1000, clock, print)
    assert await store.get([(2999).to_bytes(16), (5).to_bytes(16)]) == {(2999).to_bytes(16): Entry(T, T, 0)}
    await store.close()


@in_loop
async def test_a_question_sees_what_was_put_before(path):
    store = GreylistStore(path, 1000, Clock(), print)
    key = bytes(16)
    store.put(key, Entry(T, T, 0), T + 1)
    assert await store.get([key]) == {key: Entry(T, T, 0)}
    store._hand_over()
    store.put(key, Entry(T, T, 1), T + 1)
    assert (await store.get([key]))[key].passed == 1
    store._hand_over()
    assert (await store.get([key]))[key].passed == 1
    await store.close()


@in_loop
async def test_a_damaged_file_is_moved_aside(path):
    path.parent.mkdir()
    path.write_bytes(b"this is no database, and long enough to look like something" * 50)
    async with grey(path) as it:
        assert "damaged" in it.warnings[0]
        assert await it.ask()
    assert path.with_suffix(".damaged").exists()
    assert rows(path) == 1


@in_loop
async def test_when_the_file_fails_greylisting_goes_on_in_memory(path):
    async with grey(path) as it:
        other = sqlite3.connect(path)
        other.execute("DROP TABLE entry")
        other.commit()
        other.close()
        assert await it.ask()
        assert await it.ask(sender="other@sender.example")
        it.clock.time += 300
        assert await it.ask() == ""
        assert len(it.warnings) == 1
        assert "fails" in it.warnings[0]


@in_loop
async def test_a_thread_that_does_not_keep_up_costs_no_memory(path):
    store = GreylistStore(path, 1000, Clock(), print)
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    store._inbox.put(lambda: asyncio.run_coroutine_threadsafe(release.wait(), loop).result())
    for n in range(greylist_store.BATCH_ROWS * (greylist_store.BATCHES + 3)):
        store.put(n.to_bytes(16), Entry(T, T, 0), T + 1)
    assert (store._batches, len(store._dirty)) == (greylist_store.BATCHES, 0)
    waiting = [asyncio.ensure_future(store.get([b"unknown"])) for _ in range(greylist_store.READS + 5)]
    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 5  # answered at once: unknown
    release.set()
    await asyncio.wait(waiting)
    await store.close()
