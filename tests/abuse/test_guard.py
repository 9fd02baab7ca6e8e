"""Limits of rates, asked as sessions ask them; time stands still unless a test moves it."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from mailflow.ingress.abuse import guard as module
from mailflow.ingress.abuse.guard import GreetDelay, RateGuard
from mailflow.ingress.abuse.settings import AbuseSettings
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Verdict
from mailflow.smtp.reply import reply
from tests.abuse.fakes import Clock, FakeSession, Pauses, guard

OFF = {"connections": "off", "tls_handshakes": "off", "auth_failures": "off", "errors": "off"}
REFUSED = reply(550, "5.1.1", "No such user")


def ask(rates: RateGuard, stage: Stage, who: FakeSession) -> Any:
    return rates.at(stage)(who)


def passes(rates: RateGuard, stage: Stage, address: str, times: int = 1) -> list[bool]:
    return [ask(rates, stage, FakeSession(address)) is None for _ in range(times)]


def test_by_default_only_connections_are_asked_about() -> None:
    assert guard(Clock()).stages == {Stage.CONNECT}
    assert guard(Clock(), client=OFF, network=OFF).stages == frozenset()
    assert guard(Clock(), client=OFF | {"errors": "1/1h"}, network=OFF).stages == {Stage.CONNECT}
    assert guard(Clock(), client=OFF, network=OFF | {"messages": "1/1h", "recipients": "1/1h"}).stages == {
        Stage.MAIL,
        Stage.RCPT,
    }


@pytest.mark.wish(75)
@pytest.mark.parametrize(
    ("what", "stage"),
    [("connections", Stage.CONNECT), ("messages", Stage.MAIL), ("recipients", Stage.RCPT)],
)
def test_a_client_is_stopped_at_its_limit_and_let_pass_later(what: str, stage: Stage) -> None:
    clock = Clock()
    rates = guard(clock, client={what: "3/1m"})
    assert passes(rates, stage, "192.0.2.1", 5) == [True] * 3 + [False] * 2
    assert passes(rates, stage, "192.0.2.2") == [True]
    assert passes(rates, stage, "", 5) == [True] * 5
    clock.now += 20.1
    assert passes(rates, stage, "192.0.2.1", 2) == [True, False]


@pytest.mark.wish(75)
@pytest.mark.parametrize(
    ("addresses", "other"),
    [
        (["192.0.2.1", "192.0.2.77", "192.0.2.200"], "192.0.3.1"),
        (["2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:ff::1"], "2001:db8:0:100::1"),
    ],
)
def test_a_network_is_stopped_at_its_limit(addresses: list[str], other: str) -> None:
    rates = guard(Clock(), network={"connections": "2/1m"})
    assert [passes(rates, Stage.CONNECT, address) for address in addresses] == [[True], [True], [False]]
    assert passes(rates, Stage.CONNECT, other) == [True]


def test_prefix_lengths_are_settings() -> None:
    rates = guard(Clock(), network={"connections": "1/1m"}, ipv4_prefix=16, ipv6_prefix=32)
    assert passes(rates, Stage.CONNECT, "192.0.2.1") + passes(rates, Stage.CONNECT, "192.0.200.1") == [True, False]
    assert passes(rates, Stage.CONNECT, "2001:db8::1") + passes(rates, Stage.CONNECT, "2001:db8:9::1") == [True, False]


@pytest.mark.parametrize(
    ("excess", "stage", "action", "text"),
    [
        ("", Stage.CONNECT, Action.REFUSE, "421 4.7.1 Too many connections, try again later"),
        (" refuse", Stage.CONNECT, Action.REFUSE, "554 5.7.1 Too many connections"),
        (" close", Stage.CONNECT, Action.CLOSE, "421 4.7.1 Too many connections, try again later"),
        (" drop", Stage.CONNECT, Action.DROP, "421 4.7.1 Too many connections, try again later"),
        ("", Stage.MAIL, Action.REFUSE, "450 4.7.1 Too many messages, try again later"),
        (" refuse", Stage.MAIL, Action.REFUSE, "550 5.7.1 Too many messages"),
        (" close", Stage.MAIL, Action.CLOSE, "421 4.7.1 Too many messages, try again later"),
        (" drop", Stage.MAIL, Action.DROP, "421 4.7.1 Too many messages, try again later"),
        ("", Stage.RCPT, Action.REFUSE, "450 4.7.1 Too many recipients, try again later"),
    ],
)
def test_what_becomes_of_more(excess: str, stage: Stage, action: Action, text: str) -> None:
    what = {Stage.CONNECT: "connections", Stage.MAIL: "messages", Stage.RCPT: "recipients"}[stage]
    rates = guard(Clock(), client={what: f"1/1h{excess}"})
    assert ask(rates, stage, FakeSession()) is None
    verdict = ask(rates, stage, FakeSession())
    assert isinstance(verdict, Verdict)
    assert verdict.reply is not None
    assert (verdict.action, verdict.reply.text) == (action, text)
    assert verdict.rule == f"abuse.client.{what} = 1/1h{excess}"


def test_only_one_refusal_of_a_client_and_minute_is_news() -> None:
    clock = Clock()
    rates = guard(clock, client={"connections": "1/10h"})
    levels = []
    for _ in range(4):
        found = ask(rates, Stage.CONNECT, FakeSession())
        levels.append(found and found.level)
        clock.now += 1
    clock.now += 60
    found = ask(rates, Stage.CONNECT, FakeSession())
    assert levels == [None, 20, 10, 10]
    assert (found.level, found.reason) == (20, "2 more were not logged")


def test_a_delay_lets_pass_in_the_end_and_the_delayed_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_DELAYED", 2)

    async def test() -> None:
        pauses = Pauses()
        rates = RateGuard(AbuseSettings(client={"connections": "1/1h delay"}, delay="7s"), Clock(), pause=pauses)
        assert ask(rates, Stage.CONNECT, FakeSession()) is None
        waiting = [asyncio.ensure_future(ask(rates, Stage.CONNECT, FakeSession())) for _ in range(2)]
        while len(pauses.asked) < 2:
            await asyncio.sleep(0)
        third = ask(rates, Stage.CONNECT, FakeSession())
        assert isinstance(third, Verdict)
        assert third.reply is not None
        assert third.reply.code == 421
        pauses.over.set()
        assert await asyncio.gather(*waiting) == [None, None]
        assert pauses.asked == [7.0, 7.0]
        fourth = ask(rates, Stage.CONNECT, FakeSession())
        assert inspect.isawaitable(fourth)
        assert await fourth is None

    asyncio.run(test())


@pytest.mark.wish(75)
@pytest.mark.parametrize(
    ("what", "answer"),
    [("errors", REFUSED), ("auth_failures", reply(535, "5.7.8", "Authentication credentials invalid"))],
)
def test_faults_are_met_at_the_next_connection(what: str, answer: Any) -> None:
    clock = Clock()
    rates = guard(clock, client=OFF | {what: "3/1h"}, network=OFF)
    for _ in range(3):
        assert passes(rates, Stage.CONNECT, "192.0.2.1") == [True]
        rates.refused(FakeSession(), answer)
    verdict = ask(rates, Stage.CONNECT, FakeSession())
    assert isinstance(verdict, Verdict)
    assert verdict.rule == f"abuse.client.{what} = 3/1h"
    assert passes(rates, Stage.CONNECT, "192.0.2.2") == [True]
    clock.now += 1201
    assert passes(rates, Stage.CONNECT, "192.0.2.1") == [True]


def test_a_refusal_that_is_our_fault_is_no_error() -> None:
    rates = guard(Clock(), client=OFF | {"errors": "1/1h"})
    rates.refused(FakeSession(), reply(452, "4.3.1", "Insufficient system storage"))
    assert passes(rates, Stage.CONNECT, "192.0.2.1") == [True]


def test_handshakes_are_stopped_and_met_at_the_next_connection() -> None:
    rates = guard(Clock(), client=OFF | {"tls_handshakes": "2/1h"}, exempt_networks=["198.51.100.0/24"])
    assert rates.takes_handshake("192.0.2.1", ours=False)
    assert passes(rates, Stage.CONNECT, "192.0.2.1") == [True]
    assert [rates.takes_handshake("192.0.2.1", ours=False) for _ in range(2)] == [True, False]
    assert passes(rates, Stage.CONNECT, "192.0.2.1") == [False]
    assert rates.takes_handshake("192.0.2.1", ours=True)
    assert [rates.takes_handshake("198.51.100.7", ours=False) for _ in range(9)] == [True] * 9
    assert guard(Clock(), client=OFF).takes_handshake("192.0.2.1", ours=False)


@pytest.mark.parametrize(
    ("exempt", "who", "free"),
    [
        (["relay", "login"], FakeSession(trusted=True), True),
        (["relay", "login"], FakeSession(trusted=True, login="al"), True),
        (["relay"], FakeSession(trusted=True, login="al"), False),
        (["login"], FakeSession(trusted=True, login="al"), True),
        (["login"], FakeSession(trusted=True), False),
        ([], FakeSession(trusted=True), False),
        (["known"], FakeSession("192.0.2.9"), True),
        (["relay"], FakeSession("192.0.2.9"), False),
        ([], FakeSession("198.51.100.7"), True),
    ],
)
def test_exemptions(exempt: list[str], who: FakeSession, free: bool) -> None:
    settings = AbuseSettings(exempt=exempt, exempt_networks=["198.51.100.0/24"], client={"connections": "1/1h"})
    rates = RateGuard(settings, Clock(), known=lambda address: address == "192.0.2.9")
    assert [ask(rates, Stage.CONNECT, who) is None for _ in range(3)] == [True, free, free]


def test_strangers_wait_for_the_greeting() -> None:
    async def test() -> None:
        pauses = Pauses()
        delay = GreetDelay(3.0, guard(Clock()), pauses)
        question = delay.at(Stage.CONNECT)
        assert question(FakeSession(trusted=True)) is None
        pauses.over.set()
        found = question(FakeSession())
        assert inspect.isawaitable(found)
        assert await found is None
        assert pauses.asked == [3.0]

    asyncio.run(test())
