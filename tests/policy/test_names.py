"""The names of clients: verified, remembered, and nobody waits for another's (wish 27)."""

from __future__ import annotations

import asyncio
import functools

import dnslib
import pytest

from mailflow.ingress.asking import Panel
from mailflow.ingress.desk import Desk
from mailflow.ingress.policy.names import UNKNOWN_SECONDS, ClientName, ClientNames
from mailflow.ingress.policy.relay import RelayControl
from mailflow.ingress.session import Session
from mailflow.net.dns import NoSuchDomain, Resolver
from mailflow.net.settings import DnsSettings
from mailflow.smtp.commands import NO_MAIL_PARAMS, NO_RCPT_PARAMS
from mailflow.smtp.handler import PENDING
from tests.ingress.fakes import FakeIntake, FakeLog, resolver
from tests.ingress.test_asking import Wire
from tests.net.dns_server import SILENT, DnsServer
from tests.policy.play import TEMPORARY, FakeDns, answer

ADDRESS = "192.0.2.7"


def in_loop(test):
    @functools.wraps(test)
    def run(**arguments):
        async def bounded():
            async with asyncio.timeout(30):
                await test(**arguments)

        asyncio.run(bounded())

    return run


async def name_of(names: ClientNames, address: str) -> ClientName:
    found = names.look(address)
    return found if isinstance(found, ClientName) else await found


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"ptr 192.0.2.7": ["mx.a.test"], "a mx.a.test": ["2001:db8::1", ADDRESS]}, ClientName("mx.a.test")),
        ({"ptr 192.0.2.7": ["mx.a.test"], "a mx.a.test": ["192.0.2.8"]}, ClientName(reverse="mx.a.test")),
        ({"ptr 192.0.2.7": ["no.test", "mx.a.test"], "a mx.a.test": [ADDRESS]}, ClientName("mx.a.test")),
        ({"ptr 192.0.2.7": ["mx.a.test"]}, ClientName(reverse="mx.a.test")),
        ({"ptr 192.0.2.7": ["mx.a.test"], "a mx.a.test": TEMPORARY}, ClientName(reverse="mx.a.test")),
        ({"ptr 192.0.2.7": TEMPORARY}, ClientName()),
        ({"ptr 192.0.2.7": []}, ClientName()),
        ({}, ClientName()),
    ],
)
@in_loop
async def test_a_name_leads_back_or_is_not_verified(answers, expected):
    now = [0.0]
    dns = FakeDns(answers)
    names = ClientNames(dns, "strangers", 5.0, now=lambda: now[0])
    assert await name_of(names, ADDRESS) == expected
    asked = len(dns.asked)
    assert names.look(ADDRESS) == expected  # remembered, whatever it was
    assert len(dns.asked) == asked
    now[0] = UNKNOWN_SECONDS + 1
    assert isinstance(names.look(ADDRESS), ClientName) == bool(expected.name)
    await names.close()


@in_loop
async def test_sessions_of_one_address_share_a_look_up_and_their_number_is_bounded():
    dns = FakeDns({"ptr 192.0.2.7": ["mx.a.test"], "a mx.a.test": [ADDRESS]})
    names = ClientNames(dns, "strangers", 5.0, lookups=2)
    first, second = names.look(ADDRESS), names.look(ADDRESS)
    assert first is second
    names.look("192.0.2.8")
    assert names.look("192.0.2.9") == ClientName()  # beyond the bound: no name, and no waiting
    assert names.look("not an address") == ClientName()
    assert await first == ClientName("mx.a.test")
    assert dns.asked.count("ptr 192.0.2.7") == 1
    await names.close()


def test_whose_names_are_looked_up_at_once():
    wants = {
        (whose, trusted, address): ClientNames(FakeDns(), whose, 5.0).wants(address, trusted=trusted)
        for whose in ("strangers", "all", "none")
        for trusted in (False, True)
        for address in (ADDRESS, "127.0.0.1", "::1", "")
    }
    assert {key for key, wanted in wants.items() if wanted} == {
        ("strangers", False, ADDRESS),
        ("all", False, ADDRESS),
        ("all", True, ADDRESS),
    }


def session(names: ClientNames | None, address: str = ADDRESS):
    intake, wire = FakeIntake(), Wire()
    desk = Desk(resolver(), intake, RelayControl([]), FakeLog(), 100, panel=Panel(names=names))
    return Session(desk, wire, address, 4321), intake, wire


def until_data(s: Session):
    s.connect()
    s.hello("EHLO", "me.test")
    s.mail("joe@there.test", NO_MAIL_PARAMS)
    s.rcpt("alice@example.test", NO_RCPT_PARAMS)
    return s.data()


