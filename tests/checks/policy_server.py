"""A policy server for tests, on TCP or a UNIX socket: what it answers is told by a function of the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Self

CLOSE = b""
"""An answer that closes the connection."""
SILENT = None
"""An answer that never comes."""

Say = Callable[[dict[str, str]], bytes | None]


def dunno(_request: dict[str, str]) -> bytes:
    return b"action=DUNNO\n\n"


class PolicyServer:
    def __init__(self, say: Say = dunno, path: Path | None = None) -> None:
        self.say, self.path = say, path
        self.requests: list[dict[str, str]] = []
        self.connections = 0
        self.open: set[asyncio.StreamWriter] = set()
        self.changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self.path:
            self._server = await asyncio.start_unix_server(self._serve, self.path)
            self.address = f"unix:{self.path}"
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.address = f"inet:127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.drop()

    def drop(self) -> None:
        """Closes all connections."""
        for writer in self.open:
            writer.close()

    async def until(self, look: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not look():
                self.changed.clear()
                await self.changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        try:
            while True:
                request = (await reader.readuntil(b"\n\n")).decode()
                pairs = dict(line.split("=", 1) for line in request.splitlines() if line)
                self.requests.append(pairs)
                self.changed.set()
                answer = self.say(pairs)
                if answer is SILENT:
                    continue
                if answer == CLOSE:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()
            self.changed.set()
