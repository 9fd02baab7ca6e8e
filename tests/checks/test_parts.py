"""The checks of a server: from the settings to guards and rules, and in sessions over sockets."""

from __future__ import annotations

import asyncio
import sys
import types
from contextlib import asynccontextmanager

import pytest
from dnslib import A

from mailflow.errors import ConfigError
from mailflow.hooks.decisions import Edited, accept, defer, discard, hold, reject
from mailflow.hooks.plain import plain
from mailflow.ingress.asking import Panel
from mailflow.ingress.checks.hook import PolicyHook
from mailflow.ingress.checks.parts import GREYLIST_FILE, PERMIT, Checks
from mailflow.ingress.checks.settings import (
    DnsblSettings,
    GreylistSettings,
    PolicyHookSettings,
    PolicyServiceSettings,
)
from mailflow.ingress.listener import Listener
from mailflow.ingress.settings import LimitsSettings, ListenerSettings
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Verdict
from mailflow.net.dns import Resolver
from mailflow.net.settings import DnsSettings
from mailflow.settings import Settings
from mailflow.smtp.reply import reply
from tests.checks.fakes import FakeSituation, answer, in_loop
from tests.checks.policy_server import PolicyServer
from tests.ingress.fakes import Client, FakeIntake, FakeLog, resolver
from tests.net.dns_server import DnsServer

NO = Verdict(Action.REFUSE, reply(550, "5.7.1", "No"))
ZONE = {
    ("99.2.0.192.bad.example", "A"): [A("127.0.0.2")],
    ("98.2.0.192.good.example", "A"): [A("127.0.0.2")],
    ("mail.bad.test.helo.example", "A"): [A("127.0.0.2")],
}
LISTS = [{"zone": "bad.example"}, {"zone": "good.example", "weight": -1}, {"zone": "helo.example", "kind": "helo"}]


@pytest.fixture
def functions():
    module = types.ModuleType("functions_of_a_test")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@asynccontextmanager
async def checks(tmp_path, *, dnsbl=(), greylist="never", services=(), hooks=(), log=None, **more):
    async with DnsServer(dict(ZONE)) as server:
        dns = Resolver(DnsSettings(nameservers=[server.endpoint], timeout="10s", tries=1))
        it = Checks(
            DnsblSettings(list=list(dnsbl), self_test="0s", **more),
            GreylistSettings(use=greylist),
            [PolicyServiceSettings(**service) for service in services],
            [PolicyHookSettings(**hook) for hook in hooks],
            dns=dns,
            log=log or FakeLog(),
            spool=tmp_path,
        )
        try:
            await it.start()
            yield it
        finally:
            await it.close()
            await dns.close()


async def asked(guards, stage, *about, **more) -> list[str]:
    """What all guards of a stage say."""
    found = [await answer(guard.at(stage)(FakeSituation(*about, **more))) for guard in guards if stage in guard.stages]
    return [verdict.reply.text if verdict else "" for verdict in found]


@in_loop
async def test_without_settings_there_are_no_guards_and_no_file(tmp_path):
    async with checks(tmp_path) as it:
        assert it.guards == []
        assert list(tmp_path.iterdir()) == []


@in_loop
async def test_guards_in_their_order(tmp_path, functions):
    functions.no = lambda _situation: NO
    async with PolicyServer(lambda _request: b"action=DEFER\n\n") as server:
        services = [{"address": server.address, "stages": ["mail", "rcpt"]}]
        hooks = [{"call": "functions_of_a_test:no", "stages": ["rcpt", "end-of-data"]}]
        async with checks(
            tmp_path, dnsbl=LISTS, greylist="always", services=services, hooks=hooks, reasons=False
        ) as it:
            guards = it.guards
            assert await asked(guards, Stage.RCPT) == [
                "554 5.7.1 Client [192.0.2.99] is listed by bad.example",
                "450 4.7.1 Greylisted, try again in 300 seconds",
                "450 4.7.1 Refused by policy",
                "550 5.7.1 No",
            ]
            assert await asked(guards, Stage.MAIL) == ["450 4.7.1 Refused by policy"]
            assert await asked(guards, Stage.END) == ["550 5.7.1 No"]
            assert await asked(guards, Stage.RCPT, trusted=True) == ["", "", "", "550 5.7.1 No"]
            assert {request["protocol_state"] for request in server.requests} == {"RCPT", "MAIL"}
            # an allow list spares from greylisting
            assert (await asked(guards, Stage.RCPT, "192.0.2.98"))[1] == ""
    assert (tmp_path / GREYLIST_FILE).exists()


@in_loop
async def test_by_rule_means_no_guards(tmp_path, functions):
    functions.no = lambda _situation: NO
    services = [{"address": "inet:127.0.0.1:9", "use": "by_rule"}]
    hooks = [{"call": "functions_of_a_test:no", "use": "by_rule"}]
    async with checks(tmp_path, dnsbl=LISTS, greylist="by_rule", services=services, hooks=hooks, use="by_rule") as it:
        assert it.guards == []


