"""A stranger never hears 250 to a recipient that is not ours, however it writes it, whatever it does before.

Not by the server's own lights: the destinations are judged here by their letters.
"""

from __future__ import annotations

import asyncio
import base64

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.ingress.asking import Panel
from mailflow.ingress.policy.compiling import Policy, parts_of
from mailflow.ingress.policy.settings import PolicySettings
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Verdict
from mailflow.net.dns import DnsTemporary
from tests.attack.rig import NETWORKS, Talk
from tests.ingress.fakes import resolver
from tests.policy.play import FakeDns
from tests.policy.test_relay import POLICIES, TABLE, VERDICTS

OURS = {"example.test", "backup.test"}
FAR = "far.test"
OTHERS = [
    FAR,
    "example.test.far.test",
    "sub.example.test",
    "xexample.test",
    "example.tesť",
    "\u0435xample.test",
    "[192.0.2.1]",
    "[IPv6:2001:db8::1]",
    "[127.0.0.1]",
    "example.test.",
    "localhost",
    "mx.test",
    "EXAMPLE.TEST\u3002far.test",
    "behind.test",
]
LOCALS = [
    "alice",
    "postmaster",
    '"alice"',
    '"a b"',
    '"x@far.test"',
    r'"x\@far.test"',
    "x%far.test",
    "far.test!x",
    '"far.test!x"',
    "x%far.test%example.test",
    "",
    "@",
    "alice@far.test",
    '""',
    "a..b",
    "ålice",
    "alice+far.test",
    '"\\""',
]
DOMAINS = [*OURS, "EXAMPLE.test", "BackUp.TEST", "bac\u212aup.test", *OTHERS]
PATHS = st.one_of(
    st.builds("{}@{}".format, st.sampled_from(LOCALS), st.sampled_from(DOMAINS)),
    st.sampled_from(LOCALS),
    st.builds("@{}:{}@{}".format, st.sampled_from(DOMAINS), st.sampled_from(LOCALS), st.sampled_from(DOMAINS)),
    st.builds("@{0},@{1}:x@{0}".format, st.sampled_from(DOMAINS), st.sampled_from(DOMAINS)),
    st.builds("{}@{}@{}".format, st.sampled_from(LOCALS), st.sampled_from(DOMAINS), st.sampled_from(DOMAINS)),
    st.builds("{}%{}@{}".format, st.sampled_from(LOCALS), st.sampled_from(DOMAINS), st.sampled_from(DOMAINS)),
    st.text(alphabet='abx@%!.:,"\\<>[] 1é', max_size=12),
)


def plain(text: str) -> bytes:
    return base64.b64encode(text.encode())


GREETINGS = [b"EHLO me.test", b"HELO me.test", b"LHLO me.test", b"EHLO [10.0.0.1]", b"EHLO example.test"]
STEPS = st.sampled_from(
    [
        *GREETINGS,
        b"RSET",
        b"STARTTLS",
        b"AUTH PLAIN " + plain("\0jo\0wrong"),
        b"AUTH PLAIN " + plain("\0\0"),
        b"AUTH LOGIN\r\n" + plain("jo") + b"\r\n" + plain("wrong"),
        b"AUTH LOGIN\r\n*",
        b"AUTH SCRAM-SHA-256 " + plain("n,,n=jo,r=abc") + b"\r\n" + plain("c=biws,r=abc,p=AAAA"),
        b"AUTH XOAUTH2 " + plain("user=jo\1auth=Bearer bad\1\1") + b"\r\n",
        b"AUTH PLAIN",
        b"XCLIENT ADDR=10.0.0.1 LOGIN=jo",
        b"XCLIENT LOGIN=jo",
        b"XFORWARD ADDR=10.0.0.1 NAME=x.example.test",
        b"MAIL FROM:<alice@example.test> AUTH=jo",
        b"MAIL FROM:<> SIZE=10",
        b"MAIL FROM:<joe@there.test> SMTPUTF8",
        b"VRFY <x@far.test>",
        b"ETRN far.test",
        b"BDAT 3 LAST\r\nabc",
        b"DATA\r\n.",
        b"NOOP",
        b"*",
    ]
)


def is_ours(address: str, behind: bool) -> bool:
    """By its letters: a bare postmaster, or a domain of ours with a local part that names no other place."""
    local, at, domain = address.rpartition("@")
    if not at:
        return address.lower() == "postmaster"
    domain = domain.replace("\u212a", "k").lower()
    if domain == "example.test":
        return local.lower() in ("alice", "bob", "postmaster")
    return (domain == "backup.test" or (behind and domain == "behind.test")) and not set("%!@") & set(local)


class Slow:
    """A hook that has to wait and objects to nothing."""

    def __init__(self, stage: Stage, verdict: object) -> None:
        self.stages, self.verdict = {stage}, verdict

    def at(self, _stage):
        async def ask():
            await asyncio.sleep(0)
            return self.verdict

        return lambda _: ask()


SLOW = st.builds(
    Slow, st.sampled_from(list(Stage)), st.sampled_from([None, Verdict(Action.PERMIT), Verdict(Action.HOLD)])
)
DNS = {
    "mx far.test": DnsTemporary("x"),
    "mx behind.test": [(10, "mx.behind.test"), (20, "mx.test")],
    "a mx.behind.test": ["198.51.100.1"],
    "mx mx.test": [(10, "mx.test")],
}


def panel_of(policy: PolicySettings, verdict: object, hooks: list[Slow]) -> Panel:
    parts = parts_of(policy, NETWORKS, ["mx.test"], resolver(), FakeDns(DNS), {"t": TABLE})
    compiled = Policy(parts, lambda *_: lambda _: verdict)
    return Panel([*compiled.guards(), *hooks], (), 5.0, relays=compiled.relays(), modes=policy.modes)


