"""Which hosts are tried and in which order: MX, preference, families, loops, failures; against a real DNS server."""

import asyncio

import pytest
from dnslib import AAAA, MX, RCODE, A

from mailflow.delivery.request import Stage, Trouble
from mailflow.delivery.trouble import SiteHealth, health, judge
from mailflow.report import Action
from mailflow.setting import Endpoint
from tests.delivery.host import CUT, Host, Outbox, delivery
from tests.net.dns_server import SILENT, DnsServer


def zone(*hosts):
    """ "example" with these mail hosts: (name, preference, address)."""
    records = {("example", "MX"): [MX(f"{name}.example", preference) for name, preference, _ in hosts]}
    return records | {(f"{name}.example", "A"): [A(address)] for name, _, address in hosts}


def at_two_hosts(records, answer_one=None, answer_two=None, check=None, count=1, **values):
    """Sends to "example", whose hosts may be 127.0.0.1 and 127.0.0.2 on one port; gives the deliveries and hosts."""

    async def main():
        usual = lambda _verb, _host: None  # noqa: E731
        async with (
            Host(answer_one or usual) as one,
            Host(answer_two or usual, address="127.0.0.2", port=one.port) as two,
        ):
            own = values.pop("own", None)
            if own:
                values["own"] = lambda: [Endpoint(own, one.port)]
            async with DnsServer(records) as dns, Outbox([dns.endpoint], port=one.port, **values) as outbox:
                for _ in range(count):
                    await outbox.send(delivery("example", "x@Example"))
                return outbox.done, one, two

    return asyncio.run(main())


BOTH = zone(("a", 10, "127.0.0.1"), ("b", 20, "127.0.0.2"))


def test_the_best_host_is_used():
    (one,), first, second = at_two_hosts(BOTH)
    assert (len(first.messages), second.connections) == (1, 0)
    assert one.facts[0].host.name == "a.example"


@pytest.mark.wish(22)
def test_the_next_host_when_the_first_does_not_answer_and_both_are_recorded():
    records = zone(("dead", 5, "127.0.0.3"), ("a", 10, "127.0.0.1"), ("b", 20, "127.0.0.2"))
    (one,), first, _ = at_two_hosts(records)
    assert judge(one.facts[0]).action is Action.RELAYED
    assert [(host.relay, host.reply) for host in one.hosts] == [
        (f"dead.example[127.0.0.3]:{first.port}", "connection refused"),
        (f"a.example[127.0.0.1]:{first.port}", "250 2.0.0 taken"),
    ]


@pytest.mark.parametrize("answer", [b"421 busy\r\n", b"554 no\r\n", b"521 no\r\n", CUT, b"rubbish\r\n"])
@pytest.mark.parametrize("stage", ["GREETING", "EHLO"])
def test_the_next_host_when_the_first_turns_us_away(stage, answer):
    (one,), _, second = at_two_hosts(BOTH, lambda verb, _: answer if verb in (stage, "HELO") else None)
    assert judge(one.facts[0]).action is Action.RELAYED
    assert len(second.messages) == 1
    assert [host.name for host in one.hosts] == ["a.example", "b.example"]


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("answer", [b"451 later\r\n", b"421 busy\r\n", CUT])
def test_the_next_host_when_the_first_refuses_for_now(stage, answer):
    deliveries, first, second = at_two_hosts(BOTH, lambda verb, _: answer if verb == stage else None, count=2)
    assert [judge(each.facts[0]).action for each in deliveries] == [Action.RELAYED] * 2
    assert len(second.messages) == 2
    assert first.connections >= 1, "the second message asks the better host first"
    assert [host.name for host in deliveries[1].hosts] == ["a.example", "b.example"]


@pytest.mark.parametrize(("stage", "answer"), [("RCPT", b"550 5.1.1 no\r\n"), (".", b"451 later\r\n"), (".", CUT)])
def test_no_next_host_after_a_final_word_or_after_the_dot(stage, answer):
    (one,), _, second = at_two_hosts(BOTH, lambda verb, _: answer if verb == stage else None)
    assert judge(one.facts[0]).action is not Action.RELAYED
    assert second.connections == 0


def test_the_word_of_the_host_stands_when_the_others_do_not_answer():
    records = zone(("a", 10, "127.0.0.1"), ("dead", 20, "127.0.0.3"))
    (one,), _, _ = at_two_hosts(records, lambda verb, _: b"450 4.2.0 greylisted\r\n" if verb == "RCPT" else None)
    assert one.facts[0].reply.code == 450
    assert [host.name for host in one.hosts] == ["a.example", "dead.example"]


def test_only_refused_recipients_go_to_the_next_host():
    async def main():
        def choosy(verb, host):
            return b"451 later\r\n" if verb == "RCPT" and "z@" in host.commands[-1] else None

        async with (
            Host(choosy) as one,
            Host(address="127.0.0.2", port=one.port) as two,
            DnsServer(BOTH) as dns,
            Outbox([dns.endpoint], port=one.port) as outbox,
        ):
            facts = await outbox.send(delivery("example", "x@y", "z@y"))
            assert [fact.host.name for fact in facts] == ["a.example", "b.example"]
            assert [recipients for _, recipients, _ in two.messages] == [["z@y"]]

    asyncio.run(main())


def test_hosts_of_the_same_preference_share_the_work():
    equal = zone(("a", 10, "127.0.0.1"), ("b", 10, "127.0.0.2"))
    used = set()
    for seed in range(8):
        (one,), _, _ = at_two_hosts(equal, seed=seed)
        used.add(one.facts[0].host.name)
    assert used == {"a.example", "b.example"}


