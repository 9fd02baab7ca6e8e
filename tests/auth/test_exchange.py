"""One AUTH command: what the client hears, what is logged, who is asked, and what is not done for whom."""

from __future__ import annotations

import asyncio
import base64
import json
import re

from scramp import ScramClient

from mailflow.ingress.auth.exchange import Exchange
from tests.auth.fakes import ALL, Client, Clock, Known, Tokens, authenticator, in_loop

PLAIN = b"\0alice\0open sesame"
WRONG = b"\0alice\0open barley"
UNKNOWN = b"\0nobody\0open barley"


@in_loop
async def test_plain():
    client, known = Client(), Known(alice="open sesame")
    (answer,) = await client.talk(authenticator(known), "PLAIN", initial=PLAIN)
    assert answer.text == "235 2.7.0 Authentication successful"
    assert client.peer.login == "alice"
    assert client.events == [{"mechanism": "PLAIN", "status": "ok", "login": "alice"}]
    assert known.asked[0][:] == ("alice", "open sesame", "192.0.2.1", True)


@in_loop
async def test_plain_without_initial_response():
    answers = await Client().talk(authenticator(Known(alice="open sesame")), "PLAIN", PLAIN)
    assert [a.code for a in answers] == [334, 235]
    assert answers[0].lines == ("",)


@in_loop
async def test_login():
    client = Client()
    answers = await client.talk(authenticator(Known(alice="open sesame")), "LOGIN", b"alice", b"open sesame")
    assert [base64.b64decode(a.lines[0]) for a in answers[:2]] == [b"Username:", b"Password:"]
    assert answers[2].code == 235
    assert client.peer.login == "alice"


@in_loop
async def test_unknown_users_hear_what_wrong_passwords_hear():
    clock = Clock()
    auth = authenticator(Known(alice="open sesame"), clock=clock)
    heard = [await Client().talk(auth, "PLAIN", initial=data) for data in (WRONG, UNKNOWN)]
    assert heard[0] == heard[1]
    assert heard[0][0].text == "535 5.7.8 Authentication credentials invalid"
    assert clock.slept == [2.0, 2.0]


@in_loop
async def test_no_password_is_logged():
    client = Client()
    await client.talk(authenticator(Known()), "PLAIN", initial=b"\0alice\0hunter2")
    await client.talk(authenticator(Known()), "LOGIN", b"alice", b"hunter2")
    assert "hunter2" not in str(client.events)
    assert client.events[0] == {
        "mechanism": "PLAIN",
        "status": "failed",
        "login": "alice",
        "reason": "wrong password or unknown user",
    }


@in_loop
async def test_scram_tells_nobody_who_exists():
    auth = authenticator(Known(alice="open sesame"), failures=100)

    async def server_first(login: bytes) -> bytes:
        (answer,) = await Client().talk(auth, "SCRAM-SHA-256", initial=b"n,,n=" + login + b",r=abc")
        return base64.b64decode(answer.lines[0])

    firsts = {login: [await server_first(login) for _ in range(2)] for login in (b"alice", b"eve", b"eva")}
    salts = {login: {re.search(rb",s=(.*)", first)[1] for first in each} for login, each in firsts.items()}
    assert all(len(each) == 1 for each in salts.values())  # the same each time
    assert len(set.union(*salts.values())) == 3  # another for everybody
    assert {len(first) for each in firsts.values() for first in each} == {len(firsts[b"eve"][0])}
    assert all(first.endswith(b",i=4096") for each in firsts.values() for first in each)

    for user, password, code in (("alice", "open sesame", 235), ("alice", "x", 535), ("eve", "x", 535)):
        scram, client = ScramClient(["SCRAM-SHA-256"], user, password), Client()
        exchange = Exchange(auth, client, "SCRAM-SHA-256")
        answer = await client.hear(exchange.begin(scram.get_client_first().encode()))
        scram.set_server_first(base64.b64decode(answer.lines[0]).decode())
        answer = await client.hear(exchange.respond(scram.get_client_final().encode()))
        if answer.code == 334:
            scram.set_server_final(base64.b64decode(answer.lines[0]).decode())
            answer = exchange.respond(b"")
        assert answer.code == code
        assert client.peer.login == ("alice" if code == 235 else "")
        assert len(client.events) == 1


