"""Who may use which sender address."""

from __future__ import annotations

import pytest

from mailflow.envelope import Peer
from mailflow.ingress.auth.parts import Auth
from mailflow.ingress.auth.senders import NOT_LOGGED_IN, NOT_OWNED
from mailflow.ingress.auth.settings import AuthSettings
from mailflow.ingress.stage import Stage
from mailflow.tables.kinds import make
from tests.ingress.fakes import FakeLog

ENTRIES = {
    "alice@example.org": ["alice"],
    "sales@example.org": ["Alice", "bob"],
    "@example.org": ["boss"],
    "none@example.org": [],
}


class Situation:
    def __init__(self, sender: str, login: str) -> None:
        self.sender, self.peer = sender, Peer("192.0.2.1", login=login)


def ask(tmp_path, sender, login, tables=None, **settings):
    settings = {"sender_login": ENTRIES} | settings
    auth = Auth(AuthSettings(**settings), spool=tmp_path, log=FakeLog())
    (guard,) = auth.guards(tables or {})
    assert guard.stages == (Stage.MAIL,)
    return guard.at(Stage.MAIL)(Situation(sender, login))


@pytest.mark.parametrize(
    ("sender", "login"),
    [
        ("alice@example.org", "alice"),
        ("Alice@Example.ORG", "ALICE"),
        ("alice+news@example.org", "alice"),
        ("sales@example.org", "bob"),
        ("anybody@example.org", "boss"),
        ("", "alice"),
        ("joe@example.net", "joe@example.net"),
        ("joe+x@example.net", "joe@example.net"),
        ("alice@example.org", ""),  # by default only logins are held to it
    ],
)
def test_allowed(tmp_path, sender, login):
    assert ask(tmp_path, sender, login) is None


@pytest.mark.parametrize(
    ("sender", "login"),
    [
        ("alice@example.org", "bob"),
        ("alice@example.org", "boss"),  # the rest of a domain is not the whole of it
        ("none@example.org", "boss"),
        ("alice@elsewhere.org", "alice"),
        ("alice", "bob"),
        ("other@example.net", "joe@example.net"),
    ],
)
def test_refused(tmp_path, sender, login):
    verdict = ask(tmp_path, sender, login)
    assert verdict.reply == NOT_OWNED
    assert verdict.reply.text == "553 5.7.1 Sender address rejected: not owned by this login"


def test_everybody(tmp_path):
    asked = {
        s: ask(tmp_path, s, "", sender_check="everybody")
        for s in ("alice@example.org", "x@example.org", "none@example.org", "x@example.net", "")
    }
    assert [sender for sender, verdict in asked.items() if verdict] == ["alice@example.org", "x@example.org"]
    assert asked["alice@example.org"].reply == NOT_LOGGED_IN


def test_tables_behind_the_entries(tmp_path):
    tables = {
        "text": make("text", [("carol@example.org", "carol, Dave", 1), ("alice@example.org", "eve", 2)]),
        "patterns": make("regexp", [(r"^(sub|pub)@.*", "editor", 1)]),
    }
    more = {"tables": tables, "sender_login_tables": ["text", "patterns"]}
    for sender, login in (("carol@example.org", "dave"), ("pub@example.net", "editor"), ("alice@example.org", "alice")):
        assert ask(tmp_path, sender, login, **more) is None
    for sender, login in (("carol@example.org", "eve"), ("alice@example.org", "eve"), ("xpub@example.net", "editor")):
        assert ask(tmp_path, sender, login, **more).reply == NOT_OWNED


@pytest.mark.parametrize("settings", [{"sender_check": "no"}, {"sender_login": {}}])
def test_nothing_to_check_is_no_guard(tmp_path, settings):
    auth = Auth(AuthSettings(**({"sender_login": ENTRIES} | settings)), spool=tmp_path, log=FakeLog())
    assert auth.guards({}) == []
