"""The failure policy as a table: every fact an agent can report, and what becomes of it."""

import pytest

from mailflow.delivery.request import Delivery, Fact, Stage, Trouble
from mailflow.delivery.trouble import SiteHealth, health, judge, next_host, same_host_again
from mailflow.envelope import Message, Peer, Recipient
from mailflow.report import Action, HostAttempt
from mailflow.smtp.reply import reply

HOST = HostAttempt("mx.example", "192.0.2.1", 25, "", 0.0, 0.0)
R, D, F, L = Action.RELAYED, Action.DELIVERED, Action.FAILED, Action.DELAYED


@pytest.mark.parametrize(
    ("stage", "code", "status", "verdict"),
    [
        (Stage.DOT, 250, "2.6.0", (R, "2.6.0")),
        (Stage.DOT, 250, "", (R, "2.0.0")),
        (Stage.FILE, 250, "2.1.5", (D, "2.1.5")),
        (Stage.BODY, 250, "", (L, "4.5.0")),
        (Stage.DATA, 250, "", (L, "4.5.0")),
        (Stage.DOT, 354, "", (L, "4.5.0")),
        (Stage.BANNER, 421, "", (L, "4.3.2")),
        (Stage.BANNER, 554, "5.7.1", (L, "4.7.1")),
        (Stage.BANNER, 521, "", (F, "5.3.2")),
        (Stage.EHLO, 550, "", (F, "5.5.0")),
        (Stage.EHLO, 504, "5.5.2", (F, "5.5.2")),
        (Stage.EHLO, 450, "", (L, "4.2.0")),
        (Stage.MAIL, 451, "4.7.1", (L, "4.7.1")),
        (Stage.MAIL, 452, "", (L, "4.3.1")),
        (Stage.MAIL, 552, "", (F, "5.3.4")),
        (Stage.MAIL, 553, "", (F, "5.1.0")),
        (Stage.MAIL, 556, "", (F, "5.1.10")),
        (Stage.RCPT, 550, "5.1.1", (F, "5.1.1")),
        (Stage.RCPT, 550, "", (F, "5.1.0")),
        (Stage.RCPT, 450, "", (L, "4.2.0")),
        (Stage.RCPT, 452, "", (L, "4.5.3")),
        (Stage.RCPT, 552, "", (L, "4.5.3")),
        (Stage.RCPT, 552, "5.2.2", (L, "4.2.2")),
        (Stage.RCPT, 556, "", (F, "5.1.10")),
        (Stage.DATA, 554, "", (F, "5.0.0")),
        (Stage.BODY, 552, "5.3.4", (F, "5.3.4")),
        (Stage.DOT, 552, "", (F, "5.3.4")),
        (Stage.DOT, 554, "", (F, "5.6.0")),
        (Stage.DOT, 451, "", (L, "4.6.0")),
        (Stage.DOT, 421, "", (L, "4.3.2")),
    ],
)
def test_replies(stage, code, status, verdict):
    assert judge(Fact(stage, reply(code, status, "words"), None, HOST))[:2] == verdict


@pytest.mark.parametrize("trouble", Trouble)
@pytest.mark.parametrize("stage", Stage)
def test_every_trouble_has_a_fate_and_words(stage, trouble):
    for host in (HOST, None):
        verdict = judge(Fact(stage, None, trouble, host, "detail"))
        assert verdict.action in (F, L)
        assert verdict.status[0] == ("5" if verdict.action is F else "4")
        assert "detail" in verdict.reason
        assert ("mx.example[192.0.2.1]:25" in verdict.reason) == (host is not None)


@pytest.mark.parametrize(
    ("stage", "trouble", "verdict"),
    [
        (Stage.RESOLVE, Trouble.NO_HOST, (F, "5.1.2")),
        (Stage.RESOLVE, Trouble.NO_RELAY, (L, "4.4.4")),
        (Stage.RESOLVE, Trouble.NULL_MX, (F, "5.1.10")),
        (Stage.RESOLVE, Trouble.DNS_FAILURE, (L, "4.4.3")),
        (Stage.RESOLVE, Trouble.LOOP, (F, "5.4.6")),
        (Stage.CONNECT, Trouble.TIMEOUT, (L, "4.4.1")),
        (Stage.CONNECT, Trouble.REFUSED, (L, "4.4.1")),
        (Stage.MAIL, Trouble.TIMEOUT, (L, "4.4.2")),
        (Stage.DOT, Trouble.LOST, (L, "4.4.2")),
        (Stage.DATA, Trouble.GARBAGE, (L, "4.5.0")),
        (Stage.MAIL, Trouble.NEEDS_SMTPUTF8, (F, "5.6.7")),
        (Stage.MAIL, Trouble.NEEDS_8BITMIME, (F, "5.6.3")),
        (Stage.MAIL, Trouble.TOO_LARGE, (F, "5.3.4")),
        (Stage.FILE, Trouble.DISK_FULL, (L, "4.2.2")),
        (Stage.FILE, Trouble.NO_MAILBOX, (F, "5.1.1")),
        (Stage.STORE, Trouble.DAMAGED, (L, "4.3.0")),
    ],
)
def test_troubles(stage, trouble, verdict):
    assert judge(Fact(stage, None, trouble))[:2] == verdict


