"""Mail that goes on to another host, by relay host, routes and MX."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import PROBES, QUICK
from tests.support.client import Client, mail, send
from tests.support.names import Names
from tests.support.server import Server
from tests.support.sink import Sink
from tests.support.tools import free_port, smtp_source, tool
from tests.support.waiting import wait_for

Serve = Callable[..., Server]


def test_hundreds_of_messages_from_smtp_source_arrive_each_once(relay: Server, sink: Sink) -> None:
    smtp_source(relay.port, "-l", "3000", messages=400, sessions=20)
    arrived = [m.recipients[0] for m in sink.wait(400)]
    assert len(arrived) == len(set(arrived)) == 400
    wait_for(lambda: relay.queue() == [], "an empty queue")


def test_smtp_sink_takes_our_mail(serve: Serve, tmp_path: Path) -> None:
    port = free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    sink = subprocess.Popen([tool("smtp-sink"), *user, f"127.0.0.1:{port}", "100"], cwd=tmp_path)
    try:
        server = serve(relay={"host": f"[127.0.0.1]:{port}"}, queue=QUICK, scheduler=PROBES)
        smtp_source(server.port, messages=50)
        server.wait_log("delivered", 50)
    finally:
        sink.terminate()
        sink.wait()


def test_the_message_arrives_unchanged_behind_what_we_add(relay: Server, sink: Sink) -> None:
    sent = mail().as_bytes() + "\r\n.\r\n..two\r\n\r\nümläut \x00 end\r\n".encode()
    sent = sent.replace(b"\x00", b"\xff")
    with Client(relay.port) as client:
        client.say("EHLO client.test")
        assert client.message(["x@remote.test"], sent.removesuffix(b"\r\n")).startswith("250 ")
    [arrived] = sink.wait(1)
    assert arrived.data.startswith(b"Received: ")
    assert arrived.data.endswith(sent)


def test_recipients_at_two_destinations_get_one_copy_each_destination(serve: Serve) -> None:
    with Sink() as one, Sink() as two:
        routes = [{"match": "one.test", "next_hop": one.next_hop}, {"match": ".two.test", "next_hop": two.next_hop}]
        server = serve(route=routes)
        refused = send(server.port, "a@one.test", "b@one.test", "c@sub.two.test", "alice@example.test")
        assert refused == {}
        assert sorted(one.wait(1)[0].recipients) == ["a@one.test", "b@one.test"]
        assert two.wait(1)[0].recipients == ["c@sub.two.test"]
        server.wait_mail("alice")
        assert (len(one.messages), len(two.messages)) == (1, 1)


def test_utf8_addresses_go_on_with_smtputf8(relay: Server, sink: Sink) -> None:
    with Client(relay.port) as client:
        assert "SMTPUTF8" in client.say("EHLO client.test")
        assert client.say("MAIL FROM:<jürgen@remote.test> SMTPUTF8 BODY=8BITMIME").startswith("250 ")
        assert client.say("RCPT TO:<δοκιμή@remote.test>").startswith("250 ")
        assert client.say("DATA").startswith("354 ")
        assert client.say("Subject: ü\r\n\r\nx\r\n.").startswith("250 ")
    [arrived] = sink.wait(1)
    assert (arrived.sender, arrived.recipients) == ("jürgen@remote.test", ["δοκιμή@remote.test"])
    assert "SMTPUTF8" in arrived.commands[0]


def test_connections_are_kept_for_the_next_message(relay: Server, sink: Sink) -> None:
    for i in range(10):
        send(relay.port, f"user{i}@remote.test")
        sink.wait(i + 1)
    assert sink.connections < 5


def test_a_client_outside_the_networks_may_only_send_to_us(serve: Serve, sink: Sink) -> None:
    server = serve(relay={"host": sink.next_hop, "networks": ["127.0.0.1/32"]})
    with Client(server.port, source="127.0.0.2") as client:
        client.say("EHLO outside.test")
        assert client.say("MAIL FROM:<s@outside.test>").startswith("250 ")
        assert client.say("RCPT TO:<x@remote.test>").startswith("554 5.7.1")
        assert client.say("RCPT TO:<alice@example.test>").startswith("250 ")
        assert client.say("RCPT TO:<@mx.example.test:x@remote.test>")[:1] in "45"
        assert client.say("RCPT TO:<x%remote.test@example.test>")[:1] in "45"
    with Client(server.port) as client:
        client.say("EHLO inside.test")
        assert client.message(["x@remote.test"], b"Subject: x\r\n\r\nx").startswith("250 ")
    assert sink.wait(1)[0].recipients == ["x@remote.test"]


ZONE = """
plain.test. 60 IN MX 20 second.plain.test.
plain.test. 60 IN MX 10 first.plain.test.
first.plain.test. 60 IN A 127.0.0.2
second.plain.test. 60 IN A 127.0.0.3
bare.test. 60 IN A 127.0.0.3
null.test. 60 IN MX 0 .
empty.test. 60 IN TXT "neither MX nor address"
"""


class Mx:
    """Two hosts, a name server that knows them, and a server of ours that asks it."""

    def __init__(self, serve: Serve, stack: ExitStack, *, first: bool = True) -> None:
        self.second = stack.enter_context(Sink(address="127.0.0.3"))
        self.first = stack.enter_context(Sink(address="127.0.0.2", port=self.second.port)) if first else None
        self.names = stack.enter_context(Names(ZONE, broken=("broken.test",)))
        self.server = serve(
            dns={"nameservers": [self.names.nameserver], "timeout": "1s", "tries": 2},
            smtp={"port": self.second.port},
            queue=QUICK,
        )


def test_mail_goes_to_the_preferred_mx_and_the_answer_is_kept(serve: Serve) -> None:
    with ExitStack() as stack:
        mx = Mx(serve, stack)
        assert mx.first
        for i in range(3):
            send(mx.server.port, f"user{i}@plain.test")
            mx.first.wait(i + 1)
        assert mx.second.messages == []
        assert mx.names.questions["plain.test.", "MX"] == 1


@pytest.mark.wish(22)
@pytest.mark.wish(26)
def test_the_next_mx_is_tried_and_every_host_is_logged(serve: Serve) -> None:
    with ExitStack() as stack:
        mx = Mx(serve, stack, first=False)
        send(mx.server.port, "user@plain.test")
        assert mx.second.wait(1)[0].recipients == ["user@plain.test"]
        [delivered] = mx.server.wait_log("delivered")
        assert delivered["relay"] == f"second.plain.test[127.0.0.3]:{mx.second.port}"
        attempt = mx.server.wait_log("attempt")[0]
        assert attempt["relay"] == f"first.plain.test[127.0.0.2]:{mx.second.port}"


def test_a_domain_without_mx_is_reached_by_its_address(serve: Serve) -> None:
    with ExitStack() as stack:
        mx = Mx(serve, stack)
        send(mx.server.port, "user@bare.test")
        assert mx.second.wait(1)[0].recipients == ["user@bare.test"]


@pytest.mark.parametrize(
    ("domain", "status"),
    [("null.test", "5.1.10"), ("missing.test", "5.1.2"), ("empty.test", "5.1.2")],
)
def test_a_domain_that_takes_no_mail_bounces_at_once(serve: Serve, domain: str, status: str) -> None:
    with ExitStack() as stack:
        mx = Mx(serve, stack)
        send(mx.server.port, f"user@{domain}", sender="alice@example.test")
        [report] = mx.server.wait_mail("alice")
        assert f"\nStatus: {status}\n".encode() in report


def test_a_name_server_that_fails_defers(serve: Serve) -> None:
    with ExitStack() as stack:
        mx = Mx(serve, stack)
        send(mx.server.port, "user@broken.test", sender="alice@example.test")
        [deferred, *_] = mx.server.wait_log("deferred")
        assert deferred["dsn"].startswith("4.")
        assert mx.server.mailbox("alice") == []


def test_an_address_literal_is_a_host(serve: Serve) -> None:
    with Sink(address="127.0.0.3") as sink:
        server = serve(smtp={"port": sink.port})
        send(server.port, "user@[127.0.0.3]")
        assert sink.wait(1)[0].recipients == ["user@[127.0.0.3]"]


def test_mail_that_comes_back_to_us_bounces(serve: Serve) -> None:
    port = free_port()
    server = serve(
        listener=[{"bind": f"127.0.0.1:{port}"}],
        route=[{"match": "loop.test", "next_hop": f"[127.0.0.1]:{port}"}],
    )
    send(port, "user@loop.test", sender="alice@example.test")
    [report] = server.wait_mail("alice")
    assert b"\nStatus: 5.4.6\n" in report
    wait_for(lambda: server.queue() == [], "an empty queue")
