"""A ring of ready destinations: an OrderedDict used as a set with an order, in which first, append and remove are O(1)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailflow.scheduler.destination import Destination
    from mailflow.scheduler.transport import Transport


class Ring(OrderedDict["Destination", None]):
    """Destinations in the order of their turns, and up to how many slots taken they may start a job."""

    __slots__ = ("all_limit", "own_limit", "transport")

    def __init__(self, transport: Transport, own_limit: int, all_limit: int) -> None:
        super().__init__()
        self.transport = transport
        self.own_limit = own_limit
        """Of the transport's slots."""
        self.all_limit = all_limit
        """Of the process's."""
