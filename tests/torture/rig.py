"""What a case works with: a server on a spool, a next hop, the ledger, and a seed.

`Rig(folder, seed, rounds)` is a context manager. `server()` makes a server process on the rig's one spool, on a hurt disk or not;
`flood` sends to it; `crash` kills it; `drain` starts it once more, lets it deliver all it has, stops it, and checks the
ledger. Whatever happens, processes are ended and nothing large stays on the disk.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from mailflow.store.reader import list_messages
from tests.support.server import Server
from tests.support.waiting import PATIENCE, wait_for
from tests.torture.disk import Disk
from tests.torture.ledger import Hop, Ledger, Row
from tests.torture.post import Senders

SETTINGS: dict[str, Any] = {
    "queue": {"backoff": ["200ms", "400ms"], "checkpoint": "1MiB", "reserve": "1MiB"},
    "scheduler": {"probe": ["200ms", "400ms"], "dead_after": 10},
    "limits": {"sessions_per_client": 500},
}
ACKNOWLEDGED_SECONDS = 90.0
"""A first 250 comes in this time, also from a disk that takes 5 s for each of a dozen syncs."""
DRAIN_SECONDS = 120.0
"""What is left in the queue must be delivered in this time."""


class Rig:
    """One case's world."""

    def __init__(self, folder: Path, seed: int, rounds: int, *, case: str) -> None:
        self.folder, self.rounds, self.case = folder, rounds, case
        self.seed = seed
        self.chance = random.Random(f"{case} {seed}")
        self.ledger = Ledger()
        self.hop = Hop(self.ledger)
        self.root = folder / "server"
        self._stack = ExitStack()
        self._began = time.monotonic()
        self._floods = 0

    def __enter__(self) -> Self:
        self._stack.enter_context(self.hop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def spool(self) -> Path:
        """The queue's folder."""
        return self.root / "spool"

    @property
    def mailbox(self) -> Path:
        """Alice's Maildir."""
        return self.root / "mail" / "alice"

    def server(self, disk: Disk | None = None, *, wrap: list[str] | None = None, **sections: Any) -> Server:
        """A server that is not started yet."""
        settings = {**SETTINGS, "relay": {"host": self.hop.next_hop}, **sections}
        server = Server(self.root, wrap=wrap, **settings)
        server.environment |= disk.environment if disk else {}
        self._stack.callback(server.kill)
        return server

    def disk(self, *, journal: bool = False) -> Disk:
        """A disk below the server's folder that can be hurt."""
        return self._stack.enter_context(Disk(self.folder / "disk", self.root, journal=journal))

    @contextmanager
    def flood(self, server: Server, **options: Any) -> Iterator[Senders]:
        """Senders, until the block ends; entered when the first letter of theirs was acknowledged or the server died."""
        self._floods += 1
        before = self.ledger.promised
        with Senders(
            self.ledger, server.port, f"r{self._floods}", seed=self.chance.getrandbits(30), **options
        ) as senders:
            wait_for(
                lambda: self.ledger.promised > before or server.ended,
                "a letter to be acknowledged",
                ACKNOWLEDGED_SECONDS,
            )
            yield senders

    def pause(self, longest: float) -> None:
        """A random time under load: the moment of a crash is the thing under test."""
        time.sleep(self.chance.uniform(0.0, longest))

    def crash(self, server: Server, since: float | None = None) -> None:
        """SIGKILL, and a note of it."""
        server.kill()
        self.ledger.crashed(since)

    def empty(self) -> bool:
        """Whether the queue has nothing left."""
        return next(list_messages(self.spool, limit=1), None) is None

    def settle(self, server: Server, timeout: float = DRAIN_SECONDS) -> None:
        """Waits until a running server has delivered all it has."""
        try:
            wait_for(lambda: self.empty() or server.ended, "an empty queue", timeout)
        except AssertionError as error:
            left = [(m.queue_id, [r.address for r in m.recipients]) for m in list_messages(self.spool, limit=5)]
            raise AssertionError(f"{error}: {left}; the log:\n{server.output[-3000:]}") from None
        assert not server.ended, f"the server ended while it was draining:\n{server.output[-3000:]}"

    def drain(self, rounds: int | None = None) -> Row:
        """Starts the server on what is left and lets it deliver; stops it, and gives the case's row."""
        with self.server() as server:
            self.settle(server)
            self.stop(server)
        return self.row(rounds)

    def row(self, rounds: int | None = None, kept: Collection[str] = (), note: str = "") -> Row:
        """The ledger, checked; `kept` letters are in the queue and may stay there. Raises AssertionError."""
        row = self.ledger.check(self.case, self.rounds if rounds is None else rounds, self.mailbox, kept)
        row.note = note
        row.seconds = time.monotonic() - self._began
        return row

    def stop(self, server: Server, codes: Collection[int] = (0,)) -> None:
        """SIGTERM; fails with the log when the server does not end in time, or with another exit code."""
        try:
            assert server.stop() in codes, server.output[-3000:]
        except subprocess.TimeoutExpired:
            calls = [(task / "syscall").read_text() for task in Path(f"/proc/{server.pid}/task").iterdir()]
            raise AssertionError(f"SIGTERM does not end it: {calls}; the log:\n{server.output[-3000:]}") from None

    def wait_for_end(self, server: Server, timeout: float = PATIENCE) -> bool:
        """Whether the server came to its end in that time."""
        try:
            return bool(wait_for(lambda: server.ended, "the end", timeout))
        except AssertionError:
            return False