def test_a_bound_on_the_addresses_tried():
    records = zone(*((f"dead{n}", n, f"127.0.0.{n + 3}") for n in range(8)))
    (one,), _, _ = at_two_hosts(records, addresses=3)
    assert [host.name for host in one.hosts] == ["dead0.example", "dead1.example", "dead2.example"]
    assert judge(one.facts[0])[:2] == (Action.DELAYED, "4.4.1")
    assert health(one) is SiteHealth.DEAD


def test_one_host_that_may_answer_later_is_reason_to_come_again():
    records = zone(("dead", 5, "127.0.0.3"), ("a", 10, "127.0.0.1"))
    (one,), _, _ = at_two_hosts(records, lambda verb, _: b"521 no\r\n" if verb == "GREETING" else None)
    assert judge(one.facts[0]).action is Action.DELAYED


@pytest.mark.parametrize(
    ("setting", "order"),
    [
        ("ipv6-first", ["::1", "127.0.0.1"]),
        ("ipv4-first", ["127.0.0.1", "::1"]),
        ("ipv4-only", ["127.0.0.1"]),
        ("ipv6-only", ["::1"]),
    ],
)
def test_families(setting, order):
    records = {("example", "A"): [A("127.0.0.1")], ("example", "AAAA"): [AAAA("::1")]}
    (one,), _, _ = at_two_hosts(records, lambda verb, _: CUT if verb == "GREETING" else None, ip=setting)
    assert [host.address for host in one.hosts] == order


@pytest.mark.parametrize(
    ("records", "trouble", "verdict"),
    [
        ({("example", "MX"): [MX(".", 0)]}, Trouble.NULL_MX, (Action.FAILED, "5.1.10")),
        ({}, Trouble.NO_HOST, (Action.FAILED, "5.1.2")),
        ({("example", "MX"): [MX("nowhere.example", 5)]}, Trouble.NO_HOST, (Action.FAILED, "5.1.2")),
        ({("example", "MX"): RCODE.SERVFAIL}, Trouble.DNS_FAILURE, (Action.DELAYED, "4.4.3")),
        ({("example", "MX"): SILENT}, Trouble.DNS_FAILURE, (Action.DELAYED, "4.4.3")),
        (
            {("example", "MX"): [MX("a.example", 5)], ("a.example", "A"): RCODE.SERVFAIL},
            Trouble.DNS_FAILURE,
            (Action.DELAYED, "4.4.3"),
        ),
    ],
)
def test_what_names_can_say(records, trouble, verdict):
    (one,), _, _ = at_two_hosts(records)
    assert (one.facts[0].stage, one.facts[0].trouble) == (Stage.RESOLVE, trouble)
    assert judge(one.facts[0])[:2] == verdict
    assert one.hosts == []


@pytest.mark.parametrize("records", [{}, {("example", "MX"): [MX(".", 0)]}, {("example", "MX"): [MX("no.example", 5)]}])
def test_a_configured_next_hop_that_does_not_exist_is_no_fault_of_the_mail(records):
    async def main():
        async with DnsServer(records) as dns, Outbox([dns.endpoint]) as outbox:
            one = delivery("example:2525", "x@y.example", "x@example")
            await outbox.send(one)
            assert [fact.trouble for fact in one.facts] == [Trouble.NO_RELAY] * 2
            assert judge(one.facts[0])[:2] == (Action.DELAYED, "4.4.4")
            assert judge(one.facts[0]).reason.startswith("the next hop that is configured does not exist")
            assert health(one) is SiteHealth.DEAD
            shared = delivery("example", "x@y.example", "x@example")
            await outbox.send(shared)
            assert [judge(fact).action for fact in shared.facts] == [Action.DELAYED, Action.FAILED]

    asyncio.run(main())


def test_an_address_as_next_hop_is_not_looked_up_with_and_without_brackets():
    async def main():
        async with Host() as host, DnsServer({}) as dns, Outbox([dns.endpoint]) as outbox:
            for hop in (f"127.0.0.1:{host.port}", f"[127.0.0.1]:{host.port}"):
                facts = await outbox.send(delivery(hop))
                assert judge(facts[0]).action is Action.RELAYED
            assert outbox.resolver.questions == 0

    asyncio.run(main())


def test_a_mail_host_without_address_does_not_hide_the_others():
    records = zone(("a", 10, "127.0.0.1"))
    records["example", "MX"] = [MX("nowhere.example", 1), MX("a.example", 10)]
    (one,), _, _ = at_two_hosts(records)
    assert judge(one.facts[0]).action is Action.RELAYED


@pytest.mark.parametrize("how", [{"hostname": "b.example"}, {"own": "127.0.0.2"}])
def test_hosts_of_our_own_preference_and_worse_are_not_used(how):
    """RFC 5321 §5.1: b is ourselves."""
    records = zone(("dead", 5, "127.0.0.3"), ("b", 10, "127.0.0.2"), ("a", 10, "127.0.0.1"))
    (one,), first, second = at_two_hosts(records, **how)
    assert [host.name for host in one.hosts] == ["dead.example"]
    assert first.connections == second.connections == 0


def test_mail_for_which_we_are_the_best_host_ourselves_loops():
    (one,), _, _ = at_two_hosts(BOTH, hostname="A.example")
    assert one.facts[0].trouble is Trouble.LOOP
    assert judge(one.facts[0])[:2] == (Action.FAILED, "5.4.6")
