"""How fast the queue takes messages in and lets them go, with an fsync for every group commit.

Usage: python bench/store_rates.py [--seconds 2] [--spool DIR] [--burn MICROSECONDS] [--blobs]

Each of N clients enqueues a message, waits until it is durable, settles it, waits until that is durable, and begins
again. Printed: messages a second, CPU time of the process per message, the part of it in the writer's thread, and how
many operations one commit held. `--burn` spends that much Python on the loop per message, as a server would: it shows
what the thread costs when it has to fight for the interpreter lock. `--blobs` has all contents in the database.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

import uvloop

from mailflow.envelope import Message, Peer, Recipient
from mailflow.queue import Queue, QueueSettings, Settlement

NEVER = 2**40
PEER = Peer("127.0.0.1", 40000, "localhost", "client.example.org", "ESMTP")


class Clients:
    """N clients in lockstep with the disk, without tasks."""

    def __init__(self, queue: Queue, clients: int, size: int, seconds: float, spins: int) -> None:
        self.queue, self.content, self.spins = queue, os.urandom(size), spins
        self.settled = self.commits = 0
        self.loop = asyncio.get_running_loop()
        self.end = self.loop.time() + seconds
        self.running = clients
        self.stopped = self.loop.create_future()
        queue.on_commit = self.committed
        for _ in range(clients):
            self.begin()

    def committed(self) -> None:
        self.commits += 1

    def burn(self) -> None:
        for _ in range(self.spins):
            pass

    def begin(self) -> None:
        self.burn()
        queue = self.queue
        number = queue.new_id()
        recipients = [Recipient(0, f"user{number % 1000}@example.net", "smtp:example.net", due=number / 1e6)]
        message = Message(
            number,
            "sender@example.org",
            recipients,
            self.content,
            arrived=number / 1e6,
            size=len(self.content),
            peer=PEER,
        )
        queue.enqueue(message, lambda error: self.loop.call_soon(self.queued, message, error))

    def queued(self, message: Message, error: Exception | None) -> None:
        if error:
            raise error
        self.burn()
        self.queue.settle(Settlement(message, message.recipients), lambda _: self.loop.call_soon(self.done))

    def done(self) -> None:
        self.settled += 1
        if self.loop.time() < self.end:
            self.begin()
            return
        self.running -= 1
        if not self.running:
            self.stopped.set_result(None)


async def measure(spool: Path, clients: int, size: int, seconds: float, burn: float, settings: QueueSettings) -> None:
    start = time.perf_counter()
    for _ in range(200_000):
        pass
    spins = int(burn / 2 * 1e-6 / ((time.perf_counter() - start) / 200_000))
    shutil.rmtree(spool, ignore_errors=True)
    queue = await Queue.open(spool, settings)
    wall, cpu, loop_cpu = time.perf_counter(), time.process_time(), time.thread_time()
    run = Clients(queue, clients, size, seconds, spins)
    await run.stopped
    wall, cpu = time.perf_counter() - wall, (time.process_time() - cpu) / run.settled * 1e6
    loop_cpu = (time.thread_time() - loop_cpu) / run.settled * 1e6
    print(
        f"{size / 1024:8.0f} {clients:8} {burn:6.0f} {run.settled / wall:12,.0f} {cpu:10.1f} {cpu - loop_cpu:10.1f}"
        f" {run.settled * 2 / run.commits:10.1f}",
        flush=True,
    )
    await queue.close()
    shutil.rmtree(spool)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--spool", type=Path, help="a folder on the disk to be measured; default: a temporary one")
    parser.add_argument("--burn", type=float, default=60.0, help="microseconds of Python on the loop per message")
    parser.add_argument("--blobs", action="store_true", help="no content goes to a segment")
    options = parser.parse_args()
    settings = QueueSettings(segment_threshold=NEVER) if options.blobs else QueueSettings()
    folder = Path(tempfile.mkdtemp(dir=options.spool))
    print(
        f"{'KiB':>8} {'clients':>8} {'burn':>6} {'messages/s':>12} {'CPU us':>10} {'thread us':>10} {'ops/commit':>10}"
    )
    for burn in dict.fromkeys((0.0, options.burn)):
        for size in (1024, 10_240, 102_400):
            for clients in (20, 100):
                uvloop.run(measure(folder / "spool", clients, size, options.seconds, burn, settings))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
