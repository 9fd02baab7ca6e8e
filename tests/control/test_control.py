"""The control socket, server and client together, over a real socket."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mailflow.control.client import ControlClient, ControlError, NoServer, _Connection
from mailflow.control.server import ControlServer, open_socket
from mailflow.control.settings import ControlSettings
from mailflow.errors import QueueError, SendError
from mailflow.observe.log import EventLog
from mailflow.observe.settings import LogSettings


class Fake:
    """A server that remembers what it was asked, and fails on request."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[Any] = []
        self.failure = failure
        self.late_failure: Exception | None = None

    def _note(self, *what: Any) -> None:
        self.asked.append(what)
        if self.failure:
            raise self.failure

    def status(self) -> dict[str, Any]:
        self._note("status")
        return {"state": "running"}

    async def change(self, command: str, selection: dict[str, Any]) -> AsyncGenerator[list[dict[str, Any]], None]:
        self._note(command, selection)
        for number in selection.get("ids", []):
            yield [{"id": number, "recipients": 1}]
            if self.late_failure:
                raise self.late_failure

    async def compact(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        self._note("compact")
        yield [{"bytes": 5}]
        yield [{"bytes": 6}]

    async def send(self, sender: str, recipients: list[str], content: bytes) -> dict[str, Any]:
        self._note("send", sender, recipients, content)
        return {"id": "1js8he3dc00"}


def with_server(
    path: Path, fake: Fake, work: Callable[[ControlClient], Any], run: Any = asyncio.run, **settings: Any
) -> Any:
    """Runs the blocking `work` in a thread beside a control server."""

    async def both() -> Any:
        log = EventLog(LogSettings(to=str(path.with_suffix(".log"))))
        server = ControlServer(fake, path, ControlSettings(**settings), log)
        await server.start()
        try:
            return await asyncio.to_thread(work, ControlClient(path))
        finally:
            await server.close()
            log.close()

    return run(both())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_every_command_arrives(path: Path, run: Any) -> None:
    fake = Fake()

    def work(client: ControlClient) -> None:
        assert client.status() == {"state": "running"}
        found = client.change("hold", {"ids": ["a", "b"]})
        assert list(found) == [{"id": "a", "recipients": 1}, {"id": "b", "recipients": 1}]
        assert list(client.change("release", {"all": True})) == []
        assert list(client.change("flush", {"destination": "smtp:example.org"})) == []
        assert list(client.compact()) == [{"bytes": 5}, {"bytes": 6}]
        assert client.send("a@b.test", ["c@d.test"], b"Subject: x\r\n\r\n\xff\n") == {"id": "1js8he3dc00"}

    with_server(path, fake, work, run)
    assert fake.asked == [
        ("status",),
        ("hold", {"ids": ["a", "b"]}),
        ("release", {"all": True}),
        ("flush", {"destination": "smtp:example.org"}),
        ("compact",),
        ("send", "a@b.test", ["c@d.test"], b"Subject: x\r\n\r\n\xff\n"),
    ]


def test_only_the_owner_may_open_it_and_it_goes_away(path: Path) -> None:
    modes = with_server(path, Fake(), lambda _: stat.S_IMODE(path.stat().st_mode))
    assert modes == 0o600
    assert not path.exists()


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        (ValueError("not a queue id: 'x'"), 400, "not a queue id: 'x'"),
        (QueueError("the queue is being closed"), 503, "the queue is being closed"),
        (RuntimeError("secret /path"), 500, "internal error, see the log"),
    ],
)
def test_errors_are_told_and_internal_ones_are_not(path: Path, failure: Exception, status: int, words: str) -> None:
    with pytest.raises(ControlError) as caught:
        with_server(path, Fake(failure), lambda client: client.status())
    assert (caught.value.status, str(caught.value)) == (status, words)
    assert ("secret" in path.with_suffix(".log").read_text()) == (status == 500)


