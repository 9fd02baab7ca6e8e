"""The control socket's client side, for the command line: standard library only, because commands must start fast.

`ControlClient(path).status()` and so on. `NoServer` means that nobody listens there, so that the caller may work on the queue
directly; `ControlError` means that the server said no.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mailflow.errors import MailflowError

TIMEOUT_SECONDS = 60.0
"""For one step of a request: a step that reads a queue of millions finds nothing to tell for a while."""
ANSWER_LIMIT = 2**20
"""Bytes of an answer that comes in one piece."""
LINE_LIMIT = 64 * 1024
"""Bytes of a line of an answer that comes in lines."""


class NoServer(MailflowError):
    """Nobody listens on the control socket."""


class ControlError(MailflowError):
    """The server did not do it. `status` is the HTTP status, `reply` the SMTP reply for a refused message."""

    def __init__(self, status: int, words: str, reply: tuple[int, str, str] | None = None) -> None:
        self.status, self.reply = status, reply
        super().__init__(words)


class _Connection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fsencode(self._path))


class ControlClient:
    """Asks the server behind one socket. Every method raises NoServer or ControlError."""

    def __init__(self, path: Path, timeout: float = TIMEOUT_SECONDS) -> None:
        self._path = path
        self._timeout = timeout

    def status(self) -> dict[str, Any]:
        """How the server is doing."""
        return self._ask("GET", "/v1/status")  # type: ignore[no-any-return]

    def change(self, command: str, selection: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """`command` is "hold", "release", "delete" or "flush", the selection one of `store.filters.to_json`.

        One entry for each message that a step changed, as it is changed.
        """
        return self._lines(f"/v1/queue/{command}", json.dumps(selection).encode())

    def write_out(self) -> None:
        """Has all that was acknowledged put where a reader of the spool finds it."""
        self._ask("POST", "/v1/queue/write-out")

    def compact(self) -> Iterator[dict[str, Any]]:
        """Has unused space given back to the disk: an entry {"bytes"} for each step."""
        return self._lines("/v1/queue/compact", b"")

    def send(self, sender: str, recipients: list[str], content: bytes) -> dict[str, Any]:
        """Queues a message; durable when it returns."""
        head = json.dumps({"sender": sender, "recipients": recipients}).encode()
        return self._ask("POST", "/v1/send", head + b"\n" + content)  # type: ignore[no-any-return]

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        with self._asked(method, path, body) as response:
            return self._answer(response.status, response.read(ANSWER_LIMIT))

    def _lines(self, path: str, body: bytes) -> Iterator[dict[str, Any]]:
        """An answer that comes in lines; its end is said, so that half an answer is not taken for a whole one."""
        with self._asked("POST", path, body) as response:
            if response.status != 200:
                self._answer(response.status, response.read(ANSWER_LIMIT))
            while True:
                entry = self._answer(200, response.readline(LINE_LIMIT))
                if "error" in entry:
                    raise ControlError(503, entry["error"])
                if "done" in entry:
                    return
                yield entry

    @contextmanager
    def _asked(self, method: str, path: str, body: bytes | None) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self._path, self._timeout)
        try:
            try:
                connection.connect()
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
                raise NoServer(f"no server listens on {self._path}") from None
            except PermissionError:
                raise ControlError(403, f"{self._path}: only the server's user may do this") from None
            connection.request(method, path, body)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ControlError(
                0, f"the server does not answer on {self._path}: {error or type(error).__name__}"
            ) from None
        finally:
            connection.close()

    @staticmethod
    def _answer(status: int, data: bytes) -> Any:
        try:
            value = json.loads(data)
        except ValueError:
            raise ControlError(status, f"the server's answer cannot be read (HTTP status {status})") from None
        if status == 200:
            return value
        reply = value.get("reply") if isinstance(value, dict) else None
        words = value.get("error", "") if isinstance(value, dict) else ""
        raise ControlError(status, words or f"HTTP status {status}", tuple(reply) if reply else None)
