"""Policy, counts and the session's envelope: values in, values out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.envelope import PLAIN, Options, Peer, Recipient
from mailflow.ingress.desk import Desk
from mailflow.ingress.limits import SessionCounts
from mailflow.ingress.policy.relay import CACHED_CLIENTS, RelayControl, check_recipient, check_sender
from mailflow.ingress.session import Session
from mailflow.ingress.timers import SessionTimer
from mailflow.setting import parse_network
from mailflow.smtp.commands import NO_MAIL_PARAMS, NO_RCPT_PARAMS, MailParams, RcptParams
from mailflow.smtp.handler import PENDING
from mailflow.smtp.replies import NO_TLS_FURTHER, START_DATA
from mailflow.smtp.reply import Reply, reply
from tests.ingress.fakes import NO_ROOM, RELAY, FakeIntake, FakeLog, resolver


class FakeWire:
    def __init__(self) -> None:
        self.told: list[object] = []

    def answer(self, answer: Reply) -> None:
        self.told.append(answer)

    def hold(self) -> None:
        self.told.append("hold")

    def go_on(self) -> None:
        self.told.append("go on")


def session(
    intake: FakeIntake, *, trusted: bool = True, wire: FakeWire | None = None, recipients: int = 1000
) -> Session:
    desk = Desk(resolver(), intake, RelayControl(RELAY.networks if trusted else []), FakeLog(), recipients)
    return Session(desk, wire or FakeWire(), "127.0.0.1", 4321)


@pytest.mark.parametrize(
    ("client", "trusted"),
    [
        ("192.0.2.1", True),
        ("192.0.3.1", False),
        ("::ffff:192.0.2.1", True),
        ("2001:db8::7", True),
        ("2001:db9::7", False),
        ("fe80::1%eth0", True),
        ("", False),
        ("nonsense", False),
    ],
)
def test_relay_control(client: str, trusted: bool) -> None:
    relay = RelayControl([parse_network(n) for n in ("192.0.2.0/24", "[2001:db8::]/32", "[fe80::]/10")])
    assert relay.trusts(client) is trusted
    assert relay.trusts(client) is trusted


def test_relay_control_remembers_a_bounded_number_of_clients() -> None:
    relay = RelayControl([parse_network("10.0.0.0/8")])
    for i in range(3 * CACHED_CLIENTS):
        assert relay.trusts(f"10.0.{i // 256}.{i % 256}")
    assert len(relay._known) <= CACHED_CLIENTS


@pytest.mark.wish(36)
def test_strangers_give_complete_addresses() -> None:
    assert [check_sender(s) is None for s in ("", "a@b", "a")] == [True, True, False]
    assert [check_recipient(r) is None for r in ("a@b", "postMaster", "a", "postmaster2")] == [True, True, False, False]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=60))
def test_counts_never_pass_their_limits(steps: list[tuple[bool, str]]) -> None:
    counts, model = SessionCounts(5, 3), dict.fromkeys("abc", 0)
    for admit, client in steps:
        if admit:
            fits = sum(model.values()) < 5 and model[client] < 3
            assert counts.admit(client) is fits
            model[client] += fits
        elif model[client]:
            counts.release(client)
            model[client] -= 1
    assert counts.total == sum(model.values())
    assert repr(counts) == f"<SessionCounts {counts.total}/5 clients={sum(n > 0 for n in model.values())}>"


@pytest.mark.wish(20)
@pytest.mark.wish(16)
def test_the_envelope_holds_all_that_was_said() -> None:
    intake = FakeIntake()
    one = session(intake)
    one.hello("EHLO", "client.test")
    one.mail("a@client.test", MailParams(9, "8BITMIME", ret="HDRS", envid="x"))
    one.rcpt("alice@example.test", RcptParams("NEVER", "rfc822;al"))
    one.rcpt("bob", NO_RCPT_PARAMS)
    assert one.data() == START_DATA
    one.chunk(b"x\r\n")
    assert one.end() == reply(250, "2.0.0", "Ok: queued as 1js8he3dc00")
    envelope = intake.accepted[0].envelope
    assert envelope.peer == Peer("127.0.0.1", 4321, "", "client.test", "ESMTP")
    assert (envelope.sender, envelope.trusted) == ("a@client.test", True)
    assert envelope.options == Options("8BITMIME", ret="HDRS", envid="x")
    assert envelope.recipients == [
        Recipient(0, "alice@example.test", "local:alice", "", "rfc822;al", "NEVER"),
        Recipient(0, "bob@example.test", "local:bob", "bob"),
    ]
    assert intake.accepted[0].content == b"x\r\n"


def test_the_client_record_is_one_object_for_all_messages() -> None:
    intake = FakeIntake()
    one = session(intake)
    one.hello("HELO", "client.test")
    for params in (NO_MAIL_PARAMS, MailParams(5), MailParams(smtputf8=True), NO_MAIL_PARAMS):
        one.mail("", params)
        one.rcpt("alice@example.test", NO_RCPT_PARAMS)
        one.data()
        one.end()
    peers = [incoming.envelope.peer for incoming in intake.accepted]
    assert peers[0] is peers[1] is peers[3]
    assert [peer.protocol for peer in peers] == ["SMTP", "SMTP", "UTF8SMTP", "SMTP"]
    options = [incoming.envelope.options for incoming in intake.accepted]
    assert options == [PLAIN, PLAIN, Options(smtputf8=True), PLAIN]
    assert options[1] is PLAIN


@pytest.mark.wish(61)
def test_a_full_disk_is_told_at_mail() -> None:
    one = session(FakeIntake(free=1000))
    assert one.mail("a@b", MailParams(1001)) == NO_ROOM
    assert one.mail("a@b", MailParams(1000)).code == 250


def test_a_queue_that_takes_nothing_is_told_at_data() -> None:
    intake = FakeIntake()
    intake.refusal = NO_ROOM
    one = session(intake)
    one.mail("a@b", NO_MAIL_PARAMS)
    one.rcpt("alice@example.test", NO_RCPT_PARAMS)
    assert one.data() == NO_ROOM


def test_the_answer_may_come_later() -> None:
    intake, wire = FakeIntake(answers=False), FakeWire()
    one = session(intake, wire=wire)
    one.mail("a@b", NO_MAIL_PARAMS)
    one.rcpt("alice@example.test", NO_RCPT_PARAMS)
    one.data()
    assert one.end() is PENDING
    assert wire.told == []
    intake.answer()
    assert wire.told == [reply(250, "2.0.0", "Ok: queued as 1js8he3dc00")]
    assert one.messages == 1


def test_the_answer_may_come_too_late() -> None:
    intake, wire = FakeIntake(answers=False), FakeWire()
    one = session(intake, wire=wire)
    one.mail("a@b", NO_MAIL_PARAMS)
    one.rcpt("alice@example.test", NO_RCPT_PARAMS)
    one.data()
    one.end()
    one.closed()
    intake.answer()
    assert wire.told == []
    assert intake.aborted == []


def test_a_message_in_progress_is_aborted_once() -> None:
    intake = FakeIntake()
    one = session(intake)
    one.mail("a@b", NO_MAIL_PARAMS)
    one.rcpt("alice@example.test", NO_RCPT_PARAMS)
    one.data()
    one.reset()
    one.reset()
    one.closed()
    assert len(intake.aborted) == 1


@pytest.mark.parametrize("ending", ["drain", "end", "reset"])
def test_reading_goes_on_however_a_held_message_ends(ending: str) -> None:
    intake, wire = FakeIntake(full_at=2), FakeWire()
    one = session(intake, wire=wire)
    one.mail("a@b", NO_MAIL_PARAMS)
    one.rcpt("alice@example.test", NO_RCPT_PARAMS)
    one.data()
    one.chunk(b"x")
    assert wire.told == []
    one.chunk(b"y")
    assert wire.told == ["hold"]
    if ending == "drain":
        assert intake.begun[0].on_drain is not None
        intake.begun[0].on_drain()
    elif ending == "end":
        one.end()
    else:
        one.reset()
    assert wire.told == ["hold", "go on"]


class FakeConnection:
    def __init__(self, *, patient: bool = False, closing: bool = False, opening: bool = False) -> None:
        self.quiet = self.age = 0
        self.patient, self.closing, self.opening = patient, closing, opening
        self.fate = ""

    def expire(self) -> None:
        self.fate = "expired"

    def cut(self) -> None:
        self.fate = "cut"


def sweeps_until(timer: SessionTimer, connection: FakeConnection, *, lively: bool = False) -> int:
    """Sweeps that a connection survives; 1000 = all of them."""
    for count in range(1000):
        if connection.fate:
            return count
        if lively:
            connection.quiet = 0
        timer.sweep()
    return 1000


@pytest.mark.parametrize(
    ("connection", "lively", "sweeps", "fate"),
    [
        (FakeConnection(), False, 301, "expired"),
        (FakeConnection(), True, 601, "expired"),
        (FakeConnection(patient=True), False, 1000, ""),
        (FakeConnection(closing=True), False, 16, "cut"),
        (FakeConnection(opening=True), False, 31, "expired"),
        (FakeConnection(opening=True, closing=True), False, 16, "cut"),
    ],
)
def test_time_limits(connection: FakeConnection, lively: bool, sweeps: int, fate: str) -> None:
    timer = SessionTimer({connection}, idle=300, total=600)
    assert timer.interval == 1.0
    assert sweeps_until(timer, connection, lively=lively) == sweeps
    assert connection.fate == fate


def test_requiretls_is_refused_where_mail_leaves_without_tls():
    s = session(FakeIntake(), trusted=True)
    s.hello("EHLO", "me.test")
    s.mail("joe@there.test", NO_MAIL_PARAMS._replace(requiretls=True))
    assert s.rcpt("alice@example.test", NO_RCPT_PARAMS).code == 250
    assert s.rcpt("x@elsewhere.test", NO_RCPT_PARAMS) == NO_TLS_FURTHER
