"""A next hop that records what it gets, and can misbehave in the ways that real ones do.

A thread for each connection, plain sockets: meant for tests, not for load. `answer(verb, argument)` may be given
to decide single replies (bytes with CRLF; None = the usual one; b"" = say nothing and hang up). `manner` is how it speaks: see `Manner`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Self

from tests.support.waiting import PATIENCE, wait_for


class Manner(Enum):
    """How a sink speaks."""

    PROPER = auto()
    MUTE = auto()
    """Accepts the connection and never says a word."""
    BUSY = auto()
    """421 instead of a greeting, and hangs up."""
    GARBAGE = auto()
    """Answers with what is no SMTP, without end of line, a lot of it."""
    BYTEWISE = auto()
    """Every byte in a packet of its own."""
    STUCK_AT_DOT = auto()
    """Takes a message and never answers the final dot."""
    HANGS_UP = auto()
    """Closes in the middle of the message."""


EHLO = b"250-sink.example.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n"
USUAL = {
    "EHLO": EHLO,
    "HELO": b"250 sink.example.test\r\n",
    "DATA": b"354 Go ahead\r\n",
    "QUIT": b"221 2.0.0 Bye\r\n",
    ".": b"250 2.0.0 Ok: taken\r\n",
}
Answer = Callable[[str, str], bytes | None]


@dataclass
class Received:
    """One message as it arrived; `recipients` are those that were accepted."""

    sender: str
    recipients: list[str]
    data: bytes
    helo: str
    commands: list[str] = field(default_factory=list)
    """MAIL and RCPT as they were sent."""

    @property
    def size(self) -> int:
        return len(self.data)


class Sink:
    """The next hop; a context manager. `messages` grows in order of arrival."""

    def __init__(
        self,
        answer: Answer | None = None,
        manner: Manner = Manner.PROPER,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        keep: bool = True,
    ) -> None:
        self.answer = answer or (lambda verb, argument: None)
        self.manner = manner
        self.keep = keep
        """Whether `Received.data` is kept; only its end is when not, for floods of large messages."""
        self.messages: list[Received] = []
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family, backlog=500)
        self.address: str = address
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def next_hop(self) -> str:
        """As the configuration has it, without MX look-up."""
        return f"[{self.address}]:{self.port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening and breaks off every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def wait(self, count: int, timeout: float = PATIENCE) -> list[Received]:
        """Waits until that many messages have come, and gives them all."""
        wait_for(lambda: len(self.messages) >= count, f"{count} messages at the sink", timeout)
        return list(self.messages)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self.connections += 1
                self._open.add(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                self._converse(connection, lines)
        except OSError:
            return
        finally:
            with self._lock:
                self._open.discard(connection)

    def _say(self, connection: socket.socket, data: bytes) -> None:
        if self.manner is not Manner.BYTEWISE:
            connection.sendall(data)
            return
        for i in range(len(data)):
            connection.sendall(data[i : i + 1])
            time.sleep(0.0005)  # so that the packets do not run together: this is the thing under test

    def _converse(self, connection: socket.socket, lines: socket.SocketIO | object) -> None:
        if self.manner is Manner.MUTE:
            lines.read()  # type: ignore[union-attr,attr-defined]
            return
        if self.manner is Manner.BUSY:
            connection.sendall(b"421 4.3.2 Too busy\r\n")
            return
        if self.manner is Manner.GARBAGE:
            while True:
                connection.sendall(b"\x00\xff{HTTP/1.1 nonsense}" * 1000)
        self._say(connection, self.answer("GREETING", "") or b"220 sink.example.test ESMTP\r\n")
        helo, message = "", Received("", [], b"", "")
        for line in iter(lines.readline, b""):  # type: ignore[union-attr,attr-defined]
            verb, _, argument = line.decode("utf-8", "surrogateescape").strip().partition(" ")
            verb = verb.upper()
            reply = self.answer(verb, argument)
            if reply is None:
                reply = _out_of_order(verb, message) or USUAL.get(verb, b"250 2.0.0 Ok\r\n")
            if reply == b"":
                return
            if verb in ("EHLO", "HELO"):
                helo = argument
            elif verb == "MAIL" and reply.startswith(b"2"):
                message = Received(_address(argument), [], b"", helo, [line.decode("utf-8", "surrogateescape").strip()])
            elif verb == "RCPT" and reply.startswith(b"2"):
                message.recipients.append(_address(argument))
                message.commands.append(line.decode("utf-8", "surrogateescape").strip())
            elif verb == "DATA" and reply.startswith(b"3"):
                self._say(connection, reply)
                if not self._take(connection, lines, message):
                    return
                message = Received("", [], b"", helo)
                continue
            self._say(connection, reply)
            if verb == "QUIT":
                return

    def _take(self, connection: socket.socket, lines: object, message: Received) -> bool:
        """Reads a message; false when the connection is to end."""
        parts: list[bytes] = []
        for line in iter(lines.readline, b""):  # type: ignore[attr-defined]
            if line == b".\r\n":
                break
            parts.append(line[1:] if line.startswith(b".") else line)
            if not self.keep:
                del parts[:-1]
            if self.manner is Manner.HANGS_UP:
                return False
        else:
            return False
        if self.manner is Manner.STUCK_AT_DOT:
            lines.read()  # type: ignore[attr-defined]
            return False
        reply = self.answer(".", message.sender)
        if reply == b"":
            return False
        if reply is None or reply.startswith(b"2"):
            message.data = b"".join(parts)
            self.messages.append(message)
        self._say(connection, reply or USUAL["."])
        return True


def _out_of_order(verb: str, message: Received) -> bytes | None:
    """The refusal of a command that is not due: a client that pipelines sends DATA behind a refused MAIL."""
    if verb == "RCPT" and not message.commands:
        return b"503 5.5.1 MAIL first\r\n"
    if verb == "DATA" and not message.recipients:
        return b"503 5.5.1 No valid recipients\r\n"
    return None


def _address(argument: str) -> str:
    return argument.partition("<")[2].partition(">")[0]