@in_loop
async def test_a_back_end_out_of_order_is_a_temporary_failure():
    client, known = Client(), Known(alice="open sesame")
    known.trouble = True
    auth = authenticator(known, failures=1)
    for _ in range(3):  # and it counts for no lock
        (answer,) = await client.talk(auth, "PLAIN", initial=PLAIN)
        assert answer.text == "454 4.7.0 Temporary authentication failure"
    assert client.events[0]["reason"] == "out of order"


@in_loop
async def test_another_back_end_that_knows_the_password_is_enough():
    broken, known = Known(), Known(alice="open sesame")
    broken.trouble = True
    auth = authenticator(broken, known)
    assert (await Client().talk(auth, "PLAIN", initial=PLAIN))[0].code == 235
    assert (await Client().talk(auth, "PLAIN", initial=WRONG))[0].code == 454


@in_loop
async def test_malformed_responses_ask_nobody():
    known = Known(alice="open sesame")
    auth = authenticator(known, failures=1)
    for data in (b"", b"alice", b"\0alice", b"\0alice\0x\0y", b"\0\xff\0x"):
        (answer,) = await Client().talk(auth, "PLAIN", initial=data)
        assert answer.text == "501 5.5.2 Malformed authentication response"
    assert known.asked == []


@in_loop
async def test_names_and_passwords_that_cannot_be_any_ask_nobody():
    known = Known(alice="open sesame")
    auth = authenticator(known, failures=100)
    for data in (
        b"\0\0x",
        b"\0alice\0",
        b"bob\0alice\0open sesame",
        b"\0a\nb\0x",
        b"\0" + b"a" * 256 + b"\0x",
        b"\0alice\0" + b"x" * 1025,
    ):
        client = Client()
        (answer,) = await client.talk(auth, "PLAIN", initial=data)
        assert answer.code == 535
        assert len(str(client.events)) < 400
    assert known.asked == []


@in_loop
async def test_the_same_authorization_identity_is_fine():
    auth = authenticator(Known(alice="open sesame"))
    assert (await Client().talk(auth, "PLAIN", initial=b"alice" + PLAIN))[0].code == 235


@in_loop
async def test_bearer_tokens():
    auth = authenticator(tokens=Tokens(t0ken="alice@example.test"))
    for mechanism, message in (
        ("OAUTHBEARER", b"n,a=alice@example.test,\1host=mx\1port=587\1auth=Bearer t0ken\1\1"),
        ("OAUTHBEARER", b"n,,\1auth=bearer t0ken\1\1"),
        ("XOAUTH2", b"user=alice@example.test\1auth=Bearer t0ken\1\1"),
    ):
        client = Client()
        assert [a.code for a in await client.talk(auth, mechanism, initial=message)] == [235]
        assert client.peer.login == "alice@example.test"


@in_loop
async def test_a_refused_token_is_explained_before_the_refusal():
    auth = authenticator(tokens=Tokens(), oauth={"scope": "mail", "configuration": "https://id.test/"})
    for mechanism, message, status in (
        ("OAUTHBEARER", b"n,,\1auth=Bearer t0ken\1\1", "invalid_token"),
        ("XOAUTH2", b"user=a\1auth=Bearer t0ken\1\1", "401"),
    ):
        client = Client()
        answers = await client.talk(auth, mechanism, b"\1", initial=message)
        assert [a.code for a in answers] == [334, 535]
        found = json.loads(base64.b64decode(answers[0].lines[0]))
        assert (found["status"], found["scope"]) == (status, "mail")
        assert "t0ken" not in str(client.events)


@in_loop
async def test_malformed_token_messages():
    auth = authenticator(tokens=Tokens(t0ken="alice"))
    for message in (
        b"",
        b"n,,",
        b"p=x,,\1auth=Bearer t0ken\1\1",
        b"n,,\1auth=Bearer t0ken\1",
        b"n,,\1auth=Basic x\1\1",
        b"n,,\1\1",
        b"\xff",
        b"n,a=x=,\1auth=Bearer t\1\1",
    ):
        (answer,) = await Client().talk(auth, "OAUTHBEARER", initial=message)
        assert answer.code == 501, message


