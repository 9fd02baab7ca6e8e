"""A server inside the test's own loop, with hooks or a handler, and a client in a thread beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailflow import Mailflow, Settings
from mailflow.store.search import find_messages
from mailflow.store.values import QueuedMessage, Selection
from tests.support.server import parse_line


@dataclass
class Outcome:
    """What `talk` returned, and what the server has left when it has stopped."""

    folder: Path
    result: Any = None

    def mail(self, user: str) -> list[bytes]:
        """A user's mail; with LF line ends, as a Maildir has it."""
        return [p.read_bytes() for p in sorted((self.folder / "mail" / user / "new").glob("*"))]

    @property
    def queue(self) -> list[QueuedMessage]:
        return list(find_messages(self.folder / "spool", Selection(everything=True), time.time()))

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def events(self, name: str) -> list[dict[str, str]]:
        found = map(parse_line, self.log.splitlines())
        return [fields for fields in found if fields.get("event") == name]


def settings(folder: Path, *, trusted: bool = True, **more: Any) -> Settings:
    """A server for alice and bob at example.test; `trusted=False`: its clients are strangers."""
    values: dict[str, Any] = {
        "hostname": "mx.example.test",
        "spool": folder / "spool",
        "listener": [{"bind": "127.0.0.1:0"}],
        "local": {"domains": ["example.test"], "users": ["alice", "bob"], "maildir": str(folder / "mail" / "{user}")},
        "relay": {"networks": ["127.0.0.0/8" if trusted else "192.0.2.0/24"]},
        "log": {"to": str(folder / "log")},
        "control": {"enabled": False},
    }
    return Settings(**{**values, **more})


def serve(
    folder: Path,
    talk: Callable[[int], Any],
    *,
    trusted: bool = True,
    more: dict[str, Any] | None = None,
    **program: Any,
) -> Outcome:
    """Runs a server, and `talk(port)` in a thread."""
    folder.mkdir(exist_ok=True)

    async def main() -> Outcome:
        async with Mailflow(settings(folder, trusted=trusted, **(more or {})), **program) as mta:
            return Outcome(folder, await asyncio.to_thread(talk, int(mta.addresses[0].rpartition(":")[2])))

    return asyncio.run(main())
