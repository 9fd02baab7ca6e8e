"""The command line beside a running server, a stopped one and a killed one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailflow.cli.app import run
from tests.support.loading import HEAVY, run_loading
from tests.support.server import Server

ROUTES = [{"match": "dead.example", "next_hop": "[127.0.0.1]:1"}]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), route=ROUTES) as running:
        yield running


@pytest.fixture
def mailflow(server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("MAILFLOW_CONFIG", str(server.config))

    def call(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(words)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def send(mailflow: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    def send(*words: str) -> tuple[int, str, str]:
        text = tmp_path / "message"
        text.write_text("Subject: hello\n\nHello.\n")
        with text.open() as stream:
            monkeypatch.setattr("sys.stdin", stream)
            return mailflow("send", "-f", "me@example.test", *words)

    return send


def rows(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_status(mailflow: Call, server: Server) -> None:
    code, out, err = mailflow("status", "--json")
    status = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert status["hostname"] == "mx.example.test"
    assert status["listen"] == ["{}:{}".format(*server.address)]
    assert status["stress"] is False
    assert "hostname" in mailflow("status")[1]


def test_a_message_is_sent_through_the_running_server(send: Call, server: Server) -> None:
    code, out, _ = send("alice@example.test")
    assert code == 0
    assert server.wait_log("delivered", id=out.strip(), to="alice@example.test")
    assert b"Subject: hello" in server.wait_mail("alice")[0]
    code, out, err = send("nobody@example.test")
    assert (code, out) == (1, "")
    assert "550 5.1.1" in err


def test_a_second_server_is_refused_in_words(mailflow: Call, server: Server) -> None:
    code, _, err = mailflow("serve", "--set", "log.to=none")
    assert code == 1
    assert err.startswith("mailflow: ")
    assert len(err.splitlines()) == 1
    assert not server.ended


def test_without_its_control_socket_the_queue_is_not_touched(mailflow: Call, send: Call, server: Server) -> None:
    number = send("x@dead.example")[1].strip()
    code, _, err = mailflow("queue", "delete", number, "--set", "control.enabled=false")
    assert code == 1
    assert err.startswith("mailflow: ")
    assert send("x@dead.example", "--set", "control.enabled=false")[0] == 75
    assert [row["id"] for row in rows(mailflow("queue", "list", "--json")[1])] == [number]
    assert mailflow("queue", "delete", number)[0] == 0


def test_the_running_server_is_asked_though_the_file_has_a_mistake_by_now(
    mailflow: Call, send: Call, server: Server
) -> None:
    number = send("x@dead.example")[1].strip()
    text = server.config.read_text()
    server.config.write_text(text + "\n[limits]\nrecipient = 5\n")
    try:
        assert mailflow("status", "--json")[0] == 0
        assert mailflow("queue", "hold", number)[:2] == (0, f"{number}  on hold\n")
        assert mailflow("queue", "compact", "--json")[0] == 0
        assert mailflow("queue", "delete", number)[:2] == (0, f"{number}  deleted\n")
    finally:
        server.config.write_text(text)


def test_what_asks_the_server_loads_no_settings(send: Call, server: Server) -> None:
    number = send("x@dead.example")[1].strip()
    for words in (["status"], ["queue", "hold", number], ["queue", "flush", "[192.0.2.1]"], ["queue", "compact"]):
        loaded, out = run_loading(server.config, *words)
        assert out
        assert loaded & HEAVY == set(), words
    assert run_loading(server.config, "queue", "delete", "--all", "--json")[0] & HEAVY == set()


@pytest.mark.wish(51)
def test_listing_and_changing_while_it_runs_after_a_kill_and_when_stopped(
    mailflow: Call, send: Call, server: Server
) -> None:
    number = send("x@dead.example")[1].strip()
    for state in ("runs", "killed", "again", "stopped"):
        if state == "killed":
            server.kill()
        elif state == "again":
            server.start()
        elif state == "stopped":
            assert server.stop() == 0
        listed = mailflow("queue", "list", "--json")
        assert (listed[0], listed[2]) == (0, ""), state
        assert [row["id"] for row in rows(listed[1])] == [number], state
        assert mailflow("queue", "hold", number)[:2] == (0, f"{number}  on hold\n"), state
        assert mailflow("queue", "hold", number)[0] in (0, 1)
        assert rows(mailflow("queue", "show", number, "--json")[1])[0]["recipients"][0]["state"] == "held", state
        assert mailflow("queue", "release", number)[0] == 0, state
        assert mailflow("queue", "flush", "--recipient", "*@dead.example")[1].startswith("1 recipient in 1 message"), (
            state
        )
        assert rows(mailflow("queue", "count", "--sender", "me@*", "--json")[1])[0]["messages"] == 1, state
        assert mailflow("queue", "check", "--full")[:2] == (0, "The queue is whole\n"), state
        assert mailflow("queue", "compact", "--json")[0] == 0, state
        if state in ("runs", "again"):
            code, _, err = mailflow("queue", "check", "--repair")
            assert (code, "in use by another process" in err) == (2, True)
    assert mailflow("queue", "delete", "--all")[0] == 0
    assert mailflow("queue", "list")[1] == "Mail queue is empty\n"
