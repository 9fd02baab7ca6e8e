"""SCRAM-SHA-256 against the RFC's example and an independent client (scramp), and what must make it fail."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient, ScramException

from mailflow.smtp.sasl import Challenge, Failed, Lookup, Passed
from mailflow.smtp.scram import Keys, Scram, made_up_keys, make_keys, parse_keys

PASSWORD = "open sesame"
KEYS = make_keys(PASSWORD, b"0123456789abcdef", 4096)
POINT = hashlib.sha256(b"our certificate").digest()
BINDINGS = {"tls-server-end-point": POINT}


def test_the_example_of_rfc_7677():
    scram = Scram("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert scram.respond(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == Lookup("user")
    keys = make_keys("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    assert scram.keys(keys) == Challenge(
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    final = (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert scram.respond(final) == Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert scram.respond(b"") == Passed("user")


def converse(scram, client, keys=KEYS):
    """All steps with scramp's client; the last step, or what the client makes of the server's signature."""
    step = scram.respond(client.get_client_first().encode())
    if not isinstance(step, Lookup):
        return step
    step = scram.keys(keys)
    client.set_server_first(step.data.decode())
    step = scram.respond(client.get_client_final().encode())
    if isinstance(step, Challenge):
        client.set_server_final(step.data.decode())  # raises when the signature is wrong
        step = scram.respond(b"")
    return step


def client(password=PASSWORD, user="alice", plus=False, binding=None):
    mechanisms = ["SCRAM-SHA-256-PLUS"] if plus else ["SCRAM-SHA-256"]
    return ScramClient(mechanisms, user, password, channel_binding=binding)


def test_a_foreign_client_gets_in_and_believes_us():
    assert converse(Scram("nonce"), client()) == Passed("alice")


def test_a_foreign_client_with_channel_binding():
    scram = Scram("nonce", BINDINGS, plus=True, plus_offered=True)
    assert converse(scram, client(plus=True, binding=("tls-server-end-point", POINT))) == Passed("alice")


def test_a_name_with_comma_and_equals_sign():
    assert converse(Scram("nonce"), client(user="a,b=c")) == Passed("a,b=c")


def test_a_name_and_password_that_need_saslprep():
    # Soft hyphen goes, the ligature and the ideographic space become plain letters.
    keys = make_keys("of\u00adfi\u3000ce", b"salt", 4096)
    assert keys == make_keys("offi ce", b"salt", 4096) == make_keys("o\ufb00i ce", b"salt", 4096)


def test_a_wrong_password_fails_at_the_end():
    assert converse(Scram("nonce"), client("open barley")) == Failed("wrong password or unknown user", "alice")


def test_made_up_keys_fail_alike_and_are_always_the_same():
    made_up = made_up_keys(b"secret", "alice", 4096)
    assert made_up == made_up_keys(b"secret", "alice", 4096)
    assert (
        len({made_up.salt, made_up_keys(b"secret", "bob", 4096).salt, made_up_keys(b"other", "alice", 4096).salt}) == 3
    )
    assert converse(Scram("nonce"), client(), made_up) == Failed("wrong password or unknown user", "alice")


def test_a_client_that_checks_us_notices_who_does_not_have_the_keys():
    impostor = Keys(KEYS.salt, KEYS.iterations, KEYS.stored_key, b"x" * 32)
    with pytest.raises(ScramException):
        converse(Scram("nonce"), client(), impostor)


@pytest.mark.parametrize(
    ("scram", "header", "why"),
    [
        (Scram("n", BINDINGS, plus_offered=True), b"y,,", "downgrade"),
        (Scram("n", BINDINGS, plus_offered=True), b"p=tls-server-end-point,,", "do not fit"),
        (Scram("n", BINDINGS, plus=True, plus_offered=True), b"n,,", "do not fit"),
        (Scram("n", BINDINGS, plus=True, plus_offered=True), b"p=tls-exporter,,", "tls-exporter is not available"),
        (Scram("n"), b"n,a=bob,", "acting for another"),
    ],
)
def test_headers_that_must_fail(scram, header, why):
    step = scram.respond(header + b"n=alice,r=abc")
    assert isinstance(step, Failed)
    assert why in step.why
    assert not step.malformed


def test_y_is_fine_where_binding_is_not_offered():
    assert Scram("n").respond(b"y,,n=alice,r=abc") == Lookup("alice")


def test_another_connections_binding_fails():
    scram = Scram("n", {"tls-server-end-point": b"other" * 6 + b"xx"}, plus=True, plus_offered=True)
    step = converse(scram, client(plus=True, binding=("tls-server-end-point", POINT)))
    assert step == Failed("channel binding differs", "alice")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=alice",
        b"n,,m=x,n=alice,r=abc",
        b"n,,n=a=b,r=abc",
        b"n,,n=,r=abc",
        b"n,,n=alice,r=",
        b"q,,n=alice,r=abc",
        b"\xff",
        b"n,,n=alice,r=" + b"x" * 513,
    ],
)
def test_malformed_first_messages(message):
    step = Scram("n").respond(message)
    assert isinstance(step, Failed)
    assert step.malformed


def test_an_altered_final_message_fails():
    talker = client()
    first = talker.get_client_first().encode()
    whole = Scram("nonce")
    whole.respond(first)
    talker.set_server_first(whole.keys(KEYS).data.decode())
    final = talker.get_client_final()
    altered = (
        final.replace("c=biws", "c=eSws"),
        final.replace("r=", "r=x"),
        final[:-8] + "AAAAAAA=",
        final + ",x=1",
        "",
    )
    for text in altered:
        scram = Scram("nonce")
        scram.respond(first)
        scram.keys(KEYS)
        assert isinstance(scram.respond(text.encode()), Failed), text
    assert isinstance(whole.respond(final.encode()), Challenge)


@given(st.lists(st.binary(max_size=80), max_size=4), st.booleans())
def test_no_bytes_make_it_raise_or_pass(messages, plus):
    scram = Scram("n", BINDINGS, plus=plus, plus_offered=True)
    for message in messages:
        step = scram.respond(message)
        assert not isinstance(step, Passed)
        if isinstance(step, Failed):
            break
        if isinstance(step, Lookup):
            scram.keys(KEYS)


@given(st.from_regex(rb"(n|y|p=[a-z-]+),(a=[a-z]*)?,n=[a-z=2CD]+,r=[!-~]+", fullmatch=True))
def test_no_first_message_makes_it_raise(message):
    assert isinstance(Scram("n", BINDINGS).respond(message), Lookup | Failed)


def test_keys_as_text():
    assert parse_keys(KEYS.encode()) == KEYS
    for wrong in ("", "4096", "1,eA==,eA==,eA==", KEYS.encode().replace("4096", "1"), KEYS.encode()[:-9] + "="):
        with pytest.raises(ValueError):
            parse_keys(wrong)
