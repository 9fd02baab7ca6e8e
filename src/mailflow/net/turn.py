"""Writes of one turn of the event loop, done together when it comes round.

What is written wakes the process that waits for it, and on Linux that costs more than the write: a switch of the core to the
woken process and back. The second of two writes finds it awake if it comes at once; not if the server reads and
thinks in between. With 100 sessions of one client this is 10 % of the server's rate (docs/performance.md).

A turn holds at most one entry for each read or answer of that turn. It decides nothing: what is to be written waits with
its connection, in order, and may leave earlier by the connection's own will.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Writes(Protocol):
    """A connection with output that waits."""

    def flush(self) -> None:
        """Writes what waits, nothing when it has left already or the connection is closing. Raises nothing."""
        ...


class Turn:
    """The connections that have something to write."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Writes] = []

    def __repr__(self) -> str:
        return f"<Turn waiting={len(self._waiting)}>"

    def add(self, writer: Writes) -> None:
        """Has `writer.flush` called when the loop comes round."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write)
        self._waiting.append(writer)

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        for writer in waiting:
            try:
                writer.flush()
            except Exception as error:  # noqa: BLE001 - one connection's mishap must not keep the others waiting
                asyncio.get_running_loop().call_exception_handler({"message": "writing failed", "exception": error})