@pytest.mark.wish(26)
@pytest.mark.parametrize(
    ("fact", "words"),
    [
        (
            Fact(Stage.RCPT, reply(550, "5.1.1", "No such user"), None, HOST),
            "host mx.example[192.0.2.1]:25 said: 550 5.1.1 No such user (in reply to RCPT TO)",
        ),
        (
            Fact(Stage.BANNER, reply(554, "", "No"), None, HOST),
            "host mx.example[192.0.2.1]:25 refused to talk to us: 554 No",
        ),
        (Fact(Stage.CONNECT, None, Trouble.TIMEOUT, HOST), "connect to mx.example[192.0.2.1]:25: connection timed out"),
        (Fact(Stage.CONNECT, None, Trouble.REFUSED, HOST), "connect to mx.example[192.0.2.1]:25: connection refused"),
        (
            Fact(Stage.BANNER, None, Trouble.LOST, HOST),
            "lost connection with mx.example[192.0.2.1]:25 while waiting for the greeting",
        ),
        (
            Fact(Stage.DOT, None, Trouble.TIMEOUT, HOST),
            "conversation with mx.example[192.0.2.1]:25 timed out after end of DATA (the message may have been delivered)",
        ),
        (
            Fact(Stage.RESOLVE, None, Trouble.NO_HOST, None, "x.example"),
            "domain does not exist or has no mail host: x.example",
        ),
        (Fact(Stage.DOT, reply(250, "2.0.0", "Ok"), None, HOST), "250 2.0.0 Ok"),
    ],
)
def test_words(fact, words):
    assert judge(fact).reason == words


@pytest.mark.parametrize(
    "stage", [Stage.CONNECT, Stage.BANNER, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY]
)
@pytest.mark.parametrize("trouble", [Trouble.LOST, Trouble.TIMEOUT, Trouble.GARBAGE])
def test_another_host_may_do_better_until_the_dot(stage, trouble):
    assert next_host(Fact(stage, None, trouble, HOST))
    assert not next_host(Fact(Stage.DOT, None, trouble, HOST))


@pytest.mark.parametrize(
    ("stage", "code", "other"),
    [
        (Stage.BANNER, 554, True),
        (Stage.EHLO, 550, True),
        (Stage.MAIL, 451, True),
        (Stage.RCPT, 450, True),
        (Stage.RCPT, 550, False),
        (Stage.DATA, 451, True),
        (Stage.DOT, 451, False),
        (Stage.DOT, 250, False),
        (Stage.MAIL, 550, False),
    ],
)
def test_another_host_after_a_reply(stage, code, other):
    assert next_host(Fact(stage, reply(code, "", ""), None, HOST)) is other


@pytest.mark.parametrize(
    "trouble", [Trouble.TOO_LARGE, Trouble.NEEDS_SMTPUTF8, Trouble.LOOP, Trouble.UNATTEMPTED, Trouble.NULL_MX]
)
def test_no_other_host_for_what_is_the_messages_own(trouble):
    assert not next_host(Fact(Stage.MAIL, None, trouble, HOST))


def test_the_same_host_again_for_those_who_were_too_many():
    assert same_host_again(Fact(Stage.RCPT, reply(452, "", ""), None, HOST))
    assert same_host_again(Fact(Stage.RCPT, reply(552, "", ""), None, HOST))
    assert not same_host_again(Fact(Stage.RCPT, reply(450, "", ""), None, HOST))
    assert not same_host_again(Fact(Stage.MAIL, reply(452, "", ""), None, HOST))


GOOD = Fact(Stage.DOT, reply(250, "", ""), None, HOST)
REFUSED = Fact(Stage.RCPT, reply(550, "", ""), None, HOST)
BUSY = Fact(Stage.MAIL, reply(421, "", ""), None, HOST)
DEAD = Fact(Stage.CONNECT, None, Trouble.REFUSED, HOST)
BACK = Fact(Stage.CONNECT, None, Trouble.UNATTEMPTED)


@pytest.mark.parametrize(
    ("facts", "site"),
    [
        ([GOOD], SiteHealth.GOOD),
        ([REFUSED], SiteHealth.NEUTRAL),
        ([REFUSED, GOOD], SiteHealth.GOOD),
        ([BUSY], SiteHealth.BUSY),
        ([REFUSED, BUSY], SiteHealth.BUSY),
        ([DEAD], SiteHealth.DEAD),
        ([DEAD, BACK], SiteHealth.DEAD),
        ([BACK], SiteHealth.UNATTEMPTED),
        ([Fact(Stage.BANNER, reply(554, "", ""), None, HOST)], SiteHealth.DEAD),
        ([Fact(Stage.EHLO, reply(451, "", ""), None, HOST)], SiteHealth.BUSY),
        ([Fact(Stage.DOT, None, Trouble.TIMEOUT, HOST)], SiteHealth.BUSY),
        ([Fact(Stage.RESOLVE, None, Trouble.DNS_FAILURE)], SiteHealth.DEAD),
        ([Fact(Stage.RESOLVE, None, Trouble.NO_HOST)], SiteHealth.NEUTRAL),
        ([Fact(Stage.RESOLVE, None, Trouble.NO_RELAY)], SiteHealth.DEAD),
        ([Fact(Stage.MAIL, None, Trouble.TOO_LARGE, HOST)], SiteHealth.NEUTRAL),
    ],
)
def test_health(facts, site):
    recipients = [Recipient(i, f"x{i}@y", "smtp:y") for i in range(len(facts))]
    message = Message(1, "", recipients, b"", arrived=0.0, size=0, peer=Peer())
    one = Delivery(message, recipients, "smtp", "y", b"", 0.0)
    one.facts = facts
    assert health(one) is site