@in_loop
async def test_checks_for_rules(tmp_path, functions):
    functions.no = lambda _situation: NO
    async with PolicyServer(lambda _request: b"action=OK\n\n") as server:
        services = [
            {"address": server.address, "use": "by_rule"},
            {"address": server.address, "name": "b", "use": "by_rule"},
        ]
        hooks = [{"call": "functions_of_a_test:no", "use": "by_rule"}]
        async with checks(tmp_path, dnsbl=LISTS, greylist="by_rule", services=services, hooks=hooks) as it:

            async def ask(name, argument="", *about, stage=Stage.RCPT, **more):
                return await answer(it.check(name, argument, stage)(FakeSituation(*about, **more)))

            assert (await ask("reject_dnsbl")).reply.code == 554
            assert await ask("permit_dnswl") is None
            assert await ask("permit_dnswl", "", "192.0.2.98") == PERMIT
            assert await ask("permit_dnswl", "", "192.0.2.98") == PERMIT  # from the cache
            assert (await ask("greylist")).reply.code == 450
            assert await ask("check_policy_service", "b", stage=Stage.HELO, trusted=True) == PERMIT
            assert server.requests[0]["protocol_state"] == "EHLO"
            assert (await ask("hook")).reply.text == "550 5.7.1 No"
            with pytest.raises(ValueError, match=r'accepted: "inet:.*", "b"'):
                it.check("check_policy_service")
            with pytest.raises(ValueError, match="accepted"):
                it.check("hook", "other")
            with pytest.raises(ValueError, match="no check"):
                it.check("something")


@in_loop
async def test_checks_that_the_settings_do_not_provide_for(tmp_path):
    async with checks(tmp_path) as it:
        for name in ("reject_dnsbl", "permit_dnswl", "greylist", "check_policy_service", "hook"):
            with pytest.raises(ValueError, match=r"accepted: "):
                it.check(name)


@in_loop
async def test_the_lists_are_tested_when_the_server_starts(tmp_path):
    log = FakeLog()
    async with DnsServer({("1.0.0.127.bad.example", "A"): [A("127.0.0.2")]}) as server:
        dns = Resolver(DnsSettings(nameservers=[server.endpoint], timeout="10s", tries=1))
        lists = DnsblSettings(list=[{"zone": "bad.example"}])
        it = Checks(lists, GreylistSettings(), [], [], dns=dns, log=log, spool=tmp_path)
        await it.start()
        async with asyncio.timeout(10):
            while not log.events:
                await asyncio.sleep(0)
        assert "left out" in str(log.named("warning")[0]["reason"])
        await it.close()
        await dns.close()


@in_loop
async def test_a_greylist_file_that_cannot_be_opened(tmp_path):
    (tmp_path / GREYLIST_FILE).mkdir()
    with pytest.raises(ConfigError, match="greylist"):
        async with checks(tmp_path, greylist="always"):
            pass


# Functions


def hook(call: str, **more) -> PolicyHook:
    return PolicyHook(PolicyHookSettings(call=call, **more))


@in_loop
async def test_functions_may_wait_or_not(functions):
    async def later(situation):
        await asyncio.sleep(0)
        return NO if situation.sender else None

    functions.later = later
    functions.now = lambda _situation: NO._replace(rule="my own")
    it = hook("functions_of_a_test:later", name="late")
    assert await answer(it.ask(FakeSituation())) == NO._replace(rule="late")
    assert await answer(it.ask(FakeSituation(sender=""))) is None
    assert hook("functions_of_a_test:now").ask(FakeSituation()).rule == "my own"


@in_loop
async def test_functions_that_hang_or_answer_nonsense(functions):
    functions.hang = lambda _situation: asyncio.Event().wait()
    functions.nonsense = lambda _situation: 550
    with pytest.raises(TimeoutError):
        await answer(hook("functions_of_a_test:hang", time_limit="10ms").ask(FakeSituation()))
    with pytest.raises(TypeError, match="int"):
        hook("functions_of_a_test:nonsense").ask(FakeSituation())


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (accept(), None),
        (reject("No"), (Action.REFUSE, reply(550, "5.7.1", "No"), "")),
        (defer("Bye", code=421, status="4.7.0"), (Action.CLOSE, reply(421, "4.7.0", "Bye"), "")),
        (discard(), (Action.DISCARD, None, "")),
        (hold("odd"), (Action.HOLD, None, "odd")),
    ],
)
def test_functions_may_answer_decisions(functions, decision, expected):
    functions.decide = lambda _situation: decision
    it = PolicyHook(PolicyHookSettings(call="functions_of_a_test:decide"), plain)
    found = it.ask(FakeSituation())
    assert (found if found is None else found[:3]) == expected


def test_functions_cannot_edit(functions):
    functions.edit = lambda _situation: Edited(sender="")
    with pytest.raises(TypeError, match="Edited"):
        PolicyHook(PolicyHookSettings(call="functions_of_a_test:edit"), plain).ask(FakeSituation())


