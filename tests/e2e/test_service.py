"""Starting and ending: the ready line, the notify socket, SIGTERM, a spool that is in use, a configuration that is wrong."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client import Client, mail, send
from tests.support.server import Server, to_toml
from tests.support.sink import Manner, Sink
from tests.support.waiting import wait_for

Serve = Callable[..., Server]


def test_the_ready_line_names_every_address(serve: Serve) -> None:
    server = serve(listener=[{"bind": "127.0.0.1:0"}, {"bind": "127.0.0.2:0"}])
    hosts = [host for host, _ in server.addresses]
    assert hosts == ["127.0.0.1", "127.0.0.2"]
    for host, port in server.addresses:
        with socket.create_connection((host, port), 5) as connection:
            assert connection.recv(100).startswith(b"220 mx.example.test ")


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)
        server = Server(tmp_path / "server")
        server.environment["NOTIFY_SOCKET"] = path
        with server:
            assert b"READY=1" in manager.recv(4096).split(b"\n")
            assert server.stop() == 0
            assert b"STOPPING=1" in manager.recv(4096).split(b"\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(server: Server, number: signal.Signals) -> None:
    os.kill(server.pid, number)
    assert server.wait_exit() == 0


def test_an_idle_session_is_told_421_when_the_server_stops(server: Server) -> None:
    with Client(server.port) as client:
        client.say("EHLO client.test")
        os.kill(server.pid, signal.SIGTERM)
        assert client.reply().startswith("421 4.3.2")
        assert server.wait_exit() == 0


def test_a_message_under_way_is_finished_when_the_server_stops(server: Server) -> None:
    with Client(server.port) as client:
        client.say("EHLO client.test")
        for command in ("MAIL FROM:<s@client.test>", "RCPT TO:<alice@example.test>", "DATA"):
            client.say(command)
        client.send(b"Subject: half\r\n\r\n")
        os.kill(server.pid, signal.SIGTERM)
        wait_for(lambda: _refuses(server.port), "no more connections")
        assert client.say("the rest\r\n.").startswith("250 ")
        assert server.wait_exit() == 0
    server.start()
    assert b"the rest" in server.wait_mail("alice")[0]


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_stopping_waits_no_longer_than_the_grace(serve: Serve) -> None:
    with Sink(manner=Manner.MUTE) as mute:
        server = serve(relay={"host": mute.next_hop}, shutdown_grace="500ms")
        send(server.port, "user@remote.test")
        wait_for(lambda: mute.connections, "a connection to the host that never speaks")
        assert server.stop() == 0
        server.start()
        assert [entry["id"] for entry in server.queue()] != []


def test_sessions_and_deliveries_share_one_grace(serve: Serve, sink: Sink) -> None:
    """A client that stalls inside its message uses the whole grace; a delivery that stalls gets no second one."""
    asked, go_on = threading.Event(), threading.Event()

    def stall(verb: str, _argument: str) -> None:
        if verb == "MAIL":
            asked.set()
            go_on.wait(20)

    sink.answer = stall
    server = serve(relay={"host": sink.next_hop}, shutdown_grace="2s")
    send(server.port, "user@remote.test")
    assert asked.wait(20)
    with Client(server.port) as client:
        client.say("EHLO client.test")
        for command in ("MAIL FROM:<s@client.test>", "RCPT TO:<alice@example.test>", "DATA"):
            client.say(command)
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 3.5
    go_on.set()


def test_what_was_not_delivered_at_the_stop_is_delivered_after_the_start(serve: Serve, sink: Sink) -> None:
    server = serve(relay={"host": sink.next_hop})
    sink.answer = lambda verb, argument: b"451 4.3.0 later\r\n" if verb == "MAIL" else None
    server.stop()
    server.settings["queue"] = {"backoff": ["500ms", "1s"]}
    server.config.write_text(to_toml(server.settings))
    server.start()
    send(server.port, "user@remote.test")
    server.wait_log("deferred")
    assert server.stop() == 0
    sink.answer = lambda verb, argument: None
    server.start()
    assert sink.wait(1)[0].recipients == ["user@remote.test"]


def test_a_second_server_on_the_same_spool_is_refused(server: Server) -> None:
    second = Server(server.folder)
    second.launch()
    try:
        assert second.wait_exit() != 0
        assert "spool" in second.output
        assert "Traceback" not in second.output
        assert str(server.pid) in second.output
    finally:
        second.kill()
    assert send(server.port, "alice@example.test") == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hostnam": "x"}, ["hostnam"]),
        ({"queue": {"lifetime": "5 fortnights"}}, ["lifetime", "5m"]),
        ({"listener": [{"bind": "127.0.0.1"}]}, ["bind", "port"]),
        ({"relay": {"networks": ["127.0.0.0/33"]}}, ["networks"]),
    ],
)
def test_a_wrong_configuration_is_named_and_nothing_starts(tmp_path: Path, change: dict, words: list[str]) -> None:  # type: ignore[type-arg]
    server = Server(tmp_path, **change)
    server.launch()
    try:
        assert server.wait_exit() == 2
        assert all(word in server.output for word in words), server.output
        assert "mailflow.toml" in server.output
        assert "Traceback" not in server.output
        assert not (tmp_path / "spool").exists()
    finally:
        server.kill()


def test_settings_come_from_the_environment_too(tmp_path: Path, sink: Sink) -> None:
    server = Server(tmp_path)
    server.environment |= {"MAILFLOW_HOSTNAME": "env.example.test", "MAILFLOW_RELAY__HOST": sink.next_hop}
    with server, Client(server.port) as client:
        assert "env.example.test" in client.greeting
        client.say("EHLO client.test")
        assert client.message(["user@remote.test"], b"Subject: x\r\n\r\nx").startswith("250 ")
        assert sink.wait(1)[0].recipients == ["user@remote.test"]


def test_many_clients_at_once_are_served(server: Server) -> None:
    def one(i: int) -> None:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
            client.sendmail("s@client.test", ["alice@example.test"], mail(f"number {i}").as_bytes())

    threads = [threading.Thread(target=one, args=(i,)) for i in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(server.wait_mail("alice", 50)) == 50
