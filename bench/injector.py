"""Puts many messages into a server as fast as it takes them: some connections, each with one message after another.

`inject` sends one message of 1 KB to each recipient (or, with `together`, one message to all of them). Commands are
pipelined, so that what is measured is the server and not the number of round trips.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import uvloop

CONTENT = b"From: <sender@bench.example>\r\nSubject: load\r\n\r\n" + b"".join(b"%076d\r\n" % i for i in range(12))
SESSIONS = 20
REPLY_SECONDS = 120.0
PIPELINED_RECIPIENTS = 500
"""RCPT commands in one flight: their replies must fit into the sockets' buffers."""


@dataclass
class Injected:
    """What became of it."""

    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Messages accepted each second."""
        return self.accepted / self.seconds if self.seconds else 0.0


class Session:
    """One SMTP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def reply(self) -> bytes:
        """The code of the next reply."""
        async with asyncio.timeout(REPLY_SECONDS):
            while (line := await self.reader.readline())[3:4] == b"-":
                continue
        return line[:3]

    async def message(self, recipients: list[str]) -> bool:
        """One transaction; whether it was accepted for all."""
        self.writer.write(b"MAIL FROM:<sender@bench.example>\r\n")
        good = await self.reply() == b"250"
        for start in range(0, len(recipients), PIPELINED_RECIPIENTS):
            some = recipients[start : start + PIPELINED_RECIPIENTS]
            last = start + len(some) == len(recipients)
            commands = "".join(f"RCPT TO:<{r}>\r\n" for r in some) + ("DATA\r\n" if last else "")
            self.writer.write(commands.encode())
            for _ in some:
                good &= await self.reply() == b"250"
        if await self.reply() != b"354":
            return False
        self.writer.write(CONTENT + b".\r\n")
        return await self.reply() == b"250" and good


async def _run(port: int, messages: Iterator[list[str]], sessions: int) -> Injected:
    done = Injected()

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        session = Session(reader, writer)
        await session.reply()
        writer.write(b"EHLO client.bench.example\r\n")
        await session.reply()
        for recipients in messages:
            if await session.message(recipients):
                done.accepted += 1
            else:
                done.refused += 1
                writer.write(b"RSET\r\n")
                await session.reply()
        writer.write(b"QUIT\r\n")
        await session.reply()
        writer.close()
        await writer.wait_closed()

    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(sessions):
            group.create_task(work())
    done.seconds = time.monotonic() - begun
    return done


def inject(port: int, recipients: Iterable[str], *, together: bool = False, sessions: int = SESSIONS) -> Injected:
    """A message for each recipient, or one for all of them."""
    messages = iter([list(recipients)]) if together else ([r] for r in recipients)
    return uvloop.run(_run(port, messages, 1 if together else sessions))
