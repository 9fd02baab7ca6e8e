"""What a session does for few clients, and what MAIL's parameters become in the envelope."""

from __future__ import annotations

import asyncio

import pytest

from mailflow.envelope import Options, Peer
from mailflow.ingress.desk import Desk
from mailflow.ingress.policy.relay import RelayControl
from mailflow.ingress.services import Services
from mailflow.ingress.session import Session
from mailflow.setting import parse_network
from mailflow.smtp.profile import Offers, Profile
from mailflow.smtp.server import ServerCore
from tests.ingress.fakes import RELAY, FakeIntake, FakeLog, FakeSites, resolver
from tests.ingress.test_dialogues import NoWire

NOW = 1_000_000.0
ALL = Offers(mechanisms=("PLAIN",), binarymime=True, requiretls=True, deliver_by=1, hold=True, etrn=True, personal=True)
LOOPBACK = RelayControl([parse_network("127.0.0.0/8")])


class Talk:
    """A session in memory, its clock standing still."""

    def __init__(self, *, trusted: bool = True, address: str = "127.0.0.1", **services: object) -> None:
        self.intake, self.log, self.sites = FakeIntake(), FakeLog(), FakeSites()
        given = {"hold_limit": 3600.0, "etrn_domains": {"backup.test"}, "sites": self.sites} | services
        speakers = {"XCLIENT": LOOPBACK, "XFORWARD": LOOPBACK}
        desk = Desk(
            resolver(),
            self.intake,
            RelayControl(RELAY.networks if trusted else []),
            self.log,
            100,
            services=Services(resolver(), speakers, now=lambda: NOW, **given),  # type: ignore[arg-type]
        )
        self.profiles = {trusted: Profile("mx.test", message_size=10**6, offers=ALL) for trusted in (False, True)}
        desk.profile = lambda session: self.profiles[session.trusted]
        self.wire = NoWire()
        self.session = Session(desk, self.wire, address, 4321)
        self.core = ServerCore(self.profiles[self.session.trusted], self.session)
        self.core.take()

    def say(self, text: str) -> list[str]:
        self.core.feed(text.replace("\n", "\r\n").encode())
        return self.core.take().decode().splitlines()

    def envelope(self, mail: str, before: str = ""):
        said = self.say(f"{before}EHLO me.test\n{mail}\nRCPT TO:<alice@example.test>\nDATA\nx\n.\n")
        assert said[-1].startswith("250 2.0.0"), said
        return self.intake.accepted[-1].envelope


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("", Options()),
        ("SIZE=1", Options()),
        ("BODY=8BITMIME RET=HDRS ENVID=x+2B", Options("8BITMIME", ret="HDRS", envid="x+2B")),
        ("REQUIRETLS", Options(requiretls=True)),
        ("BY=60;RT", Options(by=NOW + 60, by_mode="RT")),
        ("BY=-60;N", Options(by=NOW - 60, by_mode="N")),
        ("AUTH=jo+40x.test", Options(auth="jo+40x.test")),
        ("REQUIRETLS SMTPUTF8 RET=FULL BY=1;R", Options("", True, "FULL", "", True, NOW + 1, "R")),
    ],
)
def test_parameters_become_options(words, options):
    assert Talk().envelope(f"MAIL FROM:<a@me.test> {words}").options == options


def test_auth_of_strangers_is_nobody():
    """RFC 4954 §5."""
    assert Talk(trusted=False).envelope("MAIL FROM:<a@me.test> AUTH=jo+40x.test").options.auth == "<>"
    assert Talk(trusted=False).envelope("MAIL FROM:<a@me.test>").options.auth == ""


@pytest.mark.parametrize(
    ("words", "release"),
    [
        ("", 0.0),
        ("HOLDFOR=60", NOW + 60),
        ("HOLDFOR=3600", NOW + 3600),
        ("HOLDUNTIL=1970-01-12T13:50:00Z", 1_000_200.0),
    ],
)
def test_future_release(words, release):
    assert Talk().envelope(f"MAIL FROM:<a@me.test> {words}").release == release


@pytest.mark.parametrize(
    ("trusted", "submission", "limit", "announced"),
    [(True, False, 3600.0, True), (False, True, 3600.0, True), (False, False, 3600.0, False), (True, True, 0.0, False)],
)
def test_future_release_is_announced_to_whom_it_is_for(trusted, submission, limit, announced):
    talk = Talk(trusted=trusted, submission=submission, hold_limit=limit)
    lines = [line[4:] for line in talk.say("EHLO me.test\n") if "FUTURERELEASE" in line]
    assert lines == ["FUTURERELEASE 3600 1970-01-12T14:46:40Z"] * announced
    if not trusted:  # before a login nobody may use it
        assert talk.say("MAIL FROM:<a@me.test> HOLDFOR=1\n")[0].startswith("550 5.7.1")


