"""What the control server needs from the mail server behind it. The mail server implements it; tests have a small one.

Methods raise ValueError for a request that makes no sense (400), SendError for a message that was refused (422), QueueError for
a queue that cannot do it now (503). Anything else is a fault of ours: 500, and its text stays in the log.
"""

from __future__ import annotations

from typing import Any, Protocol


class Control(Protocol):
    """A running mail server, as its operator sees it. All results are ready for JSON."""

    def status(self) -> dict[str, Any]:
        """What `mailflow status --json` prints."""
        ...

    async def hold(self, ids: list[str] | None, *, all: bool = False) -> list[dict[str, Any]]:
        """Messages wait until they are released; one entry {"id", "recipients"} for each message changed."""
        ...

    async def release(self, ids: list[str] | None, *, all: bool = False) -> list[dict[str, Any]]:
        """Held messages are due now."""
        ...

    async def delete(self, ids: list[str] | None, *, all: bool = False) -> list[dict[str, Any]]:
        """Messages leave the queue without a bounce."""
        ...

    async def flush(self, destination: str | None) -> dict[str, Any]:
        """Deferred mail for a destination, or all of it, is due now: {"messages", "recipients"}."""
        ...

    async def send(self, sender: str, recipients: list[str], content: bytes) -> dict[str, Any]:
        """Queues a message; durable when it returns: {"id"}."""
        ...
