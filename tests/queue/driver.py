"""A process that uses the queue hard and says what was acknowledged, to be killed or hurt by the tests.

Prints one line, unbuffered, for each thing that the queue has called durable: "queued ID SEED", "settled ID",
"refused ID Class", "failed Class", "open". The content of a message follows from its seed (`content_of`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from pathlib import Path

from mailflow.envelope import Message, Peer, Recipient
from mailflow.errors import QueueError
from mailflow.queue import Queue, QueueSettings, Settlement


def content_of(seed: int) -> bytes:
    """Between some bytes and some 30 KB, different for each seed."""
    return random.Random(seed).randbytes(random.Random(seed).choice((10, 500, 3000, 30_000)))


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Senders:
    """So many senders: each enqueues, waits for the answer, perhaps settles, and goes on."""

    def __init__(self, queue: Queue, options: argparse.Namespace) -> None:
        self.queue, self.options = queue, options
        self.random = random.Random(options.seed)
        self.answers = self.busy = 0
        self.ended = asyncio.get_running_loop().create_future()
        queue.on_failure = lambda error: say("failed", type(error).__name__)
        for _ in range(options.senders):
            self.busy += 1
            self.send()

    def send(self) -> None:
        queue, seed = self.queue, self.random.getrandbits(40)
        number = queue.new_id()
        content = content_of(seed)
        to = [Recipient(i, f"r{i}@example.net", f"smtp:d{seed % 7}.example") for i in range(1 + seed % 3)]
        message = Message(number, "s@example.org", to, content, arrived=1.0, size=len(content), peer=Peer())
        queue.enqueue(message, lambda error: self.queued(message, seed, error))

    def queued(self, message: Message, seed: int, error: QueueError | None) -> None:
        if error:
            say("refused", message.queue_id, type(error).__name__)
            self.answered()
            return
        say("queued", message.queue_id, seed)
        if self.options.keep or (self.random.random() < 0.5 and not self.options.settle_all):
            self.answered()
            return
        settlement = Settlement(message, message.recipients)
        if seed % 5 == 0:  # a bounce takes its place
            number = self.queue.new_id()
            to = [Recipient(0, "s@example.org", "smtp:example.org")]
            settlement.new = [Message(number, "", to, content_of(number), arrived=1.0, size=0, peer=Peer())]
        say("settling", message.queue_id, *(f"{m.queue_id}={m.id}" for m in settlement.new))
        self.queue.settle(settlement, lambda error: self.settled(settlement, error))

    def settled(self, settlement: Settlement, error: QueueError | None) -> None:
        if error:
            say("unsettled", settlement.message.queue_id, type(error).__name__)
        else:
            say("settled", settlement.message.queue_id)
            for message in settlement.new:
                say("queued", message.queue_id, message.id)
        self.answered()

    def answered(self) -> None:
        self.answers += 1
        if self.answers == self.options.crash_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.answers < self.options.count:
            self.send()
            return
        self.busy -= 1
        if not self.busy:
            self.ended.set_result(None)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("spool", type=Path)
    parser.add_argument("--senders", type=int, default=20)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--crash-after", type=int, default=0)
    parser.add_argument("--clock", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="never settle")
    parser.add_argument("--settle-all", action="store_true")
    parser.add_argument("--mark", action="store_true", help="name the steady state with system calls that strace shows")
    options = parser.parse_args()
    clock = (lambda: options.clock) if options.clock else time.time
    # The threshold: so that half of the contents go to segments.
    queue = await Queue.open(options.spool, QueueSettings(checkpoint="1MiB", segment_threshold="1KiB"), now=clock)
    say("open")
    if options.mark:
        # Warm up, so that the files have the size they need; then the part that is counted.
        await Senders(queue, argparse.Namespace(**{**vars(options), "count": 300, "crash_after": 0})).ended
        os.access("/steady-begin", os.F_OK)
    await Senders(queue, options).ended
    if options.mark:
        os.access("/steady-end", os.F_OK)
    await queue.close()
    say("closed")


if __name__ == "__main__":
    asyncio.run(main())
