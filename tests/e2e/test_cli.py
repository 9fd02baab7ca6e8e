"""The commands, with the server running, stopped and killed: all must tell and do the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import PROBES
from tests.support.client import send
from tests.support.server import Server
from tests.support.sink import Sink
from tests.support.waiting import wait_for

Serve = Callable[..., Server]
STATES = ["running", "stopped", "killed"]


def later(verb: str, argument: str) -> bytes | None:
    del argument
    return b"451 4.3.0 Not now\r\n" if verb == "MAIL" else None


@pytest.fixture
def waiting(tmp_path: Path, sink: Sink) -> Server:
    """A running server with three messages that the next hop has put off."""
    sink.answer = later
    server = Server(tmp_path / "server", relay={"host": sink.next_hop}, scheduler=PROBES).start()
    try:
        for name in ("one", "two", "three"):
            send(server.port, f"{name}@remote.test", sender="alice@example.test", subject=name)
        server.wait_log("deferred", 3)
        # The log line is written before the commit that makes the deferral visible to others.
        wait_for(lambda: [e for e in server.queue() if "Not now" in json.dumps(e)][2:], "three deferred messages")
    except BaseException:
        server.kill()
        raise
    return server


def put_in(server: Server, state: str) -> None:
    if state == "stopped":
        assert server.stop() == 0
    elif state == "killed":
        server.kill()


def subject_of(server: Server, entry: dict[str, object]) -> str:
    shown = server.run("queue", "show", str(entry["id"]))
    return next(name for name in ("one", "two", "three") if f"{name}@remote.test" in shown)


@pytest.mark.wish(51)
@pytest.mark.parametrize("state", STATES)
def test_the_queue_is_listed_whether_the_server_runs_or_not(waiting: Server, state: str) -> None:
    with_server = waiting.queue()
    put_in(waiting, state)
    try:
        entries = waiting.queue()
        assert [e["id"] for e in entries] == [e["id"] for e in with_server]
        assert len(entries) == 3
        text = waiting.run("queue", "list")
        for entry in entries:
            assert entry["id"] in text
            assert entry["sender"] == "alice@example.test"
        assert "Not now" in waiting.run("queue", "show", entries[0]["id"])
    finally:
        waiting.kill()


@pytest.mark.parametrize("state", STATES)
def test_delete_hold_and_release_act_with_and_without_a_server(waiting: Server, sink: Sink, state: str) -> None:
    put_in(waiting, state)
    try:
        ids = {subject_of(waiting, e): e["id"] for e in waiting.queue()}
        waiting.run("queue", "delete", ids["one"])
        waiting.run("queue", "hold", ids["two"], ids["three"])
        assert {e["id"] for e in waiting.queue()} == {ids["two"], ids["three"]}
        waiting.run("queue", "release", ids["three"])
        sink.answer = lambda verb, argument: None
        if state != "running":
            waiting.start()
        waiting.run("queue", "flush")
        assert sink.wait(1)[0].recipients == ["three@remote.test"]
        wait_for(lambda: len(waiting.queue()) == 1, "one message in the queue")
        waiting.run("queue", "flush")
        assert [e["id"] for e in waiting.queue()] == [ids["two"]]
        waiting.run("queue", "release", ids["two"])
        waiting.run("queue", "flush")
        assert sink.wait(2)[1].recipients == ["two@remote.test"]
        wait_for(lambda: waiting.queue() == [], "an empty queue")
        assert waiting.run("queue", "list", "--json") == ""
    finally:
        waiting.kill()


@pytest.mark.parametrize("state", STATES)
def test_an_id_that_is_not_there_is_an_error(waiting: Server, state: str) -> None:
    put_in(waiting, state)
    try:
        for words in (["show", "0000000000z"], ["delete", "0000000000z"], ["hold", "nonsense!"]):
            waiting.run("queue", *words, expect=None)
            assert len(waiting.queue()) == 3
    finally:
        waiting.kill()


@pytest.mark.parametrize("state", STATES)
def test_send_puts_a_message_into_the_queue(waiting: Server, sink: Sink, state: str) -> None:
    put_in(waiting, state)
    try:
        text = "From: alice@example.test\nTo: four@remote.test\nBcc: five@remote.test\nSubject: by command\n\nHello\n"
        waiting.run("send", "-t", stdin=text)
        waiting.run("send", "-f", "alice@example.test", "six@remote.test", stdin="Subject: six\n\nHello\n")
        sink.answer = lambda verb, argument: None
        if state != "running":
            waiting.start()
        waiting.run("queue", "flush")
        wait_for(lambda: len([m for m in sink.messages if b"by command" in m.data]) >= 1, "the message")
        wait_for(lambda: waiting.queue() == [], "an empty queue")
        everyone = {r for m in sink.messages for r in m.recipients}
        assert {"four@remote.test", "five@remote.test", "six@remote.test"} <= everyone
        assert all(b"five@remote.test" not in m.data.partition(b"\r\n\r\n")[0] for m in sink.messages)
    finally:
        waiting.kill()


def test_status_says_whether_a_server_runs(waiting: Server) -> None:
    try:
        status = json.loads(waiting.run("status", "--json"))
        assert (status["state"], status["hostname"]) == ("running", "mx.example.test")
        assert status["listen"] == [f"127.0.0.1:{waiting.port}"]
        assert "running" in waiting.run("status")
        waiting.stop()
        waiting.run("status", expect=1)
    finally:
        waiting.kill()


def test_resolve_says_where_and_why(tmp_path: Path) -> None:
    server = Server(
        tmp_path,
        relay={"host": "[127.0.0.1]:2526"},
        route=[{"match": ".slow.test", "next_hop": "[127.0.0.2]:2527"}],
    )
    local = server.run("resolve", "alice@example.test")
    assert "local" in local
    assert "alice" in local
    assert "local.domains" in local
    routed = server.run("resolve", "x@very.slow.test")
    assert "smtp" in routed
    assert "[127.0.0.2]:2527" in routed
    assert "mailflow.toml:" in routed
    assert "relay.host" in server.run("resolve", "x@elsewhere.test")
    assert "5.1.1" in server.run("resolve", "nobody@example.test", expect=None)


@pytest.mark.wish(3)
def test_the_configuration_of_a_named_file_is_shown(tmp_path: Path) -> None:
    server = Server(tmp_path, queue={"lifetime": "3d"})
    shown = server.run("config", "show", "--file", str(server.config))
    assert "mx.example.test" in shown
    assert "3d" in shown
    server.run("config", "check", "--file", str(server.config), expect=None)
    server.run("config", "check")
    server.config.write_text(server.config.read_text() + "\n[nonsense]\nx = 1\n")
    server.run("config", "check", expect=2)


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert "0.1.0" in Server(tmp_path).run("version", expect=None)