def test_functions_that_are_not_there(functions, tmp_path):
    functions.number = 5
    for call, words in (
        ("no_such_module:x", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("functions_of_a_test:x", "has no function x"),
        ("functions_of_a_test:number", "has no function number"),
    ):
        with pytest.raises(ValueError, match=words):
            hook(call)
        settings = [PolicyHookSettings(call="os:getcwd"), PolicyHookSettings(call=call)]
        with pytest.raises(ConfigError, match=rf"policy_hook\[1\].call: .*{words}"):
            Checks(DnsblSettings(), GreylistSettings(), [], settings, dns=None, log=FakeLog(), spool=tmp_path)


# The settings


def problems(**sections) -> str:
    with pytest.raises((ConfigError, ValueError)) as error:
        Settings(hostname="mx.test", control={"enabled": False}, **sections).verify()
    return str(error.value)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"dnsbl": {"list": [{"zone": "no zone"}]}}, "zone"),
        ({"dnsbl": {"list": [{"zone": "bad.example", "replies": ["127.0.0.x"]}]}}, "reply filter"),
        ({"dnsbl": {"reject_at": 2, "defer_at": 2}}, "less than reject_at"),
        ({"greylist": {"delay": "3d"}}, "shorter than retry_window"),
        ({"policy_service": [{"address": "x"}]}, "inet:"),
        ({"policy_service": [{"address": "unix:/a"}, {"address": "unix:/b", "name": "unix:/a"}]}, "already"),
        ({"policy_service": [{"address": "unix:/a", "default_action": "HM"}]}, "unknown action HM"),
        ({"policy_hook": [{"call": "a:b"}, {"call": "a:b"}]}, "already"),
        ({"policy_hook": [{"call": "a.b"}]}, "module:function"),
        ({"policy": {"rcpt": ["reject_dnsbl"]}}, "policy.rcpt[0].check: reject_dnsbl has no list to ask"),
        ({"policy": {"set": {"x": {"data": ["greylist"]}}}}, "policy.set.x.data[0].check: greylisting is off"),
        ({"policy": {"rcpt": ["hook"]}}, "which [[policy_hook]] is meant? (accepted: a [[policy_hook]])"),
        (
            {"policy": {"rcpt": ["check_policy_service b"]}, "policy_service": [{"address": "unix:/a", "name": "a"}]},
            'there is no [[policy_service]] "b" (accepted: "a")',
        ),
    ],
)
def test_mistakes(sections, words):
    assert words in problems(**sections)


# In sessions


@asynccontextmanager
async def listening(it: Checks, log: FakeLog, intake: FakeIntake | None = None):
    listener = Listener(
        [ListenerSettings(bind="127.0.0.1:0")],
        LimitsSettings(),
        hostname="mx.test",
        networks=[],
        recipients=resolver(),
        intake=intake or FakeIntake(),
        log=log,
        panel=lambda _listener: Panel(it.guards),
    )
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


@in_loop
async def test_a_client_with_a_listed_name_is_refused_for_each_recipient(tmp_path):
    log = FakeLog()
    async with (
        checks(tmp_path, dnsbl=LISTS, reasons=False) as it,
        listening(it, log) as listener,
        await Client.connect(listener) as client,
    ):
        await client.reply()
        await client.say(b"EHLO mail.bad.test")
        await client.say(b"MAIL FROM:<joe@there.test>")
        for name in (b"alice", b"bob"):
            refused = await client.say(b"RCPT TO:<" + name + b"@example.test>")
            assert refused == "554 5.7.1 HELO name mail.bad.test is listed by helo.example"
        await client.say(b"EHLO good.test")
        await client.say(b"MAIL FROM:<joe@there.test>")
        assert (await client.say(b"RCPT TO:<alice@example.test>"))[:3] == "250"
    rejected = log.named("reject")[0]
    assert (rejected["rule"], rejected["why"]) == ("reject_dnsbl", "score 1 (helo.example +1)")


@in_loop
async def test_a_policy_service_sees_the_recipients_of_a_message_together_and_may_mark_it(tmp_path):
    def say(request):
        return b"action=PREPEND X-Seen: %s\n\n" % request["recipient"].encode()

    intake = FakeIntake()
    async with (
        PolicyServer(say) as server,
        checks(tmp_path, services=[{"address": server.address}]) as it,
        listening(it, FakeLog(), intake) as listener,
        await Client.connect(listener) as client,
    ):
        await client.greet()
        for _ in range(2):
            client.send(b"MAIL FROM:<joe@there.test>\r\nRCPT TO:<alice@example.test>\r\nRCPT TO:<bob@example.test>\r\n")
            assert [(await client.reply())[:3] for _ in range(3)] == ["250"] * 3
            await client.say(b"DATA")
            await client.say(b"Subject: x\r\n\r\nx\r\n.")
    headers = [incoming.envelope.header for incoming in intake.accepted]
    assert headers == [b"X-Seen: alice@example.test\r\nX-Seen: bob@example.test\r\n"] * 2
    first, second = server.requests[:2], server.requests[2:]
    assert first[0]["instance"] == first[1]["instance"]
    assert second[0]["instance"] == second[1]["instance"] != first[0]["instance"]
    assert first[0]["client_address"] == "127.0.0.1"
