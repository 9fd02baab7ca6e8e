"""The resolver against a real DNS server on 127.0.0.1: MX, fallback, failures, TTL, sharing, closing."""

import asyncio

import pytest
import uvloop
from dnslib import AAAA, CNAME, MX, RCODE, TXT, A

from mailflow.net.dns import DnsTemporary, MailHost, NoSuchDomain, NullMx, Resolver, to_ascii
from mailflow.net.settings import DnsSettings
from tests.net.dns_server import SILENT, DnsServer

ZONE = {
    ("two.example", "MX"): [MX("b.two.example", 20), MX("A.two.example", 10)],
    ("a.two.example", "A"): [A("192.0.2.1")],
    ("a.two.example", "AAAA"): [AAAA("2001:db8::1")],
    ("b.two.example", "A"): [A("192.0.2.2")],
    ("plain.example", "A"): [A("192.0.2.3")],
    ("null.example", "MX"): [MX(".", 0)],
    ("half-null.example", "MX"): [MX(".", 0), MX("a.two.example", 5)],
    ("broken.example", "MX"): RCODE.SERVFAIL,
    ("refused.example", "MX"): RCODE.REFUSED,
    ("mute.example", "MX"): SILENT,
    ("half.example", "A"): RCODE.SERVFAIL,
    ("half.example", "AAAA"): [AAAA("2001:db8::2")],
    ("unknown-half.example", "A"): RCODE.SERVFAIL,
    ("empty.example", "TXT"): [],
    ("alias.example", "MX"): [CNAME("two.example")],
    ("xn--bcher-kva.example", "MX"): [MX("a.two.example", 10)],
}


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def with_resolver(test, *, runner=asyncio.run, ttl=300, **settings):
    async def main():
        clock = Clock()
        async with DnsServer(dict(ZONE), ttl) as server:
            values = {"timeout": 0.2, "tries": 1, **settings}
            resolver = Resolver(DnsSettings(nameservers=[server.endpoint], **values), now=clock)
            try:
                return await test(resolver, server, clock)
            finally:
                await resolver.close()

    return runner(main())


def hosts(domain, **kwargs):
    async def test(resolver, _server, _clock):
        return await resolver.mail_hosts(domain)

    return with_resolver(test, **kwargs)


def addresses(host):
    async def test(resolver, _server, _clock):
        return await resolver.addresses(host)

    return with_resolver(test)


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_mail_hosts_come_in_order_of_preference(runner):
    assert hosts("Two.Example.", runner=runner) == [MailHost("a.two.example", 10), MailHost("b.two.example", 20)]


def test_without_mx_records_the_domain_is_its_own_host():
    assert hosts("plain.example") == [MailHost("plain.example", 0)]
    assert addresses("plain.example") == ["192.0.2.3"]


def test_null_mx():
    with pytest.raises(NullMx):
        hosts("null.example")


def test_a_dot_beside_real_hosts_is_no_null_mx():
    assert hosts("half-null.example") == [MailHost("a.two.example", 5)]


@pytest.mark.parametrize(
    "name", ["nowhere.example", "a" * 64 + ".example", "", "..", "x" * 260, "b\x00d.example", "b d"]
)
def test_what_does_not_exist_is_permanent(name):
    with pytest.raises(NoSuchDomain):
        hosts(name)


@pytest.mark.parametrize("name", ["broken.example", "refused.example", "mute.example"])
def test_what_does_not_answer_is_temporary(name):
    with pytest.raises(DnsTemporary):
        hosts(name)


def test_no_server_at_all_is_temporary():
    async def main():
        resolver = Resolver(DnsSettings(nameservers=["127.0.0.1:1"], timeout=0.2, tries=1))
        with pytest.raises(DnsTemporary):
            await resolver.mail_hosts("two.example")
        await resolver.close()

    asyncio.run(main())


def test_addresses_of_both_families_ipv6_first():
    assert addresses("a.two.example") == ["2001:db8::1", "192.0.2.1"]


def test_one_family_that_fails_does_not_hide_the_other():
    assert addresses("half.example") == ["2001:db8::2"]


def test_one_family_that_fails_leaves_the_rest_open():
    with pytest.raises(DnsTemporary):
        addresses("unknown-half.example")


def test_a_name_without_addresses_is_permanent():
    with pytest.raises(NoSuchDomain):
        addresses("empty.example")


@pytest.mark.parametrize("text", ["192.0.2.9", "2001:db8::9"])
def test_an_address_is_its_own_answer(text):
    assert addresses(text) == [text]


