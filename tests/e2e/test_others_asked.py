"""What others say about a client, in a server process: DNS lists, greylisting over a crash, settings that are wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.names import Names
from tests.support.server import Server
from tests.support.waiting import wait_for

Serve = Callable[..., Server]
STRANGERS = {"relay": {"networks": []}}
ZONE = """
mail.bad.test.helo.example. 60 IN A 127.0.0.2
mail.bad.test.helo.example. 60 IN TXT "sends what nobody wants"
test.helo.example. 60 IN A 127.0.0.2
world.example. 60 IN A 127.0.0.2
invalid.world.example. 60 IN A 127.0.0.2
"""


def rcpt(server: Server, helo: str = "client.test", sender: str = "joe@there.test") -> str:
    with Client(server.port) as client:
        client.say(f"EHLO {helo}")
        client.say(f"MAIL FROM:<{sender}>")
        return client.say("RCPT TO:<alice@example.test>")


def test_a_listed_name_is_refused_and_a_list_of_everybody_is_left_out(serve: Serve) -> None:
    lists = [{"zone": zone, "kind": "helo"} for zone in ("helo.example", "world.example")]
    with Names(ZONE) as names:
        server = serve(**STRANGERS, dnsbl={"list": lists}, dns={"nameservers": [names.nameserver]})
        [line] = server.wait_log("warning")
        assert line["reason"].startswith("world.example lists what no list may hold")
        assert rcpt(server, "mail.good.test") == "250 2.1.5 Ok"
        refused = "554 5.7.1 HELO name mail.bad.test is listed by helo.example: sends what nobody wants"
        assert rcpt(server, "mail.bad.test") == refused
        [line] = server.wait_log("reject")
        assert (line["rule"], line["why"]) == ("reject_dnsbl", "score 1 (helo.example +1)")


def entries(file: Path) -> int:
    with closing(sqlite3.connect(file)) as db:
        return int(db.execute("SELECT count(*) FROM entry").fetchone()[0])


@pytest.mark.parametrize("killed", [False, True])
def test_greylisting_remembers_over_restarts(serve: Serve, killed: bool) -> None:
    server = serve(**STRANGERS, greylist={"use": "always", "delay": "1h"})
    assert rcpt(server) == "450 4.7.1 Greylisted, try again in 3600 seconds"
    assert server.wait_log("reject")[-1]["why"] == "first attempt"
    if killed:
        wait_for(lambda: entries(server.folder / "spool" / "greylist.db") == 1, "the entry on disk")
        server.kill()
    else:
        assert server.stop() == 0
    server.start()
    assert rcpt(server).startswith("450 4.7.1 Greylisted")
    assert server.wait_log("reject")[-1]["why"] == "too early"
    assert rcpt(server, sender="jim@there.test").startswith("450")
    assert server.wait_log("reject", 2)[-1]["why"] == "first attempt"


def test_rules_say_who_is_asked_and_how_it_counts(serve: Serve) -> None:
    rules = [
        {"check": "reject_dnsbl", "mode": "soft-fail", "name": "bad names"},
        {"check": "greylist", "sender": ["new.test"], "helo": ["!table:known"]},
        {"check": "check_policy_service", "sender": ["asked.test"], "reply": "Ask the postmaster"},
    ]
    # nobody is there, so its default is the answer
    service = {"address": "unix:/nowhere/socket", "use": "by_rule", "default_action": "REJECT"}
    with Names(ZONE) as names:
        server = serve(
            **STRANGERS,
            policy={"rcpt": rules},
            dnsbl={"list": [{"zone": "helo.example", "kind": "helo"}], "use": "by_rule", "reasons": False},
            greylist={"use": "by_rule"},
            table={"known": {"entries": {"known": ""}}},
            policy_service=[service],
            dns={"nameservers": [names.nameserver]},
        )
        assert rcpt(server) == "250 2.1.5 Ok"
        assert rcpt(server, "mail.bad.test") == "450 4.7.1 HELO name mail.bad.test is listed by helo.example"
        assert rcpt(server, sender="joe@new.test").startswith("450 4.7.1 Greylisted")
        assert rcpt(server, "known", sender="joe@new.test") == "250 2.1.5 Ok"
        assert rcpt(server, sender="joe@asked.test") == "554 5.7.1 Ask the postmaster"
        assert server.wait_log("reject")[0]["rule"].startswith("bad names (")


def test_a_function_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    server = Server(tmp_path, policy_hook=[{"call": "no_such_module:check"}]).launch()
    assert server.wait_exit() != 0
    assert "policy_hook[0].call: the module no_such_module cannot be imported" in server.output
