"""ETRN (RFC 1985): a site that was down says that it is up, and has its mail at once, however long it would have waited."""

from __future__ import annotations

import smtplib
from collections.abc import Callable

import pytest

from tests.support.server import Server
from tests.support.sink import Sink
from tests.support.waiting import wait_for


def as_usual(_verb: str, _argument: str) -> bytes | None:
    return None


def not_now(verb: str, _argument: str) -> bytes | None:
    return b"421 4.3.2 Not now\r\n" if verb == "MAIL" else None


@pytest.mark.wish(79)
def test_a_site_asks_for_its_mail(serve: Callable[..., Server], sink: Sink) -> None:
    """The backup host of two sites, both dead, whose mail would be tried in an hour."""
    with Sink() as other:
        sink.answer = other.answer = not_now
        server = serve(
            relay={"domains": ["site.test", "other.test"], "networks": ["192.0.2.0/24"]},
            route=[
                {"match": "site.test", "next_hop": sink.next_hop},
                {"match": "other.test", "next_hop": other.next_hop},
            ],
            queue={"backoff": ["1h", "2h"]},
            scheduler={"probe": ["1h", "1h"], "dead_after": 1},
        )
        with smtplib.SMTP(*server.address) as client:
            for number in range(5):
                client.sendmail("a@there.test", [f"user{number}@site.test"], b"Subject: site\r\n\r\n")
            client.sendmail("a@there.test", ["user@other.test"], b"Subject: other\r\n\r\n")
        server.wait_log("deferred", to="user0@site.test")
        server.wait_log("deferred", to="user@other.test")
        assert len(server.queue()) == 6

        sink.answer = as_usual
        with smtplib.SMTP(*server.address) as client:
            client.ehlo("site.test")
            assert client.has_extn("etrn")
            assert client.docmd("ETRN", "site.test") == (
                253,
                b"2.0.0 OK, 5 pending messages for node site.test started",
            )
            sink.wait(5)
            assert {r for m in sink.messages for r in m.recipients} == {f"user{n}@site.test" for n in range(5)}
            wait_for(lambda: len(server.queue()) == 1, "the other site's message alone")
            assert client.docmd("ETRN", "site.test")[0] == 251
            assert client.docmd("ETRN", "elsewhere.test")[0] == 459
            other.answer = as_usual
            assert client.docmd("ETRN", "@other.test")[0] == 253
        assert other.wait(1)[0].recipients == ["user@other.test"]
        wait_for(lambda: server.queue() == [], "an empty queue")
        assert [e["nrcpt"] for e in server.log("etrn")] == ["5", "0", "1"]