def test_a_refused_message_brings_its_reply(path: Path) -> None:
    fake = Fake(SendError(550, "5.1.1", "No such user"))
    with pytest.raises(ControlError) as caught:
        with_server(path, fake, lambda client: client.send("a@b", ["c@d"], b"x"))
    assert (caught.value.status, caught.value.reply) == (422, (550, "5.1.1", "No such user"))


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("POST", "/v1/queue/hold", b"[", 400),
        ("POST", "/v1/queue/hold", b"\xff", 400),
        ("POST", "/v1/queue/hold", b" " * 2_000_000, 413),
        ("POST", "/v1/send", b'{"sender": "a", "recipients": ["b"]}', 400),
        ("POST", "/v1/send", b'{"sender": "a", "recipients": []}\nx', 400),
        ("POST", "/v1/send", b"x" * 3_000_000, 413),
        ("GET", "/v1/queue/hold", None, 405),
        ("GET", "/", None, 404),
    ],
)
def test_bad_requests_get_an_error_in_json(
    path: Path, method: str, target: str, body: bytes | None, status: int
) -> None:
    def work(_: ControlClient) -> tuple[int, Any]:
        connection = _Connection(path, 5)
        connection.request(method, target, body)
        response = connection.getresponse()
        answer = response.status, json.loads(response.read())
        connection.close()
        return answer

    fake = Fake()
    got, answer = with_server(path, fake, work, message_size=1_000_000)
    assert got == status
    assert set(answer) == {"error"}
    assert fake.asked == []


def test_what_fails_between_two_steps_is_told_and_what_was_done_before_too(path: Path) -> None:
    fake = Fake()
    fake.late_failure = QueueError("the disk is gone")
    told: list[Any] = []

    def work(client: ControlClient) -> None:
        told.extend(client.change("delete", {"ids": ["a", "b"]}))  # keeps what came before the error

    with pytest.raises(ControlError, match="the disk is gone"):
        with_server(path, fake, work)
    assert told == [{"id": "a", "recipients": 1}]


def test_half_an_answer_is_not_taken_for_a_whole_one(path: Path) -> None:
    fake = Fake()
    fake.late_failure = RuntimeError("secret")

    def work(client: ControlClient) -> None:
        for _ in client.change("delete", {"ids": ["a", "b"]}):
            pass

    with pytest.raises(ControlError):
        with_server(path, fake, work)
    assert "secret" in path.with_suffix(".log").read_text()


def test_garbage_is_answered_and_does_not_end_the_server(path: Path) -> None:
    def work(client: ControlClient) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"\x00\xff nonsense\r\n\r\n")
            assert b"400" in sock.recv(1000)
        return client.status()

    assert with_server(path, Fake(), work) == {"state": "running"}


def test_nobody_there(path: Path) -> None:
    with pytest.raises(NoServer):
        ControlClient(path).status()
    with pytest.raises(NoServer):
        ControlClient(path / "below").status()


def test_a_stale_socket_is_nobody_and_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NoServer):
        ControlClient(path).status()
    assert with_server(path, Fake(), lambda client: client.status()) == {"state": "running"}


def test_a_live_socket_and_other_files_are_left_alone(path: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(OSError, match="another server answers"):
            open_socket(path)
    assert path.exists()
    other = tmp_path / "file"
    other.write_text("precious")
    with pytest.raises(FileExistsError, match="something else"):
        open_socket(other)
    assert other.read_text() == "precious"


def test_a_long_path_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"at most 107 work"):
        open_socket(tmp_path / ("x" * 120))
    with pytest.raises(ControlError, match="does not answer"):
        ControlClient(tmp_path / ("x" * 120)).status()


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"])
def test_a_server_that_answers_nonsense(path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        child = os.fork()
        if child == 0:
            connection, _ = sock.accept()
            connection.recv(10_000)
            connection.sendall(answer)
            os._exit(0)
        with pytest.raises(ControlError, match=r"does not answer|cannot be read"):
            ControlClient(path, 5).status()
        os.waitpid(child, 0)
