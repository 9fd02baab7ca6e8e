"""What the control server needs from the mail server behind it. The mail server implements it; tests have a small one.

Methods raise ValueError for a request that makes no sense (400), SendError for a message that was refused (422), QueueError for
a queue that cannot do it now (503). Anything else is a fault of ours: 500, and its text stays in the log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol


class Control(Protocol):
    """A running mail server, as its operator sees it. All results are ready for JSON."""

    def status(self) -> dict[str, Any]:
        """What `mailflow status --json` prints."""
        ...

    def change(self, command: str, selection: dict[str, Any]) -> AsyncGenerator[list[dict[str, Any]], None]:
        """`command` is "hold", "release", "delete" or "flush"; `selection` as `store.filters.to_json` writes it.

        Gives out the command's steps, in each an entry {"id", "recipients"} for every message that it changed.
        """
        ...

    async def write_out(self) -> None:
        """Puts all that was acknowledged where a reader of the spool finds it."""
        ...

    def compact(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Gives unused space back to the disk: an entry {"bytes"} for each step."""
        ...

    async def send(self, sender: str, recipients: list[str], content: bytes) -> dict[str, Any]:
        """Queues a message; durable when it returns: {"id"}."""
        ...
