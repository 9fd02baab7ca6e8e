"""Destinations that are mute, slow, or turn away half of their callers; many addresses, one process.

usage: python -m bench.moody_sink COUNTERS MANNER ADDRESSES [SECONDS]

MANNER: `mute` accepts and never says a word; `slow` takes everything, each flight of replies SECONDS late; `half` says 421
instead of a greeting to every second caller. Listens on one port at 127.1.0.1, 127.1.0.2 and so on, ADDRESSES of them;
prints the port, then serves until SIGTERM. COUNTERS is a file of 64-bit words in mapped memory, see below.
"""

from __future__ import annotations

import asyncio
import mmap
import signal
import socket
import sys
import time
from pathlib import Path

import uvloop

from bench.sink import FILE_SIZE, HEAD_WORDS, RING_WORDS

MESSAGES, RECIPIENTS, CONNECTIONS, OPEN, DELAYS, BUSY, MOST_BUSY, REFUSED = range(8)
"""Words: messages and recipients taken, connections ever and now, delays in the ring (as in `bench.sink`), transactions
under way now and at most, callers turned away."""
EHLO = b"250-moody.bench.example\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250 8BITMIME\r\n"
INPUT_BYTES = 16 * 2**20
"""Most that a connection may send before its last reply has left."""


def address(number: int) -> str:
    """The address of the destination with this number, counted from 0."""
    return f"127.1.{(number + 1) // 250}.{(number + 1) % 250 + 1}"


class Moody(asyncio.Protocol):
    """One connection to a slow or half-hearted destination."""

    def __init__(self, words: memoryview, manner: str, seconds: float) -> None:
        self.words, self.manner, self.seconds = words, manner, seconds
        self.input = bytearray()
        self.in_data = False
        self.under_way = 0
        self.recipients = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.words[CONNECTIONS] += 1
        self.words[OPEN] += 1
        if self.manner == "half" and self.words[CONNECTIONS] % 2:
            self.words[REFUSED] += 1
            self.transport.write(b"421 4.3.2 Too busy\r\n")
            self.transport.close()
        elif self.manner != "mute":
            self.say(b"220 moody.bench.example ESMTP\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.words[OPEN] -= 1
        while self.under_way:
            self.rest()

    def data_received(self, data: bytes) -> None:
        if self.manner == "mute":
            return
        self.input += data
        if len(self.input) > INPUT_BYTES:
            self.transport.abort()
        replies = b"".join(iter(self.next_reply, None))
        if replies:
            self.say(replies)

    def say(self, replies: bytes) -> None:
        if self.seconds:
            asyncio.get_running_loop().call_later(self.seconds, self.write, replies)
        else:
            self.write(replies)

    def write(self, replies: bytes) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(replies)
        if replies.startswith(b"221"):
            self.transport.close()

    def begin(self) -> None:
        """A transaction begins, perhaps behind one that has not had its last reply."""
        self.under_way += 1
        self.words[BUSY] += 1
        self.words[MOST_BUSY] = max(self.words[MOST_BUSY], self.words[BUSY])

    def rest(self) -> None:
        """The last reply of a transaction has left."""
        if self.under_way:
            self.under_way -= 1
            self.words[BUSY] -= 1

    def next_reply(self) -> bytes | None:
        """Takes the next command, or the rest of a message, from the input; None when it is not complete."""
        words, end = self.words, b"\r\n.\r\n" if self.in_data else b"\r\n"
        taken, found, rest = self.input.partition(end)
        if not found:
            return None
        self.input = rest
        if self.in_data:
            self.in_data = False
            words[MESSAGES] += 1
            words[RECIPIENTS] += self.recipients
            mark = taken.find(b"Subject: t=", 0, 4096)
            if mark >= 0:
                departed = int(taken[mark + 11 : taken.find(b"\r\n", mark)])
                words[HEAD_WORDS + words[DELAYS] % RING_WORDS] = max(0, time.time_ns() - departed)
                words[DELAYS] += 1
            asyncio.get_running_loop().call_later(self.seconds, self.rest)
            return b"250 2.0.0 Ok\r\n"
        verb = bytes(taken[:4]).upper()
        if verb == b"MAIL":
            self.recipients = 0
            self.begin()
        elif verb == b"RCPT":
            self.recipients += 1
        elif verb == b"DATA":
            self.in_data = True
            self.input[:0] = b"\r\n"  # may be the first half of an empty message's end
            return b"354 go\r\n"
        return {b"EHLO": EHLO, b"QUIT": b"221 2.0.0 Bye\r\n"}.get(verb, b"250 2.0.0 Ok\r\n")


async def serve(file: Path, manner: str, addresses: int, seconds: float) -> None:
    with file.open("r+b") as f:
        words = memoryview(mmap.mmap(f.fileno(), FILE_SIZE)).cast("Q")
    loop, port = asyncio.get_running_loop(), 0
    for number in range(addresses):
        listener = socket.create_server((address(number), port), backlog=1024)
        port = listener.getsockname()[1]
        await loop.create_server(lambda: Moody(words, manner, seconds), sock=listener, backlog=1024)
    print(port, flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C goes to the harness, which stops us
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(
        serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]) if len(sys.argv) > 4 else 0.0)
    )
