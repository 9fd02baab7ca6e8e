"""Rules: conditions, actions, order, modes, stages."""

from __future__ import annotations

import pytest

from mailflow.ingress.verdict import Action, Verdict
from mailflow.smtp.reply import reply
from tests.policy.play import FRIEND, STRANGER, answer, play

OK = "250 2.0.0 Ok"
NO = "554 5.7.1 Access denied"


def rule(conditions: str, action: str = "reject", stage: str = "rcpt") -> str:
    return f"""
        [[policy.{stage}]]
        name = "the rule"
        {conditions}
        action = "{action}"
        [table.t]
        entries = {{ "192.0.2.7" = "", "there.test" = "", "alice@here.test" = "", "joe" = "", "+spam" = "", "ab:cd" = "" }}
        [table.names]
        type = "regexp"
        entries = {{ "^dsl-[0-9]+[.]" = "" }}
        [table.net]
        type = "cidr"
        entries = {{ "192.0.2.0/29" = "" }}
    """


HOLDS = [
    ("", {}),
    ('client = ["192.0.2.7"]', {}),
    ('client = ["198.51.100.0/24", "192.0.2.0/24"]', {}),
    ('client = ["table:t"]', {}),
    ('client = ["table:net"]', {}),
    ('client = ["mx.partner.test"]', {"name": "mx.partner.test"}),
    ('client = [".partner.test"]', {"name": "MX.Partner.test"}),
    ('client = ["table:names"]', {"name": "dsl-17.isp.test"}),
    ('client = ["*"]', {}),
    ('client = ["!10.0.0.0/8"]', {}),
    ('client = ["!192.0.2.1", "192.0.2.0/24"]', {}),
    ('helo = ["bad.test"]', {"helo": "Bad.Test"}),
    ('helo = [".test"]', {"helo": "a.b.test"}),
    ('sender = ["joe@there.test"]', {}),
    ('sender = ["there.test"]', {}),
    ('sender = ["joe@"]', {}),
    ('sender = ["table:t"]', {}),
    ('sender = ["<>"]', {"sender": ""}),
    ('sender = ["joe@there.test"]', {"sender": "joe+news@there.test"}),
    ('recipient = ["alice@here.test"]', {}),
    ('recipient = ["table:t"]', {}),
    ('login = ["*"]', {"login": "joe"}),
    ('login = ["table:t"]', {"login": "Joe"}),
    ('login = ["!*"]', {}),
    ('certificate = ["AB:CD"]', {"certificate": "ab:cd"}),
    ('certificate = ["table:t"]', {"certificate": "ab:cd"}),
    ("tls = true", {"tls": "TLSv1.3"}),
    ("tls = false", {}),
    ("trusted = true", {"login": "joe"}),
    ("trusted = false", {}),
    ('client = ["192.0.2.0/24"]\nsender = ["there.test"]\nrecipient = ["here.test"]', {}),
]
DOES_NOT_HOLD = [
    ('client = ["192.0.2.8"]', {}),
    ("client = []", {}),
    ("recipient = []", {}),
    ('client = ["!192.0.2.7", "192.0.2.0/24"]', {}),
    ('client = ["partner.test"]', {"name": "mx.partner.test"}),  # the domain itself, not what is below it
    ('client = [".partner.test"]', {"name": ""}),
    ('client = [".test"]', {"helo": "x.test", "name": ""}),  # what a client says is not its name
    ('helo = ["bad.test"]', {"helo": "very.bad.test"}),
    ('sender = ["<>"]', {}),
    ('sender = ["*"]', {"sender": ""}),
    ('sender = ["example.test"]', {}),
    ('sender = [".there.test"]', {}),
    ('recipient = ["bob@here.test"]', {}),
    ('login = ["*"]', {}),
    ('login = ["joe"]', {"login": "ann"}),
    ('certificate = ["*"]', {}),
    ("tls = true", {}),
    ("trusted = true", {}),
    ('client = ["192.0.2.0/24"]\nsender = ["example.test"]', {}),
]


@pytest.mark.parametrize(("conditions", "client"), HOLDS)
def test_conditions_that_hold(conditions, client):
    assert answer(rule(conditions), **client) == NO


@pytest.mark.parametrize(("conditions", "client"), DOES_NOT_HOLD)
def test_conditions_that_do_not(conditions, client):
    assert answer(rule(conditions), **client) == OK


@pytest.mark.parametrize("stage", ["connect", "helo", "mail", "rcpt", "data", "end"])
@pytest.mark.parametrize("delay", ["true", "false"])
def test_each_list_is_asked_at_its_stage(stage, delay):
    outcome = play(f"policy.delay = {delay}\n" + rule("", stage=stage))
    assert outcome.answer.text == NO
    asked = "rcpt" if delay == "true" and stage in ("connect", "helo", "mail") else stage
    assert outcome.steps[-1].stage == asked
    assert outcome.decided_by == "the rule"


@pytest.mark.parametrize(
    ("action", "heard", "hold"),
    [
        ("defer", "450 4.7.1 Access denied, try again later", ""),
        ("discard", OK, ""),
        ("hold", OK, "the rule"),
        ("warn", OK, ""),
    ],
)
def test_actions(action, heard, hold):
    outcome = play(rule("", action))
    assert outcome.answer.text == heard
    if heard == OK:
        assert outcome.envelope.hold == hold
    discards = [step for step in outcome.steps if step.outcome == "discard" and not step.rules]
    assert len(discards) == (action == "discard")


