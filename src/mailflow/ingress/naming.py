"""How a session comes to its client's name: begun at once, waited for only where something needs it.

`policy/names.py` finds names, for all sessions; `Named` is the part of a session that asks it. A look-up tells the session
when it ends; a session that gave up waiting, or whose client is known under another address by now, hears no more of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from mailflow.ingress.policy.names import ClientName, ClientNames
from mailflow.ingress.services import Served
from mailflow.ingress.verdict import Situation


def wait_for_name(situation: Situation) -> Awaitable[None] | None:
    """The question of DATA: it has no objection, but the name shall stand in the Received: header."""
    return situation.named()


class Named(Served):
    """A session, as far as its client's name goes."""

    __slots__ = ("_naming",)

    _naming: asyncio.Future[ClientName] | None
    """The look-up, while it is under way."""

    def named(self) -> Awaitable[None] | None:
        """None when the client's name is as good as it gets; else what to wait for (wish 27)."""
        names = self._panel.names
        if names is None or self.peer.name:
            return None
        if self._naming is None:
            self._look_up(names)
        naming = self._naming
        if naming is not None and naming.done():
            self._name_found(naming)
        return None if self._naming is None else self._wait_for_name(names, self._naming)

    def _find_name(self) -> None:
        """Begins to look up a stranger's name, so that it is there when it is asked for."""
        names = self._panel.names
        if names is not None and names.wants(self.address, trusted=self.trusted):
            self._look_up(names)

    def _forget_naming(self) -> None:
        if self._naming is not None:
            self._naming.remove_done_callback(self._name_found)
            self._naming = None

    def _look_up(self, names: ClientNames) -> None:
        found = names.look(self.address)
        if isinstance(found, ClientName):
            self._take_name(found)
        else:
            self._naming = found
            found.add_done_callback(self._name_found)

    async def _wait_for_name(self, names: ClientNames, naming: asyncio.Future[ClientName]) -> None:
        if not await names.wait(self.address, naming) and self._naming is naming:
            self._forget_naming()

    def _name_found(self, naming: asyncio.Future[ClientName]) -> None:
        if self._naming is naming:
            self._naming = None
            if not naming.cancelled() and naming.exception() is None:
                self._take_name(naming.result())

    def _take_name(self, found: ClientName) -> None:
        if found.name or found.reverse:
            self.identify(name=found.name, reverse=found.reverse)