def reverse(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


@pytest.mark.wish(27)
@in_loop
async def test_500_clients_whose_name_never_comes_do_not_delay_one_whose_does():
    mute = [f"198.51.{n // 250}.{n % 250 + 1}" for n in range(500)]
    zone = {(reverse(address), "PTR"): SILENT for address in mute}
    zone |= {(reverse(ADDRESS), "PTR"): [dnslib.PTR("mx.a.test")], ("mx.a.test", "A"): [dnslib.A(ADDRESS)]}
    async with DnsServer(zone) as server:
        dns = Resolver(DnsSettings(nameservers=[server.endpoint], timeout="20s", tries=1), lookups=1000)
        names = ClientNames(dns, "strangers", 20.0)
        waiting = []
        for count, address in enumerate(mute, 1):
            waiting.append(session(names, address))
            assert until_data(waiting[-1][0]) is PENDING
            if count % 50 == 0:  # a socket does not hold all questions at once
                while len(server.asked) < count:
                    await asyncio.sleep(0)
        good, intake, wire = session(names)
        answer = until_data(good)
        if answer is PENDING:
            await wire.came.wait()
            answer = wire.answers[0]
        assert answer.code == 354
        assert intake.begun[0].envelope.peer.name == "mx.a.test"
        assert not any(w.answers for _, _, w in waiting)
        for s, _, _ in waiting:
            s.closed()
        await names.close()
        await dns.close()


@in_loop
async def test_a_session_waits_no_longer_than_it_may_and_goes_on_without_the_name():
    names = ClientNames(Mute(), "strangers", 0.01)
    s, intake, wire = session(names)
    assert until_data(s) is PENDING
    await wire.came.wait()
    assert wire.answers[0].code == 354
    assert intake.begun[0].envelope.peer.name == ""
    assert s.named() is None  # it has waited once
    other, _, _ = session(names)
    assert until_data(other).code == 354  # nor does the next session of this client wait
    s.closed()
    await names.close()


@in_loop
async def test_the_name_stands_in_the_record_as_soon_as_it_is_known():
    names = ClientNames(FakeDns({"ptr 192.0.2.7": ["mx.a.test"], "a mx.a.test": [ADDRESS]}), "strangers", 5.0)
    s, _, _ = session(names)
    s.connect()
    await names.look(ADDRESS)
    s.hello("EHLO", "me.test")
    assert (s.peer.name, s.peer.helo, s.client) == ("mx.a.test", "me.test", "mx.a.test[192.0.2.7]")
    assert s.named() is None
    again, intake, _ = session(names)
    assert until_data(again).code == 354  # remembered: nobody waits
    assert intake.begun[0].envelope.peer.name == "mx.a.test"
    await names.close()


@in_loop
async def test_another_address_is_another_name():
    dns = {
        "ptr 192.0.2.7": ["mx.a.test"],
        "a mx.a.test": [ADDRESS],
        "ptr 192.0.2.8": ["mx.b.test"],
        "a mx.b.test": ["192.0.2.8"],
    }
    names = ClientNames(FakeDns(dns), "strangers", 5.0)
    s, _, _ = session(names, "192.0.2.99")
    s.connect()
    s.identify(address="192.0.2.8", via="192.0.2.99")
    waiting = s.named()
    assert waiting is not None
    await waiting
    assert s.peer.name == "mx.b.test"
    s.identify(address=ADDRESS, name="told.test")
    assert (s.named(), s.peer.name) == (None, "told.test")
    await names.close()


@in_loop
async def test_the_name_of_a_balancer_is_not_its_clients():
    dns = {"ptr 192.0.2.7": ["lb.a.test"], "a lb.a.test": [ADDRESS]}
    names = ClientNames(FakeDns(dns), "strangers", 5.0)
    s, _, _ = session(names)
    s.connect()
    s.identify(address="127.0.0.1", via=ADDRESS)  # loopback: not looked up
    await names.look(ADDRESS)
    assert s.peer.name == ""
    known, _, _ = session(names)
    known.connect()
    assert known.peer.name == "lb.a.test"
    known.identify(address="127.0.0.1", via=ADDRESS)
    assert known.peer.name == ""
    await names.close()


def test_a_rule_waits_for_a_name_only_if_the_rest_of_it_holds():
    text = '[[policy.rcpt]]\nclient = [".bad.test"]\nrecipient = ["bob@here.test"]\naction = "reject"'
    dns = FakeDns({"ptr 10.0.0.1": ["x.bad.test"], "a x.bad.test": ["10.0.0.1"]})
    assert answer(text, "10.0.0.1", dns=dns) == "250 2.0.0 Ok"
    assert dns.asked == []  # a trusted client's name is looked up when a rule asks for it
    assert answer(text, "10.0.0.1", "bob@here.test", dns=dns).startswith("554")
    assert dns.asked != []


@in_loop
async def test_a_client_that_leaves_is_not_told_of():
    names = ClientNames(Mute(), "strangers", 5.0)
    s, _, _ = session(names)
    s.connect()
    s.closed()
    await names.close()
    assert s.peer.name == ""


class Mute:
    async def pointers(self, address):
        await asyncio.Event().wait()

    async def addresses(self, host):
        raise NoSuchDomain(host)


@in_loop
async def test_pointers_are_host_names():
    records = [
        dnslib.PTR("Mx.A.test"),
        dnslib.PTR("bad name.test"),
        dnslib.PTR("192.0.2.7"),
        dnslib.PTR("x" * 63 + ".test"),
    ]
    six = "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"
    zone = {(reverse(ADDRESS), "PTR"): records, (six, "PTR"): [dnslib.PTR("six.test")]}
    async with DnsServer(zone) as server:
        dns = Resolver(DnsSettings(nameservers=[server.endpoint]))
        assert sorted(await dns.pointers(ADDRESS)) == ["mx.a.test", "x" * 63 + ".test"]
        assert await dns.pointers("2001:db8::1") == ["six.test"]
        with pytest.raises(NoSuchDomain):
            await dns.pointers("192.0.2.8")
        await dns.close()
