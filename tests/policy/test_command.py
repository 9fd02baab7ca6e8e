"""`mailflow policy …`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import textwrap

import pytest

from mailflow.cli.app import run as main
from mailflow.ingress.policy.catalog import CATALOG

CONFIG = """\
hostname = "mx.here.test"
[[listener]]
bind = "127.0.0.1:0"
[[listener]]
bind = "127.0.0.1:0"
protocol = "submission"
[local]
domains = ["here.test"]
users = ["alice", "list"]
[greylist]
use = "by_rule"
[table.partners]
entries = { "bad.test" = "REJECT go away" }
[policy]
client_names = "none"
connect = ["permit_mynetworks", "reject_unknown_client_hostname"]
[[policy.rcpt]]
name = "partners may send to the list"
client = [".partner.test"]
recipient = ["list@here.test"]
action = "permit"
[[policy.rcpt]]
name = "members only"
recipient = ["list@here.test"]
action = "reject"
reply = "550 5.7.1 Members only"
[[policy.rcpt]]
check = "check_sender_access partners"
mode = "log-only"
[[policy.rcpt]]
check = "greylist"
[[policy.data]]
action = "hold"
name = "look at it first"
"""


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.toml").write_text(CONFIG)

    def run(*words, code=0):
        assert main(["policy", *words, "--config", "m.toml"]) == code
        return capsys.readouterr().out

    return run


def text(words):
    return textwrap.dedent(words).lstrip("\n")


def test_accepted(run):
    words = ("--client", "192.0.2.9", "--name", "mx.partner.test", "--from", "joe@bad.test", "--to", "alice@here.test")
    assert run("test", *words) == text("""
        connect 192.0.2.9: accepted, 220
        helo client.example: accepted, 250
        mail <joe@bad.test>: accepted, 250 2.1.0 Ok
            connect: permit_mynetworks (m.toml:16): no objection
            connect: reject_unknown_client_hostname (m.toml:16): no objection
            rcpt: partners may send to the list (m.toml:17): does not apply
            rcpt: members only (m.toml:22): does not apply
            check_sender_access partners (m.toml:27): log-only: would refuse, 554 5.7.1 go away (partners: bad.test)
            rcpt: check_sender_access partners (m.toml:27): no objection
            greylist: not asked in a test
            rcpt: greylist (m.toml:30): no objection
        rcpt <alice@here.test>: accepted, 250 2.1.5 Ok
            data: look at it first (m.toml:32): hold (look at it first)
        data: accepted, 354
        end: accepted, 250 2.0.0 Ok
        accepted, and kept in the queue: look at it first
    """)


def test_refused(run):
    words = (
        "--client",
        "198.51.100.1",
        "--name",
        "mx.other.test",
        "--from",
        "joe@there.test",
        "--to",
        "list@here.test",
    )
    assert run("test", *words, code=1) == text("""
        connect 198.51.100.1: accepted, 220
        helo client.example: accepted, 250
        mail <joe@there.test>: accepted, 250 2.1.0 Ok
            connect: permit_mynetworks (m.toml:16): no objection
            connect: reject_unknown_client_hostname (m.toml:16): no objection
            rcpt: partners may send to the list (m.toml:17): does not apply
            rcpt: members only (m.toml:22): refuse, 550 5.7.1 Members only
        rcpt <list@here.test>: refused, 550 5.7.1 Members only
        refused by members only (m.toml:22): 550 5.7.1 Members only
    """)


def test_refused_for_now_and_always_in_force(run):
    client = ("--client", "198.51.100.1", "--from", "joe@there.test")
    out = run("test", *client, "--name", "", "--to", "alice@here.test", code=75)
    assert out.endswith(
        "refused by reject_unknown_client_hostname (m.toml:16): 450 4.7.25 Client host rejected: cannot find your hostname\n"
    )
    out = run("test", *client, "--name", "x.test", "--to", "x@far.test", code=1)
    assert out.endswith("refused by reject_unauth_destination: 554 5.7.1 Relay access denied\n")
    assert run("test", "--client", "192.0.2.1").endswith("mail <>: accepted, 250 2.1.0 Ok\nno objection so far\n")


def test_listeners(run):
    client = ("--client", "198.51.100.1", "--name", "x.test", "--to", "alice@here.test", "--listener", "submission")
    assert run("test", *client, code=1).endswith(
        "refused by reject_unauthenticated: 530 5.7.0 Authentication required\n"
    )
    assert run("test", *client, "--login", "joe").endswith("accepted\n")
    run("test", "--client", "192.0.2.1", "--listener", "nowhere", code=2)
    run("test", "--client", "somewhere", code=2)


def test_json(run):
    words = ("--client", "192.0.2.9", "--name", "mx.partner.test", "--from", "joe@there.test", "--to", "list@here.test")
    found = json.loads(run("test", "--json", *words))
    assert (found["accepted"], found["reply"], found["decided_by"]) == (True, "250 2.0.0 Ok", "")
    assert (found["recipients"], found["hold"]) == (["list@here.test"], "look at it first")
    assert {
        "stage": "rcpt",
        "about": "",
        "rules": "rcpt",
        "rule": "partners may send to the list",
        "origin": "m.toml:17",
        "outcome": "permit",
        "why": "",
        "reply": "",
    } in found["steps"]


def test_show(run):
    assert run("show") == text("""
        always; for clients that may send anywhere, only reject_unlisted_recipient
          reject_unqualified_sender       enforce
          reject_unqualified_recipient    enforce
          reject_unlisted_recipient       enforce
          reject_unauth_destination       enforce
        policy
          connect, asked at rcpt
            1. permit_mynetworks  m.toml:16
            2. reject_unknown_client_hostname  m.toml:16
          helo, asked at rcpt: nothing
          mail, asked at rcpt: nothing
          rcpt
            1. "partners may send to the list": permit client=[".partner.test"] recipient=["list@here.test"]  m.toml:17
            2. "members only": reject recipient=["list@here.test"] reply="550 5.7.1 Members only"  m.toml:22
            3. check_sender_access partners mode="log-only"  m.toml:27
            4. greylist  m.toml:30
          data
            1. "look at it first": hold  m.toml:32
          end: nothing
        policy.set.submission
          login, asked at mail
            1. reject_unauthenticated
          connect, asked at rcpt: nothing
          helo, asked at rcpt: nothing
          mail, asked at rcpt: nothing
          rcpt: nothing
          data: nothing
          end: nothing
    """)


def test_checks(run):
    out = run("checks")
    assert all(f"\n{name}" in f"\n{out}" for name in CATALOG)
    assert "check_client_access TABLE\n" in out
    assert "check_policy_service [SERVICE]\n" in out


def test_a_test_leaves_nothing_behind(run, tmp_path):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    run("test", "--client", "192.0.2.9", "--name", "x.test", "--to", "alice@here.test")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
