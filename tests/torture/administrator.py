"""An administrator at work beside the mail: a backlog that is deleted, letters that are held, released and flushed.

The backlog is mail on hold of two senders, put on the spool while no server runs. What the server says is deleted may never come
back, whatever happens to it; what nobody asked to delete has to stay. The letters are those of the rig's floods: its ledger
tells whether they arrive.
"""

from __future__ import annotations

import contextlib
import threading
import time

from mailflow.control.client import ControlClient, ControlError, NoServer
from mailflow.envelope import HELD, Message, Peer, Recipient
from mailflow.ids import format_id
from mailflow.store.filters import to_json
from mailflow.store.reader import list_messages
from mailflow.store.settings import QueueSettings
from mailflow.store.sqlite import Store
from mailflow.store.values import Selection
from tests.support.sessions import Sessions
from tests.support.waiting import wait_for
from tests.torture.rig import DRAIN_SECONDS, Rig

PEER = Peer("192.0.2.1", 40_000, "client.test", "client", "ESMTP")
BACKLOG = 6_000
"""Messages to be deleted, at the start of a generation; a server deletes up to 4,000 a second."""
KEPT = 200
"""Of another sender, beside them."""
CONTENT = b"Subject: waiting\r\n\r\n" + b"x" * 1_000
OTHERS, MINE = "others@backlog.test", "mine@backlog.test"
LETTERS = (Selection(recipient="*5@remote.test"), Selection(recipient="*.back@remote.test"))
"""Every tenth letter, and all bounces."""


class Administrator:
    """One for a rig: it remembers what was in the backlog and what of it is deleted."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._others: set[str] = set()
        """Put there to be deleted, and not found missing yet."""
        self._mine: set[str] = set()
        self._deleted: set[str] = set()
        """The server said so."""
        self.commands = 0
        """Commands on letters that were answered to the end."""

    @property
    def deleted(self) -> int:
        """Messages of the backlog of which the server said that they are deleted."""
        return len(self._deleted)

    def fill(self) -> None:
        """Fills the backlog up. No server runs."""
        self._rig.spool.mkdir(parents=True, exist_ok=True)
        store = Store.open(self._rig.spool, QueueSettings())
        try:
            first = max(store.high_water + 1, int(time.time() * 1e6))
            others, mine = BACKLOG - len(self._others - self._deleted), KEPT - len(self._mine)
            messages = [_held(first + i, OTHERS if i < others else MINE) for i in range(others + mine)]
            if messages:
                store.commit(messages, [], messages[-1].id)
            self._others |= {format_id(m.id) for m in messages[:others]}
            self._mine |= {format_id(m.id) for m in messages[others:]}
        finally:
            store.close(store.high_water + BACKLOG + KEPT)

    def check(self) -> None:
        """What is deleted is gone, and no more than that. No server runs. Raises AssertionError."""
        there = {message.queue_id for message in list_messages(self._rig.spool) if message.sender in (OTHERS, MINE)}
        back = there & self._deleted
        assert not back, f"{len(back)} deleted messages are back: {sorted(back)[:4]}"
        gone = self._mine - there
        assert not gone, f"{len(gone)} messages that nobody deleted are gone: {sorted(gone)[:4]}"
        self._others &= there

    def at_work(self) -> Sessions:
        """Deletes and goes on with letters until the block ends or the server is gone; a context manager."""
        sessions = Sessions(lambda work: work(sessions.stopping), [(self._delete,), (self._letters,)])
        return sessions

    def clear_up(self) -> None:
        """All that is on hold leaves: the backlog is deleted, letters are released. A server runs."""
        for sender in (OTHERS, MINE):
            for _ in self._client().change("delete", to_json(Selection(sender=sender))):
                pass
        for _ in self._client().change("release", to_json(Selection(everything=True))):
            pass

    def wait_for_deletions(self, number: int) -> None:
        """Until so many more are deleted, or all. Raises AssertionError when they are not."""
        wanted = self.deleted + min(number, len(self._others - self._deleted))
        wait_for(lambda: self.deleted >= wanted, f"{number} deletions", DRAIN_SECONDS)

    def _client(self) -> ControlClient:
        return ControlClient(self._rig.spool / "control.sock")

    def _delete(self, stopping: threading.Event) -> None:
        with contextlib.suppress(NoServer, ControlError):
            for entry in self._client().change("delete", to_json(Selection(sender=OTHERS))):
                self._deleted.add(entry["id"])
                if stopping.is_set():
                    return

    def _letters(self, stopping: threading.Event) -> None:
        with contextlib.suppress(NoServer, ControlError):
            while not stopping.is_set():
                for command in ("hold", "release", "flush"):
                    for selection in LETTERS:
                        for _ in self._client().change(command, to_json(selection)):
                            pass
                        self.commands += 1


def _held(number: int, sender: str) -> Message:
    recipient = Recipient(0, f"user{number}@backlog.test", "smtp:backlog.test", due=HELD)
    return Message(number, sender, [recipient], CONTENT, arrived=number / 1e6, size=len(CONTENT), peer=PEER)
