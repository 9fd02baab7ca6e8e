"""What an operator does with a running server: status, hold, release, delete, flush, send.

Implements `control.ports.Control` for the control socket. The disk is changed first, through `Queue`, and what is in
memory is kept in step: jobs that wait are taken out; a delivery that is under way ends as it would have.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mailflow.envelope import Peer
from mailflow.ids import format_id, parse_id
from mailflow.queue import Changed, Selection
from mailflow.submission import message_bytes

if TYPE_CHECKING:
    from mailflow.server import Server

SHOWN_DESTINATIONS = 100
"""Destinations that `status` lists: those with most waiting in memory."""


class Operator:
    """Operator's commands on one server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def status(self) -> dict[str, Any]:
        """What `mailflow status --json` prints; all of it is known without waiting."""
        server = self._server
        scheduler = server.scheduler
        views = sorted(scheduler.view(), key=lambda v: v.waiting + v.running, reverse=True)
        return {
            "state": "running",
            "hostname": server.settings.hostname,
            "listen": [str(a) for a in server.addresses],
            "uptime": round(time.time() - server.started, 3),
            "sessions": server.listener.sessions if server.listener else 0,
            "active": server.flow.active,
            "waiting": len(scheduler),
            "delivering": scheduler.running,
            "content_memory": server.flow.parts.budget.used,
            "log_dropped": server.log.dropped,
            "destinations": [
                {"destination": v.destination, "waiting": v.waiting, "delivering": v.running, "window": v.window}
                for v in views[:SHOWN_DESTINATIONS]
            ],
        }

    async def hold(self, ids: list[str] | None, *, all: bool = False) -> list[dict[str, Any]]:
        """Messages wait until they are released."""
        changed = await self._server.queue.hold(_selection(ids, everything=all))
        self._server.flow.withdraw([c.id for c in changed])
        return _shown(changed)

    async def release(self, ids: list[str] | None, *, all: bool = False) -> list[dict[str, Any]]:
        """Held messages are due now."""
        changed = await self._server.queue.release(_selection(ids, everything=all))
        self._wake(changed, probe=False)
        return _shown(changed)

    async def delete(self, ids: list[str] | None, *, all: bool = False) -> list[dict[str, Any]]:
        """Messages leave the queue without a bounce."""
        changed = await self._server.queue.delete(_selection(ids, everything=all))
        self._server.flow.withdraw([c.id for c in changed])
        for c in changed:
            self._server.log.event("removed", id=format_id(c.id), nrcpt=c.recipients, reason="deleted by the operator")
        return _shown(changed)

    async def flush(self, destination: str | None) -> dict[str, Any]:
        """Deferred mail is due now, and sites that were taken for dead are tried again (wish 46)."""
        selection = Selection(destination=destination) if destination else Selection(everything=True)
        changed = await self._server.queue.flush(selection)
        self._wake(changed, probe=True)
        self._probe(destination)
        return {"messages": len(changed), "recipients": sum(c.recipients for c in changed)}

    async def send(self, sender: str, recipients: list[str], content: bytes) -> dict[str, Any]:
        """Queues a message that the command line hands in; durable when it returns."""
        receipt = await self._server.send(message_bytes(content), sender, recipients, peer=Peer(protocol="local"))
        return {"id": receipt.queue_id}

    def _probe(self, destination: str | None) -> None:
        """Also sites without deferred mail: what was due already waits there for the probe."""
        flow, scheduler = self._server.flow, self._server.scheduler
        for name in [destination] if destination else [v.destination for v in scheduler.view() if v.dead_until]:
            flow.wake(name, probe=True)
        flow.pump()

    def _wake(self, changed: list[Changed], *, probe: bool) -> None:
        for destination in {d for c in changed for d in c.destinations}:
            self._server.flow.wake(destination, probe=probe)
        self._server.flow.pump()


def _selection(ids: list[str] | None, *, everything: bool) -> Selection:
    """Raises ValueError for what is no queue id."""
    return Selection(everything=True) if everything else Selection(ids=tuple(parse_id(i) for i in ids or ()))


def _shown(changed: list[Changed]) -> list[dict[str, Any]]:
    return [{"id": format_id(c.id), "recipients": c.recipients} for c in changed]
