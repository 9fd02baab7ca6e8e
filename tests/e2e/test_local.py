"""Mail that ends here: into Maildirs, by smtplib and swaks."""

from __future__ import annotations

import json
import re
import smtplib

import pytest

from tests.support.client import Client, mail, send
from tests.support.server import Server
from tests.support.tools import swaks


def test_a_message_sent_with_smtplib_is_in_the_maildir(server: Server) -> None:
    assert send(server.port, "alice@example.test", subject="first") == {}
    [stored] = server.wait_mail("alice")
    assert b"\nSubject: first\n" in stored
    assert stored.startswith(b"Return-Path: <sender@client.test>\nDelivered-To: alice@example.test\n")
    assert b"\r" not in stored


def test_a_message_sent_with_swaks_is_in_the_maildir(server: Server) -> None:
    swaks(server.port, "--to", "bob@example.test", "--from", "s@client.test", "--header", "Subject: by swaks")
    [stored] = server.wait_mail("bob")
    assert b"\nSubject: by swaks\n" in stored


def test_swaks_pipelines_several_recipients(server: Server) -> None:
    swaks(server.port, "--pipeline", "--to", "alice@example.test,bob@example.test", "--from", "s@client.test")
    assert len(server.wait_mail("alice")) == len(server.wait_mail("bob")) == 1


@pytest.mark.wish(16)
@pytest.mark.wish(20)
def test_received_names_the_client_and_the_queue_id(server: Server) -> None:
    with Client(server.port) as client:
        client.say("EHLO client.test")
        reply = client.message(["alice@example.test"], b"Subject: x\r\n\r\nbody")
    queue_id = reply.rpartition(" ")[2]
    [stored] = server.wait_mail("alice")
    received = re.search(rb"^Received: (?:.*\n[ \t])*.*\n", stored, re.MULTILINE)
    assert received
    words = received[0].decode()
    assert "client.test" in words
    assert "[127.0.0.1]" in words
    assert "with ESMTP" in words
    assert f"id {queue_id}" in words
    assert "mx.example.test" in words


@pytest.mark.wish(5)
def test_an_unknown_local_user_is_refused_at_rcpt(server: Server) -> None:
    refused = send(server.port, "alice@example.test", "nobody@example.test")
    assert refused.keys() == {"nobody@example.test"}
    code, text = refused["nobody@example.test"]
    assert (code, text[:5]) == (550, b"5.1.1")
    server.wait_mail("alice")


@pytest.mark.wish(5)
def test_swaks_is_told_550_for_an_unknown_user(server: Server) -> None:
    said = swaks(server.port, "--to", "nobody@example.test", "--from", "s@client.test", expect=24)
    assert "550 5.1.1" in said


def test_missing_headers_are_added_for_a_relay_client(server: Server) -> None:
    with Client(server.port) as client:
        client.say("EHLO client.test")
        assert client.message(["alice@example.test"], b"Subject: bare\r\n\r\nbody").startswith("250 ")
    [stored] = server.wait_mail("alice")
    head = stored.partition(b"\n\n")[0]
    for name in (b"Date", b"Message-ID", b"From"):
        assert len(re.findall(rb"^%s: \S" % name, head, re.MULTILINE)) == 1, name


def test_a_message_over_the_size_limit_is_refused_before_and_after_it_is_sent(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(limits={"message_size": 10_000})
    with Client(server.port) as client:
        assert "SIZE 10000" in client.say("EHLO client.test")
        assert client.say("MAIL FROM:<s@client.test> SIZE=10001").startswith("552 5.3.4")
        reply = client.message(["alice@example.test"], b"Subject: x\r\n\r\n" + b"y" * 78 + b"\r\n" + b"z" * 20_000)
        assert reply.startswith("552 5.3.4")
        assert client.message(["alice@example.test"], b"Subject: fits\r\n\r\nx").startswith("250 ")
    assert b"fits" in server.wait_mail("alice")[0]


@pytest.mark.wish(50)
def test_the_client_record_is_shown_with_a_queued_message(relay: Server, sink) -> None:  # type: ignore[no-untyped-def]
    sink.answer = lambda verb, argument: b"451 4.3.0 later\r\n" if verb == "MAIL" else None
    send(relay.port, "someone@remote.test")
    relay.wait_log("deferred")
    [entry] = relay.queue()
    shown = relay.run("queue", "show", entry["id"])
    assert "127.0.0.1" in shown
    assert "client.test" in shown
    assert "127.0.0.1" in json.dumps(relay.log("received")[0])


def test_a_null_sender_and_postmaster_are_accepted(server: Server) -> None:
    with smtplib.SMTP("127.0.0.1", server.port) as client:
        assert client.sendmail("", ["postmaster@example.test"], mail().as_bytes()) == {}
    [stored] = server.wait_mail("alice")
    assert stored.startswith(b"Return-Path: <>\n")
