"""How long one message takes through an otherwise idle server: until 250, and until the sink has it.

usage: python -m bench.latency [--servers a,b] [--rate PER_SECOND] [--messages N] [--work DIR]

One client on one connection sends at a fixed, low rate; each message carries the time of its departure, which the
sink subtracts from the time of its arrival. Servers take turns, in slices, as in the main benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path

from bench import sink as words
from bench.__main__ import interrupted, start
from bench.load import SinkProcess, turn
from bench.servers import Server

BODY = b"".join(b"%076d\r\n" % i for i in range(12))
TURNS = 3


class Sender:
    """One SMTP connection that sends message after message."""

    def __init__(self, port: int, domain: str = "rcpt.bench.example") -> None:
        """`domain`: of the recipients."""
        self.domain = domain.encode()
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lines = self.socket.makefile("rb")
        self.reply(b"220")
        self.say(b"EHLO client.bench.example\r\n", b"250")

    def reply(self, wanted: bytes) -> None:
        while (line := self.lines.readline())[3:4] == b"-":
            continue
        if not line.startswith(wanted):
            raise RuntimeError(f"wanted {wanted!r}, got {line!r}")

    def say(self, data: bytes, wanted: bytes) -> None:
        self.socket.sendall(data)
        self.reply(wanted)

    def message(self, number: int) -> float:
        """Sends one; milliseconds until the 250 for it."""
        departed = time.time_ns()
        self.say(b"MAIL FROM:<sender@bench.example>\r\n", b"250")
        self.say(b"RCPT TO:<%d@%s>\r\n" % (number, self.domain), b"250")
        self.say(b"DATA\r\n", b"354")
        head = b"From: <sender@bench.example>\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <%d@bench.example>\r\n"
        self.say(head % departed + b"Subject: t=%d\r\n\r\n" % departed + BODY + b".\r\n", b"250")
        return (time.time_ns() - departed) / 1e6

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(b"QUIT\r\n")
        self.lines.close()
        self.socket.close()


def one_turn(server: Server, sink: SinkProcess, rate: float, messages: int) -> tuple[list[float], list[float]]:
    """Milliseconds until accepted, and until delivered, of each message."""
    arrived, first = sink.messages, sink.counters[words.DELAYS]
    sender = Sender(server.port)
    accepted = []
    begun = time.monotonic()
    try:
        for i in range(messages):
            time.sleep(max(0.0, begun + i / rate - time.monotonic()))
            accepted.append(sender.message(i))
        sink.wait(arrived + messages, 30)
    finally:
        sender.close()
    ring = [sink.counters[words.HEAD_WORDS + (first + i) % words.RING_WORDS] / 1e6 for i in range(messages)]
    return accepted, ring


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.latency")
    parser.add_argument("--servers", default="mailflow,postfix,postfix-tuned")
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--messages", type=int, default=500, help="for each server, in all turns together")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="mailflow-bench-", dir=chosen.work))
    folder.chmod(0o755)
    found: dict[str, tuple[list[float], list[float]]] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sink = SinkProcess(folder)
        stack.callback(sink.stop)
        servers = start(chosen.servers, folder, sink, stack)
        for _ in range(TURNS):
            for server in servers:
                with turn():
                    accepted, delivered = one_turn(server, sink, chosen.rate, chosen.messages // TURNS)
                both = found.setdefault(server.name, ([], []))
                both[0].extend(accepted)
                both[1].extend(delivered)
    print(f"\n{chosen.rate:g} messages/s, 1 KB, one connection; milliseconds\n")
    print("| server | accepted p50 | p99 | delivered p50 | p99 |\n|---|--:|--:|--:|--:|")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    with (results / f"latency-{time.strftime('%Y%m%dT%H%M%S')}.jsonl").open("a") as record:
        for name, (accepted, delivered) in found.items():
            row = [quantile(v, q) for v in (accepted, delivered) for q in (0.5, 0.99)]
            print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in row) + " |")
            record.write(json.dumps({"server": name, "accepted_ms": accepted, "delivered_ms": delivered}) + "\n")


if __name__ == "__main__":
    main()
