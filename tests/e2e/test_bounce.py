"""What happens to mail that cannot be delivered: retries, reports, and an end to both."""

from __future__ import annotations

import email
import re
import smtplib
from collections.abc import Callable
from email.message import Message

import pytest

from tests.e2e.conftest import PROBES, QUICK
from tests.support.client import mail, send
from tests.support.server import Server
from tests.support.sink import Manner, Sink
from tests.support.waiting import wait_for

Serve = Callable[..., Server]


def refuse(stage: str, reply: bytes, times: int = 10**9) -> Callable[[str, str], bytes | None]:
    """An `answer` for a sink: this reply at this stage, so many times; then all is well."""
    left = iter(range(times))
    return lambda verb, argument: reply if verb == stage and next(left, None) is not None else None


def parts(report: bytes) -> tuple[Message, str, list[Message], Message]:
    """A report's whole, its words, its delivery-status groups, and its last part."""
    whole = email.message_from_bytes(report)
    assert whole.get_content_type() == "multipart/report"
    assert whole.get_param("report-type") == "delivery-status"
    words, status, original = whole.get_payload()
    assert status.get_content_type() == "message/delivery-status"
    return whole, words.get_payload(decode=True).decode(), status.get_payload(), original


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "."])
def test_a_4xx_is_tried_again_until_it_is_taken(relay: Server, sink: Sink, stage: str) -> None:
    sink.answer = refuse(stage, b"451 4.3.0 Not now\r\n", times=2)
    send(relay.port, "user@remote.test")
    assert len(sink.wait(1)) == 1
    deferred = relay.wait_log("deferred", 2)
    assert [d["dsn"] for d in deferred] == ["4.3.0", "4.3.0"]
    assert relay.wait_log("delivered")[0]["to"] == "user@remote.test"
    wait_for(lambda: relay.queue() == [], "an empty queue")


@pytest.mark.wish(73)
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "."])
def test_a_5xx_comes_back_as_a_report(relay: Server, sink: Sink, stage: str) -> None:
    sink.answer = refuse(stage, b"550 5.7.1 Not from you\r\n")
    send(relay.port, "user@remote.test", sender="alice@example.test", subject="the original subject")
    [report] = relay.wait_mail("alice")
    assert report.startswith(b"Return-Path: <>\n")
    whole, words, [about, recipient], original = parts(report)
    assert "alice@example.test" in whole["To"]
    assert "user@remote.test" in words
    assert "550 5.7.1 Not from you" in words
    assert about["Reporting-MTA"] == "dns; mx.example.test"
    assert recipient["Final-Recipient"].lower() == "rfc822; user@remote.test"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "5.7.1"
    assert "550 5.7.1 Not from you" in recipient["Diagnostic-Code"]
    assert "the original subject" in str(original)
    [bounced] = relay.wait_log("bounced")
    assert (bounced["to"], bounced["dsn"]) == ("user@remote.test", "5.7.1")
    assert "550 5.7.1 Not from you" in bounced["reason"]


def test_only_the_refused_recipient_bounces(relay: Server, sink: Sink) -> None:
    def answer(verb: str, argument: str) -> bytes | None:
        return b"550 5.1.1 Unknown\r\n" if verb == "RCPT" and "bad" in argument else None

    sink.answer = answer
    send(relay.port, "good@remote.test", "bad@remote.test", "fine@remote.test", sender="bob@example.test")
    assert sorted(sink.wait(1)[0].recipients) == ["fine@remote.test", "good@remote.test"]
    [report] = relay.wait_mail("bob")
    _, words, groups, _ = parts(report)
    assert [g["Final-Recipient"] for g in groups[1:]] == ["rfc822; bad@remote.test"]
    assert "good@remote.test" not in words


def test_a_bounce_does_not_bounce(relay: Server, sink: Sink) -> None:
    sink.answer = refuse("RCPT", b"550 5.1.1 Unknown\r\n")
    with smtplib.SMTP("127.0.0.1", relay.port) as client:
        client.sendmail("", ["user@remote.test"], mail().as_bytes())
    relay.wait_log("bounced")
    wait_for(lambda: relay.queue() == [], "an empty queue")
    assert relay.mailbox("alice") == relay.mailbox("bob") == []
    assert len(relay.log("queued")) == 1


