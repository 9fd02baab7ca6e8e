"""Logins that Dovecot knows: a client of its authentication protocol, version 1 (doc.dovecot.org, "Authentication Protocol").

One connection over a UNIX socket serves all sessions: requests carry numbers, answers come in any order. Login and password
go as PLAIN, whatever mechanism the client used (PLAIN or LOGIN). The connection is made when it is first needed and made again when
it was lost; requests that were under way then are told to clients as temporary failures. Dovecot caches and delays by itself.

Invariants: at most `REQUESTS` are under way, each ends after `ANSWER_SECONDS`; a peer that does not keep to the protocol
is hung up on.
"""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

from mailflow.ingress.auth.backend import Attempt, Base, Unavailable
from mailflow.smtp.sasl import is_login

REQUESTS = 1000
"""Logins under way at the same time."""
LINE_OCTETS = 8192
"""Longest line of the protocol."""
ANSWER_SECONDS = 60.0
"""Dovecot holds back refusals for some seconds; then it has to answer."""
HANDSHAKE_SECONDS = 10.0
MAJOR_VERSION = "1"


class _Link(asyncio.Protocol):
    """One connection to Dovecot."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.answers: dict[str, asyncio.Future[list[str]]] = {}
        self.lost = False
        self._input = b""
        self._version = self._plain = False
        self._number = 0
        self._transport: asyncio.WriteTransport | None = None

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduces us; Dovecot does so at the same time."""
        self._transport = transport  # type: ignore[assignment] # the loop gives stream protocols nothing else
        self._send("VERSION", MAJOR_VERSION, "1")
        self._send("CPID", str(os.getpid()))

    def data_received(self, data: bytes) -> None:
        """Takes lines."""
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8", "replace").split("\t"))
        if len(self._input) > LINE_OCTETS:
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Nobody answers any more."""
        self.lost = True
        under_way: list[asyncio.Future[Any]] = [self.ready, *self.answers.values()]
        for waiting in under_way:
            if not waiting.done():
                waiting.set_exception(Unavailable("Dovecot has closed the connection"))
                waiting.exception()  # whoever waited may be gone; then nobody misses it
        self.answers.clear()

    # What the back end calls

    def cut(self) -> None:
        """Hangs up."""
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, *words: str) -> list[str]:
        """Sends AUTH with these parameters; the words of the answer. Raises Unavailable."""
        if len(self.answers) >= REQUESTS:
            raise Unavailable(f"Dovecot: {REQUESTS} logins are under way already")
        # Numbers are 32 bits wide and must not repeat on a connection.
        self._number += 1
        number = str(self._number)
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self.answers[number] = answer
        try:
            self._send("AUTH", number, *words)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            raise Unavailable("Dovecot does not answer") from None
        finally:
            self.answers.pop(number, None)

    def _send(self, *words: str) -> None:
        if self._transport is not None:
            self._transport.write("\t".join(words).encode() + b"\n")

    def _line(self, words: list[str]) -> None:
        match words:
            case ["VERSION", major, *_]:
                self._version = major == MAJOR_VERSION
            case ["MECH", name, *_]:
                self._plain |= name.upper() == "PLAIN"
            case ["DONE", *_]:
                self._introduced()
            case [("OK" | "FAIL" | "CONT"), number, *_]:
                answer = self.answers.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(words)
            case _:
                pass  # SPID, CUID, COOKIE, and what later versions add

    def _introduced(self) -> None:
        if self.ready.done():
            return
        if self._version and self._plain:
            self.ready.set_result(None)
        else:
            missing = "PLAIN" if self._version else f"version {MAJOR_VERSION} of the protocol"
            self.ready.set_exception(Unavailable(f"Dovecot does not offer {missing}"))
            self.cut()


class Dovecot(Base):
    """The back end."""

    cached = False

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Dovecot {self._socket}>"

    async def close(self) -> None:
        """Hangs up."""
        if self._link is not None:
            self._link.cut()
            self._link = None

    async def verify(self, attempt: Attempt) -> str | None:
        """Asks Dovecot; the login is what Dovecot makes of it ("user=")."""
        link = await self._linked()
        response = base64.b64encode(f"\0{attempt.login}\0{attempt.password}".encode()).decode()
        facts = ["secured"] if attempt.secured else []
        if attempt.client:
            facts.append(f"rip={attempt.client}")
        verdict, _, *fields = await link.ask("PLAIN", "service=smtp", *facts, "nologin", f"resp={response}")
        values = dict(field.partition("=")[::2] for field in fields)
        if verdict == "OK":
            user = unescaped(values.get("user", ""))
            return user if is_login(user) else attempt.login
        if verdict == "CONT" or "temp" in values or values.get("code") == "temp_fail":
            raise Unavailable("Dovecot reports a temporary failure")
        return None

    async def _linked(self) -> _Link:
        """The connection, made if there is none. Raises Unavailable."""
        async with self._connecting:
            if self._link is None or self._link.lost:
                self._link = await self._connect()
            return self._link

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        link = _Link()
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await loop.create_unix_connection(lambda: link, str(self._socket))
                await link.ready
        except (OSError, TimeoutError) as error:  # TimeoutError is an OSError; named, for the reader
            link.cut()
            raise Unavailable(f"Dovecot: {self._socket}: {error or 'no answer'}") from error
        return link


def unescaped(text: str) -> str:
    """A value of the protocol, where \\1 stands before "0", "1", "t", "r", "n" for the character that it names."""
    if "\1" not in text:
        return text
    first, *rest = text.split("\1")
    plain = {"0": "\0", "1": "\1", "t": "\t", "r": "\r", "n": "\n"}
    return first + "".join(plain.get(part[:1], part[:1]) + part[1:] for part in rest)
