"""Lists in the DNS, against a real DNS server on 127.0.0.1: who counts as listed, and what lists that fail cost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from dnslib import RCODE, TXT, A

from mailflow.ingress.checks.dnsbl import FAILURES, REST_SECONDS, Dnsbl, Score
from mailflow.ingress.checks.dnsbl_selftest import SelfTest
from mailflow.ingress.checks.settings import DnsblSettings
from mailflow.net.dns import Resolver
from mailflow.net.settings import DnsSettings
from tests.checks.fakes import Clock, FakeSituation, answer, in_loop
from tests.net.dns_server import SILENT, DnsServer

CLIENT = "99.2.0.192"


class Lists:
    """A `Dnsbl` and what it stands on."""

    def __init__(self, server: DnsServer, dns: Resolver, settings: DnsblSettings) -> None:
        self.server, self.dns, self.clock = server, dns, Clock()
        self.warnings: list[str] = []
        self.dnsbl = Dnsbl(settings, dns, self.clock, self.warnings.append)
        self.test = SelfTest(self.dnsbl, dns, 3600, self.warnings.append)

    async def score(self, *about, **more) -> Score:
        return await answer(self.dnsbl.score(FakeSituation(*about, **more)))

    async def reject(self, *about, **more):
        return await answer(self.dnsbl.reject(FakeSituation(*about, **more)))


@asynccontextmanager
async def lists(zone: dict, *entries: dict, patience="10s", **settings):
    async with DnsServer(zone) as server:
        dns = Resolver(DnsSettings(nameservers=[server.endpoint], timeout=patience, tries=1))
        try:
            yield Lists(server, dns, DnsblSettings(list=list(entries), **settings))
        finally:
            await dns.close()


BAD = {"zone": "bad.example"}
GOOD = {"zone": "good.example", "weight": -2}


@in_loop
async def test_a_listed_client_is_refused_with_the_list_s_words():
    zone = {
        (f"{CLIENT}.bad.example", "A"): [A("127.0.0.2")],
        (f"{CLIENT}.bad.example", "TXT"): [TXT("Sent spam,\r\n see https://bad.example/?ip=192.0.2.99")],
    }
    async with lists(zone, BAD) as it:
        verdict = await it.reject()
        expected = (
            "554 5.7.1 Client [192.0.2.99] is listed by bad.example: Sent spam, see https://bad.example/?ip=192.0.2.99"
        )
        assert verdict.reply.text == expected
        assert verdict.rule == "reject_dnsbl"
        assert verdict.reason == "score 1 (bad.example +1)"
        assert await it.reject("192.0.2.98") is None


@in_loop
async def test_ipv6_clients_are_asked_for_by_nibbles():
    name = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bad.example"
    async with lists({(name, "A"): [A("127.0.0.2")]}, BAD) as it:
        assert (await it.score("2001:db8:1:2:3:4:567:89ab")).total == 1


@pytest.mark.parametrize(
    "what",
    [
        [A("127.255.255.254")],
        [A("127.0.0.1")],
        [A("192.0.2.1")],
        RCODE.REFUSED,
        RCODE.SERVFAIL,
        SILENT,
        [],
    ],
    ids=["error code", "127.0.0.1", "foreign answer", "REFUSED", "SERVFAIL", "time-out", "no data"],
)
@in_loop
async def test_what_is_no_listing_never_counts(what):
    zone = {(f"{CLIENT}.bad.example", "A"): what, (f"{CLIENT}.other.example", "A"): [A("127.0.0.2")]}
    patience = "1s" if what == SILENT else "10s"
    async with lists(zone, BAD, {"zone": "other.example"}, patience=patience) as it:
        score = await it.score()
        assert [listing.zone for listing in score.listings] == ["other.example"]


@in_loop
async def test_one_silent_list_does_not_keep_the_answers_of_others():
    zone = {(f"{CLIENT}.bad.example", "A"): SILENT, (f"{CLIENT}.other.example", "A"): [A("127.0.0.2")]}
    async with lists(zone, BAD, {"zone": "other.example"}, time_limit="1s") as it:
        assert (await it.score()).total == 1


@in_loop
async def test_weights_add_up_and_the_thresholds_decide():
    zone = {
        (f"{CLIENT}.bad.example", "A"): [A("127.0.0.3"), A("127.0.0.9")],
        (f"{CLIENT}.good.example", "A"): [A("127.0.5.1")],
    }
    entries = [
        {"zone": "bad.example", "replies": ["127.0.0.[2..4]"], "weight": 2},
        {"zone": "bad.example", "replies": ["127.0.0.9"], "weight": 3},
        {"zone": "bad.example", "replies": ["127.0.0.10"], "weight": 100},
        GOOD,
    ]
    for thresholds, code in (({"reject_at": 3}, 554), ({"reject_at": 4, "defer_at": 3}, 450), ({"reject_at": 4}, 0)):
        async with lists(zone, *entries, **thresholds) as it:
            assert (await it.score()).total == 3
            verdict = await it.reject()
            assert (verdict.reply.code if verdict else 0) == code
            # one question for each zone, however many entries it has; TXT besides
            assert it.server.asked[f"{CLIENT}.bad.example", "A"] == 1


@in_loop
async def test_allow_lists():
    zone = {
        (f"{CLIENT}.good.example", "A"): [A("127.0.5.1")],
        ("98.2.0.192.good.example", "A"): [A("127.0.0.255")],  # dnswl.org: too many queries
    }
    async with lists(zone, GOOD) as it:
        permits = it.dnsbl.permits
        assert await answer(permits(FakeSituation())) is True
        assert await answer(permits(FakeSituation("192.0.2.98"))) is False
        assert await answer(permits(FakeSituation("192.0.2.97"))) is False
        assert await it.reject() is None


@in_loop
async def test_lists_of_domains():
    zone = {
        ("sender.example.dbl.example", "A"): [A("127.0.1.2")],
        ("mail.client.example.dbl.example", "A"): [A("127.0.1.4")],
    }
    by_sender = {"zone": "dbl.example", "kind": "sender"}
    by_helo = {"zone": "dbl.example", "kind": "helo", "weight": 10}
    async with lists(zone, by_sender, by_helo) as it:
        assert (await it.score()).total == 11
        assert (await it.score(sender="", helo="[192.0.2.1]")).total == 0
        assert (await it.score(sender="joe@SENDER.example", helo="localhost")).total == 1
        verdict = await it.reject(helo="x")
        assert verdict.reply.text == "554 5.7.1 Sender domain sender.example is listed by dbl.example"


@pytest.mark.parametrize(
    ("about", "more"), [(("127.0.0.1",), {}), (("10.0.0.1",), {}), ((), {"trusted": True}), (("198.51.100.7",), {})]
)
@in_loop
async def test_nobody_is_asked_about_our_own_and_exempt_clients(about, more):
    async with lists({}, BAD, exempt=["198.51.100.0/24"]) as it:
        assert await it.reject(*about, **more) is None
        assert not it.server.asked


@in_loop
async def test_what_is_in_the_cache_is_answered_at_once():
    async with lists({(f"{CLIENT}.bad.example", "A"): [A("127.0.0.2")]}, BAD, GOOD, reasons=False) as it:
        assert (await it.score()).total == 1
        asked = it.server.asked.copy()
        assert isinstance(it.dnsbl.score(FakeSituation()), Score)
        assert it.dnsbl.reject(FakeSituation()).reply.code == 554
        assert it.server.asked == asked


@in_loop
async def test_a_list_that_fails_rests():
    zone = {(f"{n}.2.0.192.bad.example", "A"): RCODE.SERVFAIL for n in range(9)}
    async with lists(zone, BAD) as it:
        for _ in range(2):
            for n in range(FAILURES):
                await it.score(f"192.0.2.{n}")
            asked = it.server.asked.total()
            for n in range(9):
                assert it.dnsbl.score(FakeSituation(f"192.0.2.{n}")) == Score()
            assert it.server.asked.total() == asked
            it.clock.time += REST_SECONDS
        assert len(it.warnings) == 2
        assert "bad.example does not answer" in it.warnings[0]


@in_loop
async def test_failures_in_between_answers_are_no_reason_to_rest():
    zone = {("1.2.0.192.bad.example", "A"): RCODE.SERVFAIL, ("2.2.0.192.bad.example", "A"): [A("127.0.0.2")]}
    async with lists(zone, BAD) as it:
        for n in range(3, 3 + 2 * FAILURES):
            await it.score("192.0.2.1")
            await it.score(f"192.0.2.{n}")  # does not exist: an answer
        assert not it.warnings


@in_loop
async def test_a_reason_that_does_not_come_is_done_without():
    zone = {
        (f"{CLIENT}.bad.example", "A"): [A("127.0.0.2")],
        (f"{CLIENT}.bad.example", "TXT"): RCODE.SERVFAIL,
    }
    async with lists(zone, BAD) as it:
        assert (await it.reject()).reply.text == "554 5.7.1 Client [192.0.2.99] is listed by bad.example"


@in_loop
async def test_a_session_that_ends_leaves_no_task_behind():
    async with lists({(f"{CLIENT}.bad.example", "A"): SILENT}, BAD) as it:
        before = asyncio.all_tasks()
        task = asyncio.ensure_future(it.score())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await it.dns.close()  # the question itself goes on for others until then
        for other in asyncio.all_tasks() - before:
            await asyncio.wait({other})
        assert asyncio.all_tasks() == before


# RFC 5782 §5


@in_loop
async def test_a_list_that_lists_everybody_is_left_out_until_it_is_mended():
    zone = {
        ("2.0.0.127.bad.example", "A"): [A("127.0.0.2")],
        ("1.0.0.127.bad.example", "A"): [A("127.0.0.2")],
        (f"{CLIENT}.bad.example", "A"): [A("127.0.0.2")],
    }
    async with DnsServer(zone, ttl=0) as server:
        dns_time = Clock()
        dns = Resolver(DnsSettings(nameservers=[server.endpoint], timeout="10s", tries=1), now=dns_time)
        it = Lists(server, dns, DnsblSettings(list=[BAD]))
        await it.test.run()
        await it.test.run()
        assert it.warnings == ["bad.example lists what no list may hold (RFC 5782 section 5): it is left out"]
        assert (await it.score()).total == 0
        del zone["1.0.0.127.bad.example", "A"]
        dns_time.time += 100
        await it.test.run()
        assert it.warnings[1:] == ["bad.example is in order again"]
        assert (await it.score()).total == 1
        await dns.close()


@pytest.mark.parametrize(
    ("zone", "kind", "expected"),
    [
        ({("2.0.0.127.bad.example", "A"): [A("127.0.0.2")]}, "client", []),
        ({}, "client", ["bad.example does not hold its test entry: is the zone right?"]),
        ({("test.bad.example", "A"): [A("127.0.1.2")]}, "sender", []),
        (
            {("2.0.0.127.bad.example", "A"): [A("127.255.255.254")]},
            "client",
            ["bad.example refuses to answer this server's questions (127.255.255.254)"],
        ),
        ({("1.0.0.127.bad.example", "A"): RCODE.SERVFAIL}, "client", []),
    ],
    ids=["in order", "empty", "of domains", "error code", "does not answer"],
)
@in_loop
async def test_what_the_self_test_says(zone, kind, expected):
    async with lists(zone, {"zone": "bad.example", "kind": kind}) as it:
        await it.test.run()
        assert it.warnings == expected
        assert not it.dnsbl.zones["bad.example"].lists_everybody


@in_loop
async def test_the_self_test_runs_in_the_background_and_ends():
    async with lists({}, BAD) as it:
        said = asyncio.Event()
        test = SelfTest(it.dnsbl, it.dns, 3600, lambda _text: said.set())
        test.start()
        async with asyncio.timeout(5):
            await said.wait()
        await test.close()
