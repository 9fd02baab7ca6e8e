"""What an operator does with a running server: status, hold, release, delete, flush, send.

Implements `control.ports.Control` for the control socket. The disk is changed first, through `Queue`, and what is in
memory is kept in step: jobs that wait are taken out; a delivery that is under way ends as it would have.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from mailflow.envelope import Peer, Route
from mailflow.errors import QueueError
from mailflow.ids import format_id
from mailflow.queue import Changed, Command, Selection
from mailflow.store.filters import from_json
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
            "listen": server.places,
            "uptime": round(time.time() - server.started, 3),
            "sessions": server.listener.sessions if server.listener else 0,
            "stress": server.listener.stress if server.listener else False,
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

    def change(self, command: str, selection: dict[str, Any]) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Hold, release, delete or flush what is selected, in steps; each step's messages with the number of recipients.

        A flush also has sites tried again that were taken for dead (wishes 46 and 79). Raises ValueError for a command or
        a selection that is none.
        """
        return self._change(Command(command), from_json(selection))

    async def write_out(self) -> None:
        """Puts all that was acknowledged where a reader of the spool finds it."""
        await self._server.queue.write_out()

    async def compact(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Gives unused space of the queue back to the disk, in steps; the bytes of each."""
        async with aclosing(self._server.queue.compact()) as steps:
            async for given in steps:
                yield [{"bytes": given}]

    async def _change(self, command: Command, selection: Selection) -> AsyncGenerator[list[dict[str, Any]], None]:
        async with aclosing(self._server.queue.change(command, selection)) as steps:
            async for changed in steps:
                self._follow(command, changed)
                yield [{"id": format_id(c.id), "recipients": c.recipients} for c in changed]
        if command is Command.FLUSH:
            self._probe(selection)

    def _follow(self, command: Command, changed: list[Changed]) -> None:
        """Memory follows the disk."""
        if command in (Command.HOLD, Command.DELETE):
            self._server.flow.withdraw(changed)
        else:
            self._wake(changed, probe=command is Command.FLUSH)
        if command is Command.DELETE:
            for c in changed:
                self._server.log.event(
                    "removed", id=format_id(c.id), nrcpt=c.recipients, reason="deleted by the operator"
                )

    async def send(self, sender: str, recipients: list[str], content: bytes) -> dict[str, Any]:
        """Queues a message that the command line hands in; durable when it returns."""
        receipt = await self._server.send(message_bytes(content), sender, recipients, peer=Peer(protocol="local"))
        return {"id": receipt.queue_id}

    async def release(self, node: str) -> int:
        """What waits for a node is due now, and its site is probed (ETRN, wish 79); see `ingress.ports.Sites`."""
        name = node[1:] if node[0] in "@#" else node
        if node.startswith("#"):
            return await self._flush(Selection(destination=name))
        route = self._server.resolver.resolve(f"postmaster@{name}")
        if not isinstance(route, Route):
            return 0
        sent = await self._flush(Selection(destination=route.destination, recipient=f"*@{name}"))
        if node.startswith("@"):
            for destination in dict.fromkeys((route.destination, f"{route.transport}:*.{name}")):
                sent += await self._flush(Selection(destination=destination, recipient=f"*.{name}"))
        self._server.flow.wake(route.destination, probe=True)
        self._server.flow.pump()
        return sent

    async def _flush(self, selection: Selection) -> int:
        """Has what is selected tried now; the number of recipients, -1 when the queue has failed."""
        sent = 0
        try:
            async with aclosing(self._server.queue.change(Command.FLUSH, selection)) as steps:
                async for changed in steps:
                    self._follow(Command.FLUSH, changed)
                    sent += sum(c.recipients for c in changed)
        except QueueError:
            return -1
        return sent

    def _probe(self, selection: Selection) -> None:
        """Also sites without deferred mail: mail that has not been tried may wait there for the probe."""
        flow, scheduler = self._server.flow, self._server.scheduler
        names = [v.destination for v in scheduler.view() if v.dead_until] if selection.everything else []
        for name in [selection.destination] if selection.destination else names:
            flow.wake(name, probe=True)
        flow.pump()

    def _wake(self, changed: list[Changed], *, probe: bool) -> None:
        for destination in {d for c in changed for d in c.destinations}:
            self._server.flow.wake(destination, probe=probe)
        self._server.flow.pump()
