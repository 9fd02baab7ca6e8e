"""A large message's way to its content file while it arrives, with bounded memory.

`writer.write(chunk)` from the event loop, as the bytes come; False means: stop reading until `on_drain` is called.
`writer.finish(done)` ends it: `done` gets the ContentFile when file and directory are synced, or the QueueError.
`writer.abort()` at any time before. One task writes, through aiofiles' threads, so a slow disk never holds up the loop;
the checksum runs along. The row that makes the file part of the queue is `Queue.enqueue`'s work.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiofiles

from mailflow.envelope import ContentFile
from mailflow.errors import QueueError, QueueFull
from mailflow.store import checksums
from mailflow.store.content import ContentFiles
from mailflow.store.failure import failure

BUFFER_BYTES = 512 * 1024
"""More than this waiting for the disk stops the reading from the network; one read may go beyond it."""


class ContentWriter:
    """The content of one large message, on its way to disk."""

    def __init__(
        self,
        id: int,
        files: ContentFiles,
        admit: Callable[[int], Awaitable[bool]],
        keep: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """`admit` says whether so many bytes more leave the disk its reserve; `keep` holds on to the task."""
        self.id = id
        self.size = 0
        self.on_drain: Callable[[], None] | None = None
        self._files = files
        self._admit = admit
        self._number = files.take()
        self._crc = checksums.content(id, b"")
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._paused = False
        self._aborted = False
        self._closed = False
        self._done: Callable[[ContentFile | QueueError], None] | None = None
        self._wake = asyncio.Event()
        keep(asyncio.get_running_loop().create_task(self._run(), name=f"spill {id}"))

    def __repr__(self) -> str:
        return f"<ContentWriter {self.id} size={self.size} waiting={self._bytes}>"

    def write(self, chunk: bytes) -> bool:
        """Takes the next bytes. False: enough is waiting, go on after `on_drain`."""
        self.size += len(chunk)
        self._bytes += len(chunk)
        self._waiting.append(chunk)
        self._wake.set()
        self._paused = self._bytes >= BUFFER_BYTES
        return not self._paused

    def finish(self, done: Callable[[ContentFile | QueueError], None]) -> None:
        """No more bytes. `done` is called once, from the loop: with the file, durable, or with why there is none."""
        if self._closed:
            asyncio.get_running_loop().call_soon(done, QueueError("the queue is closed"))
            return
        self._done = done
        self._wake.set()

    def abort(self) -> None:
        """The message will not be: forgets it. After `finish` it is too late, unless `done` has not been called yet."""
        self._aborted = True
        self._done = None
        self._wake.set()

    async def _run(self) -> None:
        try:
            await self._write_all(self._files.path(self._number))
        except asyncio.CancelledError:  # the queue closes; the file is found free at the next start
            self._closed = True
            self._drop_waiting()
            if self._done is not None:
                self._done(QueueError("the queue is closed"))
            raise
        except Exception as error:  # noqa: BLE001 -- the border: whatever the disk says becomes a QueueError
            await self._fail(failure(error, str(self._files.path(self._number))))
            return
        if self._aborted or self._done is None:
            await self._free(self._files.give_back)
            return
        self._files.finished(self.id, self._number, self._crc)
        self._done(ContentFile(self._files.path(self._number), self.size))

    async def _write_all(self, path: Path) -> None:
        async with aiofiles.open(path, "r+b", buffering=0, opener=_private) as file:
            while not self._aborted:
                if self._waiting:
                    await self._write_some(file)
                elif self._done is not None:
                    await asyncio.get_running_loop().run_in_executor(
                        None, self._files.sync, self._number, file.fileno()
                    )
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()

    async def _write_some(self, file: Any) -> None:
        data = memoryview(b"".join(self._waiting))
        self._waiting.clear()
        if not await self._admit(len(data)):
            raise QueueFull(f"no room for more than {self.size - self._bytes} bytes of a message")
        self._crc = checksums.content(self.id, data, self._crc)
        rest = data
        while rest:
            rest = rest[await file.write(rest) :]
        self._bytes -= len(data)
        if self._paused and self._bytes < BUFFER_BYTES:
            self._paused = False
            if self.on_drain:
                self.on_drain()

    async def _fail(self, error: QueueError) -> None:
        """Waits for `finish` or `abort`, taking and dropping what still comes, so that the caller's reading goes on."""
        while self._done is None and not self._aborted:
            self._drop_waiting()
            self._wake.clear()
            await self._wake.wait()
        self._drop_waiting()
        await self._free(self._files.drop)
        if self._done is not None:
            self._done(error)

    def _drop_waiting(self) -> None:
        self._waiting.clear()
        self._bytes = 0
        if self._paused:
            self._paused = False
            if self.on_drain:
                self.on_drain()

    async def _free(self, how: Callable[[int], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(None, how, self._number)
        except OSError:
            return  # the file stays until the next start's sweep


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
