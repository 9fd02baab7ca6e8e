"""From which size on a content is better in a file of its own than in the database.

Usage: python bench/store_threshold.py [--seconds 2] [--spool DIR]

For each size, four clients in turn enqueue a message and settle it when it is durable: once as bytes (in the database),
once through `Queue.spill` (in a recycled content file). Printed: MB/s and CPU ms per message for both, and the
memory that one such message takes while it arrives. The setting content_file_threshold follows from this table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from mailflow.envelope import Content, Message, Peer, Recipient
from mailflow.queue import Queue, QueueSettings, Settlement
from mailflow.store.spill import BUFFER_BYTES

CLIENTS = 4
READ_BYTES = 64 * 1024
"""How much of a message one read from the network brings."""


async def called(start: Any, *arguments: Any) -> Any:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    start(*arguments, future.set_result)
    return await future


async def arrive(queue: Queue, number: int, body: bytes, *, file: bool) -> Content:
    """The content as a session collects it."""
    chunks = [body[i : i + READ_BYTES] for i in range(0, len(body), READ_BYTES)]
    if not file:
        return b"".join(chunks)
    writer = queue.spill(number)
    for chunk in chunks:
        if not writer.write(chunk):
            drained = asyncio.Event()
            writer.on_drain = drained.set
            await drained.wait()
    content: Content = await called(writer.finish)
    return content


async def client(queue: Queue, body: bytes, end: float, *, file: bool) -> int:
    count = 0
    while time.perf_counter() < end:
        number = queue.new_id()
        content = await arrive(queue, number, body, file=file)
        to = [Recipient(0, "user@example.net", "smtp:example.net")]
        message = Message(number, "s@example.org", to, content, arrived=1.0, size=len(body), peer=Peer())
        for error in (await called(queue.enqueue, message), await called(queue.settle, Settlement(message, to))):
            if error:
                raise error
        count += 1
    return count


async def measure(spool: Path, size: int, seconds: float, *, file: bool) -> tuple[float, float]:
    queue = await Queue.open(spool, QueueSettings())
    body = os.urandom(size)
    await client(queue, body, time.perf_counter() + seconds / 4, file=file)  # the files get their size
    wall, cpu = time.perf_counter(), time.process_time()
    counts = await asyncio.gather(*(client(queue, body, wall + seconds, file=file) for _ in range(CLIENTS)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    await queue.close()
    shutil.rmtree(spool)
    return sum(counts) * size / wall / 1e6, cpu / sum(counts) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--spool", type=Path, help="a folder on the disk to be measured; default: a temporary one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.spool))
    print(
        f"{'KiB':>6} | {'database MB/s':>13} {'CPU ms':>7} {'KiB held':>8} | {'file MB/s':>9} {'CPU ms':>7} {'KiB held':>8}"
    )
    for size in (65_536 << n for n in range(8)):
        blob = uvloop.run(measure(folder / "spool", size, options.seconds, file=False))
        file = uvloop.run(measure(folder / "spool", size, options.seconds, file=True))
        held = min(size, BUFFER_BYTES * 2) >> 10
        print(
            f"{size >> 10:6} | {blob[0]:13.0f} {blob[1]:7.2f} {size >> 10:8} | {file[0]:9.0f} {file[1]:7.2f} {held:8}",
            flush=True,
        )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
