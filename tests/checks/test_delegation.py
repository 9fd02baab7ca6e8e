"""The language of policy delegation: bytes in, actions out, verdicts out of actions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.envelope import Recipient
from mailflow.ingress.checks.delegation import PolicyReplyError, encode, parse_reply, understand
from mailflow.ingress.checks.policy_service import attributes
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action
from tests.checks.fakes import FakeSituation

NAMES = [
    "protocol_state",
    "protocol_name",
    "helo_name",
    "queue_id",
    "sender",
    "recipient",
    "recipient_count",
    "client_address",
    "client_name",
    "reverse_client_name",
    "instance",
    "sasl_method",
    "sasl_username",
    "sasl_sender",
    "size",
    "ccert_subject",
    "ccert_issuer",
    "ccert_fingerprint",
    "encryption_protocol",
    "encryption_cipher",
    "encryption_keysize",
    "etrn_domain",
    "stress",
    "ccert_pubkey_fingerprint",
    "client_port",
    "policy_context",
    "server_address",
    "server_port",
    "compatibility_level",
]


def test_a_request_is_lines_and_an_empty_one():
    assert encode([("a", "b"), ("c", "")]) == b"request=smtpd_access_policy\na=b\nc=\n\n"


@given(st.lists(st.tuples(st.sampled_from(["sender", "helo_name"]), st.text())))
def test_no_value_can_end_a_line_or_the_request(pairs):
    lines = encode(pairs).split(b"\n")
    assert len(lines) == len(pairs) + 3
    assert all(b"=" in line for line in lines[:-2])
    assert lines[-2:] == [b"", b""]


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        (b"action=DUNNO\n\n", "DUNNO"),
        (b"action=REJECT  go away \r\n\r\n", "REJECT  go away"),
        (b"other=x\naction=OK\n\n", "OK"),
        (b"action=450 4.7.1 a=b\n\n", "450 4.7.1 a=b"),
    ],
)
def test_replies(reply, action):
    assert parse_reply(reply) == action
    for end in range(len(reply)):
        assert parse_reply(reply[:end]) is None or reply[end:] == b"\n"


@pytest.mark.parametrize("reply", [b"\n", b"\r\n\r\n", b"nothing\n\n", b"x=y\n\n", b"action=OK\n\naction=OK\n\n"])
def test_what_is_no_reply(reply):
    with pytest.raises(PolicyReplyError):
        parse_reply(reply)


def test_a_reply_has_a_bound():
    with pytest.raises(PolicyReplyError):
        parse_reply(b"a" * 101, limit=100)
    assert parse_reply(b"a" * 100, limit=100) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_reply_or_none_or_an_error(data):
    try:
        found = parse_reply(data)
    except PolicyReplyError:
        return
    assert found is None or isinstance(found, str)


@pytest.mark.parametrize(
    ("action", "reply"),
    [
        ("REJECT", "554 5.7.1 Refused by policy"),
        ("reject Go away", "554 5.7.1 Go away"),
        ("REJECT 5.7.23 SPF says no", "554 5.7.23 SPF says no"),
        ("REJECT 4.7.1 text", "554 5.7.1 text"),
        ("550 No", "550 5.7.1 No"),
        ("550 5.1.1 No", "550 5.1.1 No"),
        ("451 4.3.5 Later", "451 4.3.5 Later"),
        ("DEFER", "450 4.7.1 Refused by policy"),
        ("DEFER_IF_PERMIT Greylisted, see http://x.example/", "450 4.7.1 Greylisted, see http://x.example/"),
        ("421 4.7.0 Bye", "421 4.7.0 Bye"),
    ],
)
def test_refusals(action, reply):
    verdict = understand(action, "svc").verdict
    assert verdict.reply.text == reply
    assert verdict.rule == "svc"
    assert (verdict.action is Action.CLOSE) == reply.startswith("421")


@given(st.sampled_from(["REJECT", "DEFER", "550", "450 4.7.1"]), st.text(max_size=2000))
def test_no_text_of_a_service_makes_more_than_one_line(word, text):
    wire = understand(f"{word} {text}", "svc").verdict.reply.encode()
    assert wire.count(b"\r\n") == 1
    assert wire.endswith(b"\r\n")
    assert len(wire) <= 512
    assert all(32 <= byte < 127 for byte in wire[:-2])


def test_marks():
    assert understand("HOLD looks odd", "svc").verdict[:3] == (Action.HOLD, None, "looks odd")
    assert understand("DISCARD", "svc").verdict.action is Action.DISCARD
    assert understand("PREPEND X-Policy: yes", "svc").verdict.header == b"X-Policy: yes\r\n"


@pytest.mark.parametrize("action", ["OK", "ok", "permit", "12345"])
def test_permits(action):
    assert understand(action, "svc") == (None, True, "")


@pytest.mark.parametrize("action", ["DUNNO", "dunno", ""])
def test_no_opinion(action):
    assert understand(action, "svc") == (None, False, "")


@pytest.mark.parametrize("action", ["FILTER smtp:x", "REDIRECT a@b", "BCC a@b", "WARN odd", "DEFER_IF_REJECT x"])
def test_what_changes_nothing_is_noted(action):
    answer = understand(action, "svc")
    assert answer.verdict is None
    assert not answer.permits
    assert answer.note


@pytest.mark.parametrize("action", ["PREPEND no header", "PREPEND", "250 fine", "check_client_access x", "999 x"])
def test_what_is_no_action(action):
    if action[:3].isdigit():
        assert understand(action, "svc").permits  # access(5): all numerical is OK
    else:
        with pytest.raises(PolicyReplyError):
            understand(action, "svc")


def test_attributes_are_postfix_s_in_its_order():
    tls = "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"
    situation = FakeSituation(tls=tls, login="joe", certificate="ab:cd", reverse="r.example", size=12)
    pairs = attributes(situation, Stage.RCPT, "context")
    assert [name for name, _ in pairs] == NAMES
    values = dict(pairs)
    expected = {
        "protocol_state": "RCPT",
        "protocol_name": "ESMTP",
        "helo_name": "mail.client.example",
        "sender": "joe@sender.example",
        "recipient": "alice@example.test",
        "recipient_count": "0",
        "client_address": "192.0.2.99",
        "client_name": "unknown",
        "reverse_client_name": "r.example",
        "client_port": "4321",
        "instance": "mark.1",
        "sasl_username": "joe",
        "size": "12",
        "ccert_fingerprint": "ab:cd",
        "encryption_protocol": "TLSv1.3",
        "encryption_cipher": "TLS_AES_256_GCM_SHA384",
        "encryption_keysize": "256",
        "policy_context": "context",
    }
    assert {name: values[name] for name in expected} == expected


def test_attributes_of_a_complete_envelope():
    recipients = [Recipient(0, "alice@example.test", "local:alice")]
    one = dict(attributes(FakeSituation(recipients=recipients, recipient=""), Stage.END))
    assert (one["protocol_state"], one["recipient"], one["recipient_count"]) == (
        "END-OF-MESSAGE",
        "alice@example.test",
        "1",
    )
    two = dict(attributes(FakeSituation(recipients=recipients * 2, recipient=""), Stage.DATA))
    assert (two["protocol_state"], two["recipient"], two["recipient_count"]) == ("DATA", "", "2")


def test_a_client_that_says_helo():
    values = dict(attributes(FakeSituation(protocol="SMTP"), Stage.HELO))
    assert (values["protocol_state"], values["protocol_name"]) == ("HELO", "SMTP")
