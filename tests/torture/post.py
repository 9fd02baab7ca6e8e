"""Senders that remember what was acknowledged to them, as threads or as Postfix's smtp-source behind a tap."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import subprocess
import threading
from typing import Self

from tests.support.client import Client
from tests.support.sessions import Sessions
from tests.support.tools import source_command
from tests.torture import letters
from tests.torture.ledger import Ledger

PAUSE_SECONDS = 0.02
"""After a refusal, so that a server without room is not asked as fast as the machine can."""


class Senders(Sessions):
    """So many sessions that send letters until they are stopped or the server is gone."""

    def __init__(
        self, ledger: Ledger, port: int, prefix: str, *, sessions: int = 8, seed: int = 0, largest: int = 2_000_000
    ) -> None:
        self._ledger, self._port, self._largest = ledger, port, largest
        super().__init__(self._send, [(f"{prefix}.{i}", random.Random(f"{seed}.{i}")) for i in range(sessions)])

    def _send(self, prefix: str, chance: random.Random) -> None:
        number = 0
        while not self.stopping.is_set():
            try:
                with Client(self._port) as client:
                    client.say("EHLO client.test")
                    while not self.stopping.is_set():
                        number += 1
                        self._letter(client, letters.make(f"{prefix}.{number}", chance, largest=self._largest))
            except ConnectionRefusedError:
                return  # the server is gone
            except OSError:
                self.stopping.wait(PAUSE_SECONDS)

    def _letter(self, client: Client, letter: letters.Letter) -> None:
        self._ledger.sent(letter)
        answer = client.message(list(letter.recipients), letter.data, letter.sender)
        if answer.startswith("250 "):
            self._ledger.acknowledged(letter)
        elif answer == "":
            raise ConnectionResetError
        else:
            self._ledger.refused(letter, answer)
            client.say("RSET")
            self.stopping.wait(PAUSE_SECONDS)


class Tap:
    """A relay of bytes in front of a server that notes whose message was acknowledged; a context manager.

    So that a load tool that says nothing but totals can be used. The tool must not pipeline.
    """

    def __init__(self, port: int) -> None:
        self.acknowledged: list[str] = []
        """Recipients whose message got 250."""
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        recipient = [""]
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._port)) as server:
            back = threading.Thread(target=self._replies, args=(server, client, recipient), daemon=True)
            back.start()
            while data := client.recv(65536):
                found = re.search(rb"^RCPT TO:<([^>]+)>", data, re.IGNORECASE)
                recipient[0] = found[1].decode() if found else recipient[0]
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            back.join(10)

    def _replies(self, server: socket.socket, client: socket.socket, recipient: list[str]) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if b"Ok: queued as" in data:
                    self.acknowledged.append(recipient[0])
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def smtp_source(port: int, *, to: str, length: int, sessions: int) -> subprocess.Popen[bytes]:
    """Postfix's load tool, until the server is gone: every recipient is another one (a number before `to`)."""
    command = source_command(port, "-l", str(length), messages=1_000_000, sessions=sessions, to=to)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