@in_loop
async def test_the_right_password_is_remembered_for_a_while():
    clock, known = Clock(), Known(alice="open sesame")
    auth = authenticator(known, clock=clock, cache="5m")
    for _ in range(3):
        await Client().talk(auth, "PLAIN", initial=PLAIN)
    assert len(known.asked) == 1
    clock.now += 301
    await Client().talk(auth, "PLAIN", initial=PLAIN)
    assert len(known.asked) == 2
    known.generation += 1  # the password file has changed
    await Client().talk(auth, "PLAIN", initial=PLAIN)
    assert len(known.asked) == 3


@in_loop
async def test_a_wrong_password_is_never_remembered():
    known = Known(alice="open sesame")
    auth = authenticator(known)
    for _ in range(3):
        await Client().talk(auth, "PLAIN", initial=WRONG)
    assert len(known.asked) == 3


@in_loop
async def test_who_fails_often_is_locked_out_and_nobody_asked():
    clock, known = Clock(), Known(alice="open sesame")
    auth = authenticator(known, clock=clock, failures=3, lockout="30s", cache="0s")
    client = Client()
    for _ in range(3):
        assert (await client.talk(auth, "PLAIN", initial=WRONG))[0].code == 535
    assert (await client.talk(auth, "PLAIN", initial=PLAIN))[
        0
    ].text == "454 4.7.0 Too many failed logins, try again later"
    assert (await client.talk(auth, "LOGIN"))[0].code == 454
    assert len(known.asked) == 3
    assert client.events[-1]["status"] == "locked"
    assert (await Client("192.0.2.2").talk(auth, "PLAIN", initial=PLAIN))[0].code == 235  # somebody else
    clock.now += 31
    assert (await client.talk(auth, "PLAIN", initial=PLAIN))[0].code == 235


@in_loop
async def test_many_sessions_at_once_are_not_many_guesses():
    auth = authenticator(Known(alice="open sesame"), failures=3)
    exchanges = []
    for _ in range(10):
        client, scram = Client(), ScramClient(["SCRAM-SHA-256"], "alice", "open sesame")
        exchange = Exchange(auth, client, "SCRAM-SHA-256")
        answer = await client.hear(exchange.begin(scram.get_client_first().encode()))
        scram.set_server_first(base64.b64decode(answer.lines[0]).decode())
        exchanges.append((client, exchange, scram.get_client_final()))
    plain = [Client() for _ in range(10)]
    waiting = [
        client.talk(auth, "PLAIN", initial=WRONG if number < 9 else PLAIN) for number, client in enumerate(plain)
    ]
    codes = [answers[0].code for answers in await asyncio.gather(*waiting)]
    assert codes == [535] * 3 + [454] * 7
    for client, exchange, final in exchanges:  # not even the right password is told to be right
        assert (await client.hear(exchange.respond(final.encode()))).code == 454


def test_only_what_somebody_can_answer_is_offered():
    known, tokens = Known(), Tokens()
    assert authenticator(known, tokens=tokens).mechanisms == tuple(ALL)
    assert authenticator(known).mechanisms == ("PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")
    assert authenticator(tokens=tokens).mechanisms == ("OAUTHBEARER", "XOAUTH2")
    known.has_keys = False
    auth = authenticator(known, scram_without_tls=True)
    assert auth.mechanisms == auth.plaintext_mechanisms == ("PLAIN", "LOGIN")
    assert auth.clear_mechanisms == ()


@in_loop
async def test_a_login_under_attack_is_locked_but_not_for_its_owner():
    clock, known = Clock(), Known(alice="open sesame")
    auth = authenticator(known, clock=clock, login_failures=5, cache="0s")
    home = Client("198.51.100.7")
    assert (await home.talk(auth, "PLAIN", initial=PLAIN))[0].code == 235
    for number in range(5):
        await Client(f"192.0.2.{number}").talk(auth, "PLAIN", initial=WRONG)
    asked = len(known.asked)
    assert (await Client("192.0.2.99").talk(auth, "PLAIN", initial=PLAIN))[0].code == 454
    assert len(known.asked) == asked
    assert (await home.talk(auth, "PLAIN", initial=PLAIN))[0].code == 235
