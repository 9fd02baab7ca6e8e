"""From which size on a content is better in a segment than in the database, and in a file of its own than in a segment.

Usage: python bench/store_threshold.py [--seconds 2] [--clients 4 20 100] [--smallest 2] [--largest 2048] [--spool DIR]

For each size in KiB, so many clients enqueue a message each, and settle it when it is durable: as bytes that go to the
database or to a segment, or through `Queue.spill` to a recycled content file. Printed for each: messages a second,
and CPU of the process and written bytes per message. The settings segment_threshold and content_file_threshold follow
from this table.
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

NEVER = 2**40
WAYS = {"database": NEVER, "segment": 0, "file": NEVER}
"""Where a content goes, and the segment_threshold that has it go there."""
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


def written() -> int:
    """Bytes that this process has caused to be written to disks, log and checkpoints included."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


async def measure(spool: Path, size: int, clients: int, seconds: float, way: str) -> str:
    queue = await Queue.open(spool, QueueSettings(segment_threshold=WAYS[way]))
    body = os.urandom(size)
    file = way == "file"
    await client(queue, body, time.perf_counter() + seconds / 4, file=file)  # the files get their size
    wall, cpu, disk = time.perf_counter(), time.process_time(), written()
    counts = await asyncio.gather(*(client(queue, body, wall + seconds, file=file) for _ in range(clients)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count, disk = sum(counts), written() - disk
    await queue.close()
    shutil.rmtree(spool)
    return f"{count / wall:8,.0f} {cpu / count * 1e6:8,.0f} {disk / count / 1024:8,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 20, 100])
    parser.add_argument("--smallest", type=int, default=2, help="KiB")
    parser.add_argument("--largest", type=int, default=2048, help="KiB")
    parser.add_argument("--spool", type=Path, help="a folder on the disk to be measured; default: a temporary one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.spool))
    print(
        f"{'KiB':>6} {'clients':>8}"
        + "".join(f" | {way + ': /s':>16} CPU us  KiB out" for way in WAYS).replace("  ", " ")
    )
    size = options.smallest
    while size <= options.largest:
        for clients in options.clients:
            if clients * size > 48 * 1024:
                continue  # more than write_buffer lets wait
            found = [
                uvloop.run(measure(folder / "spool", size << 10, clients, options.seconds, way))
                for way in WAYS
                if way != "file" or size >= 64
            ]
            print(f"{size:6} {clients:8} | " + " | ".join(found), flush=True)
        size *= 2
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
