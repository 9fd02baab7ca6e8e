"""What is read in one turn of the event loop is dealt with together when it comes round, and then all is written.

Reading, thinking and writing each need other code and other data, the kernel's or the interpreter's, and there is no room for both
in a processor's caches: a server that changes between them for each packet runs at a third of its speed. So first every
connection with something to read is read, then all that came is dealt with, then all answers leave. While Python runs, it
also keeps the interpreter lock, which the loop would offer to the other threads after each packet, who wake up for nothing.
And what is written wakes the process that waits for it: the second of two writes finds it awake if it comes at once.
Figures are in docs/performance.md.

A turn holds at most one entry for each read or answer of that turn. It decides nothing: what came and what is to be written
waits with its connection, in order, and may be taken earlier by the connection's own will.
"""

from __future__ import annotations

import asyncio


class Party:
    """A connection that takes part. A class and no protocol: compiled code (docs/compiled.md) finds the methods of a class at once."""

    __slots__ = ()

    def take(self) -> bool:
        """Deals with what came, if that has not happened already; whether there is something to write for it now."""
        raise NotImplementedError

    def flush(self) -> None:
        """Writes what waits, nothing when it has left already or the connection is closing."""
        raise NotImplementedError


class Turn:
    """The connections that have something to take or to write."""

    __slots__ = ("_loop", "_reading", "_scheduled", "_writing")

    def __init__(self) -> None:
        self._reading: list[Party] = []
        self._writing: list[Party] = []
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Turn reading={len(self._reading)} writing={len(self._writing)}>"

    def read(self, reader: Party) -> None:
        """Has `reader.take` called when the loop comes round, before anything is written."""
        self._reading.append(reader)
        if not self._scheduled:
            self._schedule()

    def add(self, writer: Party) -> None:
        """Has `writer.flush` called when the loop comes round, after everything was taken."""
        self._writing.append(writer)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._come_round)

    def _come_round(self) -> None:
        reading, self._reading = self._reading, []
        for reader in reading:
            try:
                if reader.take():
                    self._writing.append(reader)
            except Exception as error:  # noqa: BLE001 - one connection's mishap must not keep the others waiting
                _report("reading", error)
        writing, self._writing = self._writing, []
        for writer in writing:
            try:
                writer.flush()
            except Exception as error:  # noqa: BLE001 - as above
                _report("writing", error)
        self._scheduled = False
        if self._reading or self._writing:  # what a connection handed on to another
            self._schedule()


def _report(what: str, error: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": f"{what} failed", "exception": error})