def test_a_report_that_cannot_be_delivered_is_the_end(relay: Server, sink: Sink) -> None:
    """The sender does not exist either: its report is refused, and nothing is sent about that."""
    sink.answer = refuse("RCPT", b"550 5.1.1 Unknown\r\n")
    send(relay.port, "user@remote.test", sender="ghost@remote.test")
    relay.wait_log("bounced", 2)
    wait_for(lambda: relay.queue() == [], "an empty queue")
    assert len(relay.log("queued")) == 2


@pytest.mark.wish(24)
def test_mail_that_gets_too_old_bounces_and_says_how_long_it_was_tried(serve: Serve) -> None:
    with Sink(answer=refuse("RCPT", b"450 4.2.1 Mailbox is busy\r\n")) as sink:
        server = serve(relay={"host": sink.next_hop}, queue=QUICK | {"lifetime": "1s"}, scheduler=PROBES)
        send(server.port, "user@remote.test", sender="alice@example.test")
        [report] = server.wait_mail("alice")
    _, words, [_, recipient], _ = parts(report)
    attempts = len(server.log("deferred")) + 1
    assert attempts >= 3
    assert re.search(rf"[1-9]\d*(\.\d+)? ?s(econds?)?\b.*\b{attempts} attempts", words, re.DOTALL)
    assert "450 4.2.1 Mailbox is busy" in words
    assert recipient["Status"].startswith(("4.", "5."))
    assert recipient["Action"] == "failed"


def test_an_unreachable_host_defers_and_later_delivers(serve: Serve, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with Sink() as gone:
        port = gone.port
    server = serve(relay={"host": f"[127.0.0.1]:{port}"}, queue=QUICK, scheduler=PROBES)
    send(server.port, "user@remote.test")
    assert "refused" in server.wait_log("deferred")[0]["reason"]
    with Sink(port=port) as back:
        assert back.wait(1)[0].recipients == ["user@remote.test"]


def test_notify_never_is_obeyed(relay: Server, sink: Sink) -> None:
    sink.answer = refuse("RCPT", b"550 5.1.1 Unknown\r\n")
    with smtplib.SMTP("127.0.0.1", relay.port) as client:
        client.ehlo("client.test")
        client.mail("alice@example.test")
        client.rcpt("user@remote.test", ["NOTIFY=NEVER"])
        client.data(mail().as_bytes())
    relay.wait_log("bounced")
    wait_for(lambda: relay.queue() == [], "an empty queue")
    assert relay.mailbox("alice") == []


SHORT_WAITS = {
    "greeting_timeout": "300ms",
    "hello_timeout": "300ms",
    "mail_timeout": "300ms",
    "rcpt_timeout": "300ms",
    "data_timeout": "300ms",
    "dot_timeout": "300ms",
}


@pytest.mark.parametrize("manner", [Manner.MUTE, Manner.BUSY, Manner.GARBAGE, Manner.STUCK_AT_DOT, Manner.HANGS_UP])
def test_a_host_that_misbehaves_defers_its_mail_and_nobody_elses(serve: Serve, sink: Sink, manner: Manner) -> None:
    with Sink(manner=manner) as bad:
        server = serve(
            route=[{"match": "bad.test", "next_hop": bad.next_hop}],
            relay={"host": sink.next_hop},
            smtp=SHORT_WAITS,
            queue=QUICK,
            scheduler=PROBES,
        )
        send(server.port, "user@bad.test", "other@remote.test")
        assert sink.wait(1)[0].recipients == ["other@remote.test"]
        deferred = server.wait_log("deferred", 2, to="user@bad.test")
        assert all(d["dsn"].startswith("4.") for d in deferred)
        bad.manner = Manner.PROPER
        assert "user@bad.test" in bad.wait(1)[0].recipients


def test_a_host_that_speaks_byte_by_byte_gets_its_mail(serve: Serve) -> None:
    with Sink(manner=Manner.BYTEWISE) as sink:
        server = serve(relay={"host": sink.next_hop}, queue=QUICK)
        for i in range(3):
            send(server.port, f"user{i}@remote.test")
        assert len(sink.wait(3)) == 3
        assert server.log("deferred") == []


@pytest.mark.wish(1)
@pytest.mark.wish(57)
def test_mute_hosts_do_not_hold_up_a_good_one(serve: Serve, sink: Sink) -> None:
    with Sink(manner=Manner.MUTE) as mute:
        server = serve(route=[{"match": ".mute.test", "next_hop": mute.next_hop}], relay={"host": sink.next_hop})
        for i in range(100):
            send(server.port, f"user@{i}.mute.test")
        send(server.port, "user@good.test")
        assert sink.wait(1, timeout=5)[0].recipients == ["user@good.test"]