async def attack(talk: Talk, steps: list[bytes], paths: list[str], *, behind: bool = False) -> int:
    """Says all of it, and sees to it that nobody is taken who is not ours. Gives the number of those taken."""
    await talk.settle()
    talk.hear()
    taken = 0
    for number in range(max(len(steps), len(paths))):
        said = steps[number : number + 1]
        if number < len(paths):
            said += [f"RCPT TO:<{paths[number]}>".encode()]
        for line in said:
            await talk.say(line + b"\r\n")
            if talk.core.upgrading:
                talk.secured()
            for each in talk.session.recipients:
                assert is_ours(each.address, behind), (each, line)
                assert is_ours(each.original or each.address, behind), (each, line)
            taken = max(taken, len(talk.session.recipients))
    for each in talk.intake.begun:
        assert all(is_ours(recipient.address, behind) for recipient in each.envelope.recipients)
        assert not each.envelope.trusted
    assert not talk.session.trusted
    talk.session.closed()
    return taken


@settings(max_examples=250, deadline=None)
@given(
    policy=POLICIES,
    backup=st.booleans(),
    verdict=VERDICTS,
    hooks=st.lists(SLOW, max_size=2),
    address=st.sampled_from(["192.0.2.7", "", "2001:db8::7", "::ffff:192.0.2.7", "11.0.0.1", "0.0.0.0"]),
    lmtp=st.booleans(),
    tls=st.sampled_from(["no", "offer", "require"]),
    auth=st.booleans(),
    clear=st.booleans(),
    proxies=st.sampled_from([[], ["10.0.0.0/8"]]),
    steps=st.lists(STEPS, max_size=10),
    paths=st.lists(PATHS, min_size=1, max_size=8),
)
def test_no_stranger_relays(policy, backup, verdict, hooks, address, lmtp, tls, auth, clear, proxies, steps, paths):
    if backup:
        networks = PolicySettings(backup_mx_networks=["198.51.100.0/24"]).backup_mx_networks
        policy = policy.model_copy(update={"backup_mx_networks": networks})

    async def run():
        panel = panel_of(policy, verdict, hooks)
        talk = Talk(address, panel=panel, lmtp=lmtp, tls=tls, auth=auth, clear=clear, proxies=proxies)
        first = [b"LHLO me.test" if lmtp else b"EHLO me.test", b"MAIL FROM:<joe@there.test>"]
        if tls == "require":
            first = [first[0], b"STARTTLS", *first]
        await attack(talk, [*first, *steps], ["alice@example.test"] * 4 + paths, behind=backup)

    asyncio.run(run())


@pytest.mark.parametrize(
    "steps",
    [
        [b"AUTH PLAIN " + plain("\0jo\0right"), b"XCLIENT ADDR=192.0.2.7"],
        [b"XCLIENT ADDR=192.0.2.9 LOGIN=jo", b"XCLIENT ADDR=192.0.2.7"],
        [b"XCLIENT ADDR=192.0.2.9 LOGIN=jo", b"EHLO x", b"STARTTLS"],
        [b"XCLIENT ADDR=[UNAVAILABLE]"],
        [b"XCLIENT ADDR=10.0.0.9", b"XCLIENT NAME=x ADDR=[TEMPUNAVAIL]"],
        [b"XCLIENT ADDR=IPv6:::ffff:192.0.2.7"],
        [b"XCLIENT NAME=good.test HELO=good.test ADDR=192.0.2.7"],
    ],
)
@pytest.mark.parametrize("everyone", [False, True])
def test_a_stranger_whom_a_trusted_gateway_presents_does_not_relay(steps, everyone):
    async def run():
        talk = Talk("10.0.0.1", proxies=["10.0.0.0/8"], everyone=everyone)
        assert talk.session.trusted
        await talk.settle()
        for step in [b"EHLO gw.test", *steps]:
            await talk.say(step + b"\r\n")
            if talk.core.upgrading:
                talk.secured()
        first = [b"EHLO me.test", b"MAIL FROM:<joe@there.test>"]
        assert await attack(talk, first, ["", "", "x@far.test", "x%far.test@backup.test", "alice@example.test"]) == 1

    asyncio.run(run())


def test_who_has_logged_in_relays_until_tls_begins_anew():
    async def run():
        talk = Talk("192.0.2.7")
        login = b"AUTH PLAIN " + plain("\0jo\0right")
        said = await talk.say(b"EHLO x\r\n" + login + b"\r\n")
        assert said[-1].startswith("235 ")
        for again in (b"RSET\r\n", b"EHLO y\r\n", b"HELO y\r\n", b""):
            said = await talk.say(again + b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@far.test>\r\nRSET\r\n")
            assert said[-2].startswith("250 2.1.5"), said
        await talk.say(b"EHLO y\r\nSTARTTLS\r\n")
        talk.secured()
        said = await talk.say(b"EHLO y\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@far.test>\r\n")
        assert said[-1] == "554 5.7.1 Relay access denied"
        said = await talk.say(b"RSET\r\n" + login[:-4] + b"\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@far.test>\r\n")
        assert said[-1] == "554 5.7.1 Relay access denied", said

    asyncio.run(run())


@given(st.sampled_from(OTHERS[:-1]), st.sampled_from(LOCALS))
@example("example.test.", "alice")
def test_the_judge_of_this_file_knows_strangers(domain, local):
    assert not is_ours(f"{local}@{domain}", behind=True)
