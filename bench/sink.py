"""The destination of all benchmark mail: takes everything, counts it, keeps nothing.

usage: python -m bench.sink COUNTERS [PORT]

Prints its port, then serves until SIGTERM. COUNTERS is a file of 64-bit words in mapped memory, so that the
harness reads the counts without asking: messages, connections, bytes, time of the last message (ns since 1970),
and a ring of the delays of messages that carry their departure in the subject ("t=<ns>"), for latency.

A buffer that lives as long as the connection and one write for each flight: about 5 µs for each message, so that it is not
what is measured. Not here: limits, strictness, any answer but yes.
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

MESSAGES, CONNECTIONS, BYTES, LAST, DELAYS = range(5)
HEAD_WORDS = 8
RING_WORDS = 65_536
"""Delays kept for a latency run."""
FILE_SIZE = (HEAD_WORDS + RING_WORDS) * 8
BUFFER_SIZE = 256 * 1024
EHLO = b"250-sink.bench.example\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"


class Sink(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, counters: memoryview) -> None:
        self.counters = counters
        self.buffer = bytearray(BUFFER_SIZE)
        self.view = memoryview(self.buffer)
        self.filled = 0
        self.in_data = False
        self.departed = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.counters[CONNECTIONS] += 1
        self.transport.write(b"220 sink.bench.example ESMTP\r\n")

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self.view[self.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.filled += nbytes
        out: list[bytes] = []
        at = self.consume(out)
        if at:
            left = self.filled - at
            self.buffer[:left] = self.buffer[at : self.filled]
            self.filled = left
        elif self.filled == BUFFER_SIZE:
            self.transport.abort()  # a command line of 256 KiB
        if out:
            self.transport.write(b"".join(out))
        if out and out[-1].startswith(b"221"):
            self.transport.close()

    def consume(self, out: list[bytes]) -> int:
        """Takes whole commands and message bytes from the buffer; returns how many bytes that were."""
        buffer, end, at = self.buffer, self.filled, 0
        while at < end:
            if self.in_data:
                dot = buffer.find(b"\r\n.\r\n", at, end)
                if dot < 0:
                    return max(at, end - 4)  # the end may have begun
                self.message_done(at, dot)
                out.append(b"250 2.0.0 Ok\r\n")
                at = dot + 5
                continue
            eol = buffer.find(b"\r\n", at, end)
            if eol < 0:
                break
            verb = bytes(buffer[at : at + 4]).upper()
            at = eol + 2
            if verb == b"EHLO":
                out.append(EHLO)
            elif verb == b"DATA":
                out.append(b"354 go\r\n")
                self.in_data = True
                at = eol  # the line end of DATA may be the first half of an empty message's end
            elif verb == b"QUIT":
                out.append(b"221 2.0.0 Bye\r\n")
            else:
                out.append(b"250 2.0.0 Ok\r\n")
        return at

    def message_done(self, start: int, dot: int) -> None:
        counters = self.counters
        self.in_data = False
        now = time.time_ns()
        # Only what is in the buffer at the end is searched: latency messages are small.
        mark = self.buffer.find(b"Subject: t=", start, min(dot, start + 4096))
        if mark >= 0:
            departed = int(self.buffer[mark + 11 : self.buffer.find(b"\r\n", mark)])
            counters[HEAD_WORDS + counters[DELAYS] % RING_WORDS] = max(0, now - departed)
            counters[DELAYS] += 1
        counters[BYTES] += dot - start
        counters[LAST] = now
        counters[MESSAGES] += 1


async def serve(file: Path, port: int) -> None:
    with file.open("r+b") as f:
        words = memoryview(mmap.mmap(f.fileno(), FILE_SIZE)).cast("Q")
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    server = await loop.create_server(lambda: Sink(words), sock=listener, backlog=4096)
    print(listener.getsockname()[1], flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C goes to the harness, which stops us
    await stop.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