def test_what_is_kept_of_dsn():
    """RFC 3461: RET, ENVID, NOTIFY and ORCPT reach the envelope as they were said."""
    talk = Talk()
    talk.say(
        "EHLO me.test\nMAIL FROM:<a@me.test> RET=FULL ENVID=a+2Bb\n"
        "RCPT TO:<alice@example.test> NOTIFY=success,DELAY ORCPT=rfc822;Al+40x.test\nRCPT TO:<bob@example.test> NOTIFY=NEVER\nDATA\n.\n"
    )
    envelope = talk.intake.accepted[0].envelope
    assert (envelope.options.ret, envelope.options.envid) == ("FULL", "a+2Bb")
    assert [(r.notify, r.orcpt) for r in envelope.recipients] == [
        ("SUCCESS,DELAY", "rfc822;Al+40x.test"),
        ("NEVER", ""),
    ]


# For others


def test_xclient_makes_another_client():
    talk = Talk()
    talk.session.identify(tls="TLSv1.3", certificate="ab:cd")
    said = talk.say("EHLO proxy.test\nXCLIENT ADDR=192.0.2.7 PORT=99 NAME=spike.test PROTO=SMTP HELO=spike\n")
    assert said[-1].startswith("220 ")
    assert talk.session.peer == Peer("192.0.2.7", 99, "spike.test", "spike", "SMTP", tls="TLSv1.3", via="127.0.0.1")
    assert not talk.session.trusted
    assert talk.core._profile is talk.profiles[False]
    assert talk.say("EHLO spike.test\nMAIL FROM:<a@x.test>\nRCPT TO:<b@elsewhere.test>\n")[-1].startswith("554 5.7.1")


def test_xclient_with_a_login_and_without_an_address():
    talk = Talk(trusted=False)
    talk.say("EHLO x\nXCLIENT LOGIN=jo+40x.test ADDR=[UNAVAILABLE] NAME=[UNAVAILABLE]\n")
    assert talk.session.trusted
    assert (talk.session.peer.login, talk.session.peer.address) == ("jo@x.test", "")
    talk.say("EHLO x\nXCLIENT LOGIN=[UNAVAILABLE]\n")
    assert not talk.session.trusted


def test_the_login_of_a_proxy_is_not_its_clients():
    talk = Talk(trusted=False)
    talk.session.identify(login="proxy")
    assert talk.session.trusted
    talk.say("EHLO x\nXCLIENT ADDR=192.0.2.7\n")
    assert (talk.session.peer.login, talk.session.trusted) == ("", False)
    talk.say("XCLIENT LOGIN=jo\nXCLIENT NAME=spike.test\n")  # told in two commands
    assert talk.session.peer.login == "jo"


def test_the_entrance_decides_who_may_speak():
    talk = Talk(address="192.0.2.1")
    assert talk.say("HELO x\nXCLIENT ADDR=127.0.0.1\n")[-1] == "550 5.7.0 Not authorized"
    talk = Talk()
    talk.say("HELO x\nXCLIENT ADDR=192.0.2.1\n")
    assert talk.say("XCLIENT ADDR=192.0.2.2\n")[-1].startswith("220 ")


def test_xforward_is_for_the_record_only():
    talk = Talk()
    envelope = talk.envelope(
        "MAIL FROM:<a@me.test>", "EHLO f.test\nXFORWARD NAME=spike.test ADDR=192.0.2.7 HELO=s PROTO=SMTP\n"
    )
    assert envelope.peer == Peer("192.0.2.7", 4321, "spike.test", "s", "SMTP", via="127.0.0.1")
    assert envelope.trusted
    assert talk.session.peer.address == "127.0.0.1"
    second = talk.envelope("MAIL FROM:<b@me.test>", "XFORWARD HELO=t\n")
    assert (second.peer.helo, second.peer.address) == ("t", "127.0.0.1")


def test_a_message_limit_ends_the_session():
    talk = Talk()
    talk.session._desk.message_limit = 2
    for _ in range(2):
        talk.envelope("MAIL FROM:<a@me.test>")
    assert talk.say("MAIL FROM:<a@me.test>\n") == ["421 4.7.0 Too many messages in one session"]
    assert talk.core.closing


# ETRN


@pytest.mark.parametrize(
    ("trusted", "node", "answer"),
    [
        (False, "backup.test", "253"),
        (False, "@BACKUP.test", "251"),
        (False, "sub.backup.test", "459"),
        (False, "#backup.test", "459"),
        (False, "elsewhere.test", "459"),
        (True, "elsewhere.test", "251"),
        (True, "#smtp", "251"),
        (True, "broken.test", "458"),
    ],
)
def test_etrn(trusted, node, answer):
    async def ask():
        talk = Talk(trusted=trusted)
        answers: asyncio.Queue[str] = asyncio.Queue()
        talk.wire.answer = lambda reply: answers.put_nowait(reply.text)  # type: ignore[method-assign]
        said = talk.say(f"EHLO x\nETRN {node}\n")
        if talk.core.pending:
            said.append(await asyncio.wait_for(answers.get(), 10))
        return said[-1], talk.sites.asked

    said, asked = asyncio.run(ask())
    assert said.startswith(answer), said
    assert asked == ([] if answer == "459" else [node.lower()])
