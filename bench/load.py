"""One measurement: a number of messages from smtp-source through a server to the sink, with the clock on."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import sink as words
from bench.machine import busy_seconds, cpu_seconds, memory_bytes
from bench.servers import Server

ARRIVAL_LIMIT = 60.0
"""Seconds that the last message may take after the last was accepted."""
TIDY_LIMIT = 3.0
"""Seconds that a server may go on working after the last arrival; what it does then is counted too."""
NOISE = 0.3
"""Cores used by others above which a run is not trusted. The kernel's own work for us (journal, interrupts) is in it."""


@dataclass(frozen=True)
class Case:
    """One kind of load."""

    sessions: int
    size: int
    reuse: bool
    """Many messages over a connection (smtp-source -d), or a connection for each."""

    def __str__(self) -> str:
        way = "reused" if self.reuse else "new each"
        return f"{self.size // 1024} KB, {self.sessions} sessions, connection {way}"


@dataclass
class Run:
    """What one measurement found; rates are messages a second."""

    server: str
    case: Case
    messages: int
    accept_rate: float = 0.0
    """Until the last 250, delivery going on beside it."""
    end_to_end_rate: float = 0.0
    """Until the sink had the last one."""
    cpu_ms: float = 0.0
    """Processor milliseconds for each message, all processes of the server."""
    memory_mib: float = 0.0
    """Largest proportional set size seen, all processes of the server."""
    source_cpu_ms: float = 0.0
    sink_cpu_ms: float = 0.0
    other_cores: float = 0.0
    error: str = ""
    at: float = field(default_factory=time.time)

    @property
    def noisy(self) -> bool:
        return self.other_cores > NOISE

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"noisy": self.noisy}


class SinkProcess:
    """The sink as a child, and its counters."""

    def __init__(self, folder: Path) -> None:
        file = folder / "sink-counters"
        file.write_bytes(bytes(words.FILE_SIZE))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.sink", str(file)], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        with file.open("r+b") as f:
            self.counters = memoryview(mmap.mmap(f.fileno(), words.FILE_SIZE)).cast("Q")

    @property
    def messages(self) -> int:
        return self.counters[words.MESSAGES]

    def wait(self, count: int, limit: float) -> float:
        """Waits for that many messages in all; returns when the last came (seconds since 1970), or raises TimeoutError."""
        until = time.monotonic() + limit
        while self.messages < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{count - self.messages} of the messages had not arrived after {limit:.0f} s")
            time.sleep(0.002)
        return self.counters[words.LAST] / 1e9

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)


def source_command(port: int, case: Case, messages: int) -> list[str]:
    """smtp-source; -N makes every recipient another one, so that nothing can be saved by repetition."""
    command = ["smtp-source", "-4", "-N", "-C", "200", "-s", str(case.sessions), "-m", str(messages)]
    command += ["-l", str(case.size), "-M", "client.bench.example", "-f", "sender@bench.example"]
    command += ["-t", "user@rcpt.bench.example", *(["-d"] if case.reuse else [])]
    return [*command, f"127.0.0.1:{port}"]


def children_cpu() -> float:
    """Processor seconds of our own ended children: the load generator."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Holds the lock that BENCH_LOCK names, for machines where several people measure."""
    name = os.environ.get("BENCH_LOCK")
    with open(name, "a") if name else contextlib.nullcontext() as lock:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def measure(server: Server, sink: SinkProcess, case: Case, messages: int) -> Run:
    """Sends, waits for the last arrival, and gives the figures; trouble is in `Run.error`."""
    run = Run(server.name, case, messages)
    try:
        with turn():
            _measure(run, server, sink)
    except (OSError, RuntimeError, TimeoutError) as error:
        run.error = f"{type(error).__name__}: {error}"
    return run


def _measure(run: Run, server: Server, sink: SinkProcess) -> None:
    n = run.messages
    arrived = sink.messages
    spent = _Spent(server, sink)
    begun, begun_clock = time.time(), time.monotonic()
    source = subprocess.Popen(
        source_command(server.port, run.case, n), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        while source.poll() is None:
            spent.look_at_memory()
            with contextlib.suppress(subprocess.TimeoutExpired):
                source.wait(0.5)
    finally:
        source.kill()
        source.wait()
    accepted = time.monotonic() - begun_clock
    assert source.stderr is not None
    if source.returncode:
        text = source.stderr.read().decode(errors="replace").strip()
        raise RuntimeError(f"smtp-source ended with {source.returncode}: {text[-300:]}")
    run.accept_rate = n / accepted
    run.end_to_end_rate = n / (sink.wait(arrived + n, ARRIVAL_LIMIT) - begun)
    spent.finish(run)


class _Spent:
    """Processor time and memory from construction to `finish`."""

    def __init__(self, server: Server, sink: SinkProcess) -> None:
        self.pid = server.process.pid if server.process else 0
        self.sink_pid = sink.process.pid
        self.memory = 0
        self.began = time.monotonic()
        self.server, self.sink, self.source = self.server_cpu(), cpu_seconds(self.sink_pid), children_cpu()
        self.own, self.machine = time.process_time(), busy_seconds()

    def server_cpu(self) -> float:
        return cpu_seconds(self.pid) if self.pid else 0.0

    def look_at_memory(self) -> None:
        if self.pid:
            self.memory = max(self.memory, memory_bytes(self.pid))

    def finish(self, run: Run) -> None:
        self.look_at_memory()
        server = self.tidied() - self.server
        sink, source = cpu_seconds(self.sink_pid) - self.sink, children_cpu() - self.source
        own = time.process_time() - self.own
        others = busy_seconds() - self.machine - server - sink - source - own
        run.cpu_ms = 1e3 * server / run.messages
        run.sink_cpu_ms = 1e3 * sink / run.messages
        run.source_cpu_ms = 1e3 * source / run.messages
        run.memory_mib = self.memory / 2**20
        run.other_cores = max(0.0, others / (time.monotonic() - self.began))

    def tidied(self) -> float:
        """Waits until the server rests; its processor seconds then."""
        before, limit = self.server_cpu(), time.monotonic() + TIDY_LIMIT
        while time.monotonic() < limit and self.pid:
            time.sleep(0.15)
            now = self.server_cpu()
            if now - before < 0.02:
                return now
            before = now
        return before