def test_a_client_without_an_address_is_in_no_list():
    for elements in ('["*"]', '["192.0.2.0/24"]', '[".test"]', '["table:t"]', '["table:net"]'):
        assert answer(rule(f"client = {elements}"), "") == OK
    assert answer(rule('client = ["!*"]'), "") == NO


def test_the_first_rule_that_decides_does_and_a_permit_ends_only_its_own_list():
    text = """
        [policy]
        mail = [{ sender = ["joe@there.test"], action = "permit" }, "reject"]
        rcpt = [
            { recipient = ["alice@here.test"], action = "permit" },
            { recipient = ["bob@here.test"], action = "reject", reply = "Not bob" },
            { action = "defer" },
        ]
    """
    assert answer(text) == OK
    assert answer(text, STRANGER, "bob@here.test") == "554 5.7.1 Not bob"
    assert answer(text, STRANGER, "postmaster@here.test").startswith("450")
    assert answer(text, sender="ann@there.test") == NO
    data = text + '\n[[policy.data]]\naction = "reject"'
    assert answer(data) == NO


@pytest.mark.parametrize(
    ("words", "heard"),
    [
        ("Go away", "554 5.7.1 Go away"),
        ("550 Go away", "550 5.7.1 Go away"),
        ("550 5.7.0 Go away", "550 5.7.0 Go away"),
        ("450 Not now", "450 4.7.1 Not now"),
        ("4.3.2 Not now", "450 4.3.2 Not now"),
        ("550", "550 5.7.1 Access denied"),
    ],
)
def test_replies(words, heard):
    assert answer(rule(f'reply = "{words}"')) == heard


def test_421_ends_the_session():
    found = []

    def others(name, argument, stage):
        return lambda situation: (
            found.append((name, argument, stage.value)) or Verdict(Action.REFUSE, reply(421, "4.7.0", "x"))
        )

    outcome = play('[policy]\nrcpt = ["hook one"]', others=others)
    assert found == [("hook", "one", "rcpt")]
    assert outcome.answer.code == 421


def test_modes():
    soft = play(rule('mode = "soft-fail"'))
    assert soft.answer.text == "450 4.7.1 Access denied"
    logged = play(rule('mode = "log-only"') + '[[policy.rcpt]]\nname = "second"\naction = "reject"')
    assert logged.decided_by == "second"
    assert [s.outcome for s in logged.steps if s.rule == "the rule" and not s.rules] == ["log-only: would refuse"]
    assert play(rule('mode = "log-only"', "hold")).envelope.hold == ""
    assert play(rule('mode = "log-only"', "permit") + '[[policy.rcpt]]\naction = "reject"').answer.text == NO


@pytest.mark.parametrize("waits", [False, True])
def test_marks_are_kept_and_the_list_goes_on(waits):
    async def later(verdict):
        return verdict

    marks = {
        "a": Verdict(Action.HEADER, header=b"X-A: 1\r\n"),
        "b": Verdict(Action.HOLD, reason="odd"),
        "c": Verdict(Action.HEADER, header=b"X-C: 1\r\n"),
    }

    def others(name, argument, stage):
        return lambda _: later(marks[argument]) if waits else marks[argument]

    text = '[policy]\nrcpt = ["hook a", "hook b", "hook c", "permit", "reject"]'
    outcome = play(text, STRANGER, "alice@here.test", "bob@here.test", others=others)
    assert outcome.answer.text == OK
    assert outcome.envelope.hold == "odd"
    assert outcome.envelope.header == b"X-A: 1\r\nX-C: 1\r\n"  # once, for two recipients


def test_what_is_always_in_force_has_modes():
    assert answer("", sender="joe") == "504 5.5.2 Sender address rejected: need fully-qualified address"
    assert answer("", FRIEND, sender="joe") == OK
    assert answer('policy.unqualified_sender = "soft-fail"', sender="joe").startswith("450 4.5.2")
    assert answer('policy.unqualified_sender = "log-only"', sender="joe") == OK
    assert answer("", STRANGER, "alice").startswith("504 5.5.2")
    assert answer('policy.unqualified_recipient = "log-only"', STRANGER, "alice") == OK
    assert answer("", STRANGER, "nobody@here.test") == "550 5.1.1 No such user"
    outcome = play('policy.unlisted_recipient = "soft-fail"', STRANGER, "nobody@here.test")
    assert outcome.answer.text == "450 4.1.1 No such user"
    assert outcome.decided_by == "reject_unlisted_recipient"


def test_submission_asks_for_a_login():
    assert answer("", rules="submission") == "530 5.7.0 Authentication required"
    assert play("", rules="submission").steps[-1].stage == "mail"
    assert answer("", rules="submission", login="joe") == OK
    assert answer("", FRIEND, rules="submission") == OK
    more = '[[policy.set.submission.rcpt]]\nrecipient = ["bob@here.test"]\naction = "reject"\n[[policy.rcpt]]\naction = "defer"'
    assert answer(more, STRANGER, "bob@here.test", rules="submission", login="joe") == NO
    assert answer(more, rules="submission", login="joe") == OK
    assert answer(more, rules="submission").startswith("530")