def test_localhost_is_this_machine():
    assert addresses("localhost") == ["::1", "127.0.0.1"]


def test_names_in_unicode_are_asked_as_a_labels():
    assert hosts("Bücher.example") == [MailHost("a.two.example", 10)]
    assert to_ascii("Bücher.example.") == "xn--bcher-kva.example"


def test_answers_live_as_long_as_their_ttl():
    async def test(resolver, _server, clock):
        for _ in range(3):
            await resolver.mail_hosts("two.example")
        clock.time += 299
        await resolver.mail_hosts("two.example")
        assert resolver.questions == 1
        clock.time += 2
        await resolver.mail_hosts("two.example")
        assert resolver.questions == 2

    with_resolver(test)


def test_no_answer_lives_longer_than_the_setting():
    async def test(resolver, _server, clock):
        await resolver.mail_hosts("two.example")
        clock.time += 61
        await resolver.mail_hosts("two.example")
        assert resolver.questions == 2

    with_resolver(test, ttl=100_000, max_ttl="1m")


def test_an_expired_answer_is_really_asked_for_again():
    async def test(resolver, server, clock):
        await resolver.mail_hosts("two.example")
        server.zone["two.example", "MX"] = [MX("new.example", 1)]
        assert len(await resolver.mail_hosts("two.example")) == 2
        clock.time += 1.5
        assert await resolver.mail_hosts("two.example") == [MailHost("new.example", 1)]
        assert server.asked["two.example", "MX"] == 2

    with_resolver(test, ttl=0)


def test_what_does_not_exist_is_remembered_too_and_failures_are_not():
    async def test(resolver, _server, clock):
        async def questions(name, error):
            before = resolver.questions
            for _ in range(2):
                with pytest.raises(error):
                    await resolver.mail_hosts(name)
            return resolver.questions - before

        assert await questions("nowhere.example", NoSuchDomain) == 1
        assert await questions("broken.example", DnsTemporary) == 2
        clock.time += 61
        assert await questions("nowhere.example", NoSuchDomain) == 1

    with_resolver(test)


def test_the_cache_is_bounded():
    async def test(resolver, _server, _clock):
        for name in ("two.example", "plain.example", "half-null.example"):
            await resolver.mail_hosts(name)
        assert "cached=2" in repr(resolver)
        await resolver.mail_hosts("two.example")
        assert resolver.questions == 4

    with_resolver(test, cache_size=2)


def test_look_ups_at_the_same_time_are_one():
    async def test(resolver, server, _clock):
        await asyncio.gather(*(resolver.mail_hosts("two.example") for _ in range(50)))
        assert server.asked["two.example", "MX"] == 1

    with_resolver(test)


def test_who_gives_up_does_not_take_the_answer_from_the_others():
    async def test(resolver, _server, _clock):
        first = asyncio.ensure_future(resolver.mail_hosts("two.example"))
        second = asyncio.ensure_future(resolver.mail_hosts("two.example"))
        await asyncio.sleep(0)
        first.cancel()
        assert len(await second) == 2
        with pytest.raises(asyncio.CancelledError):
            await first

    with_resolver(test)


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_closing_in_the_middle_of_a_look_up_ends_it(runner):
    async def test(resolver, _server, _clock):
        waiting = [asyncio.ensure_future(resolver.mail_hosts("mute.example")) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await resolver.close()
        assert all(isinstance(r, DnsTemporary) for r in await asyncio.gather(*waiting, return_exceptions=True))
        with pytest.raises(DnsTemporary):
            await resolver.mail_hosts("two.example")
        assert "running=0" in repr(resolver)

    with_resolver(test, runner=runner, timeout=5)


def test_records_as_they_are_for_lists_in_the_dns():
    async def test(resolver, server, _clock):
        server.zone["plain.example", "TXT"] = [TXT([b"one ", b"two"]), TXT(b"\xff")]
        assert resolver.known("plain.example", "A") is None
        assert await resolver.records("Plain.example", "A") == ("192.0.2.3",)
        assert resolver.known("plain.example", "A") == ("192.0.2.3",)
        assert set(await resolver.records("plain.example", "TXT")) == {"one two", "\ufffd"}
        for name in ("nowhere.example", "two.example", "no name"):
            assert await resolver.records(name, "A") == ()
        assert resolver.known("nowhere.example", "A") == resolver.known("two.example", "A") == ()
        with pytest.raises(DnsTemporary):
            await resolver.records("half.example", "A")
        assert resolver.known("half.example", "A") is None

    with_resolver(test)
