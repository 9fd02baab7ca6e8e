"""The cases of `python -m bench.fairness`: which destinations misbehave how, and what is measured beside them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from operator import truediv
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench import moody_sink as words
from bench.injector import CONTENT, inject
from bench.latency import Sender
from bench.load import Case as Load
from bench.load import SinkProcess, source_command
from bench.machine import memory_bytes
from bench.moody_server import MoodySinks, make_server
from bench.servers import Server
from mailflow.envelope import Message, Peer, Recipient
from mailflow.queue import Queue, QueueSettings
from mailflow.scheduler import SchedulerSettings

GOOD_MESSAGES, GOOD_RATE = 100, 50.0
ARRIVAL_LIMIT = 60.0
"""Seconds that good mail may take; what has not come then counts as not arrived."""
MEDIAN_MS, WORST_MS = 50.0, 500.0
SAMPLE_SECONDS = 0.1
RETRIES_REPLY_SECONDS = 0.2
"""So late that a machine with a slow disk, too, takes new mail faster than such a destination does."""
FLOOD_SESSIONS = 100
FLOOD_TURNS, FLOOD_SECONDS, REST_SECONDS = 5, 3.0, 0.5
FASTEST_PER_SECOND = 5500
"""Deliveries that no server reaches here, so that the queue lasts."""
FILL_AT_ONCE = 2000
"""Messages handed to the queue before their commit."""


@dataclass
class Result:
    """What one case showed with one server. Delays in milliseconds."""

    case: str
    server: str
    accept_rate: float = 0.0
    sent: int = 0
    delays: list[float] = field(default_factory=list)
    memory_mib: float = 0.0
    note: str = ""
    missed: str = ""
    error: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return median(self.delays)

    @property
    def worst(self) -> float:
        return max(self.delays)

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def expect(self, median_ms: float = MEDIAN_MS, worst_ms: float = WORST_MS) -> None:
        """The limits for good mail."""
        if len(self.delays) < self.sent:
            self.missed = f"{self.sent - len(self.delays)} good messages did not arrive"
        elif self.median > median_ms or self.worst > worst_ms:
            self.missed = f"median {self.median:.0f} ms, worst {self.worst:.0f} ms"


class Stage:
    """One server with its destinations, running; ends with the case."""

    def __init__(self, result: Result, kind: type[Server], folder: Path, stack: contextlib.ExitStack) -> None:
        self.result, self.kind, self.folder, self.stack = result, kind, folder, stack
        self.sink = SinkProcess(folder)
        stack.callback(self.sink.stop)
        self.server: Server

    def moody(self, manner: str, addresses: int, seconds: float = 0.0) -> MoodySinks:
        sinks = MoodySinks(self.folder, manner, addresses, seconds)
        self.stack.callback(sinks.stop)
        return sinks

    def serve(self, routes: dict[str, str], more: str = "", spool: Callable[[Path], None] | None = None) -> None:
        """Starts the server; `spool` fills its queue before."""
        self.server = make_server(self.kind, self.folder, self.sink.port, routes, more)
        if spool is not None:
            spool(self.folder / "filled")
            self.server.spool = self.folder / "filled"  # type: ignore[attr-defined]
        self.stack.callback(self.server.stop)
        self.server.start()

    def good(self, domain: str, look: Callable[[], list[float]]) -> None:
        """Sends the good mail; `look` gives the delays that the sink has seen of it."""
        result = self.result
        result.sent = GOOD_MESSAGES
        sender = Sender(self.server.port, domain)
        begun = time.monotonic()
        for number in range(GOOD_MESSAGES):
            time.sleep(max(0.0, begun + number / GOOD_RATE - time.monotonic()))
            sender.message(number)
        sender.close()
        while len(look()) < GOOD_MESSAGES and time.monotonic() - begun < ARRIVAL_LIMIT:
            time.sleep(0.01)
        result.delays = look()
        self.look_at_memory()

    def sink_delays(self) -> list[float]:
        seen = self.sink.counters
        return [seen[8 + i] / 1e6 for i in range(seen[4])]

    def look_at_memory(self) -> None:
        self.result.memory_mib = max(self.result.memory_mib, memory_bytes(self.server.pid) / 2**20)


@dataclass(frozen=True)
class Case:
    """A case by its function."""

    play: Callable[[Stage, float], None]
    beside_postfix: bool = False

    def measure(self, name: str, kind: type[Server], folder: Path, share: float) -> Result:
        """Plays it with `share` of the mail."""
        result = Result(name, kind.name)
        with contextlib.ExitStack() as stack:
            try:
                self.play(Stage(result, kind, folder, stack), share)
            except (OSError, RuntimeError, TimeoutError, ExceptionGroup) as error:
                result.error = result.missed = f"{type(error).__name__}: {error}"
        return result


def bad_then_good(stage: Stage, sinks: MoodySinks, messages: int, more: str = "") -> None:
    """The plain course: bad mail in turns for all of these destinations, then good mail."""
    stage.serve(sinks.routes, more)
    domains = sinks.domains
    injected = inject(stage.server.port, (f"user{n}@{domains[n % len(domains)]}" for n in range(messages)))
    stage.result.accept_rate = injected.rate
    stage.good("rcpt.bench.example", stage.sink_delays)
    stage.result.expect()


def mute_one(stage: Stage, share: float) -> None:
    bad_then_good(stage, stage.moody("mute", 1), int(25_000 * share))


def mute_forty(stage: Stage, share: float) -> None:
    bad_then_good(stage, stage.moody("mute", 40), int(5000 * share))


def slow_thousand(stage: Stage, share: float) -> None:
    sinks = stage.moody("slow", 1000, 2.0)
    bad_then_good(stage, sinks, int(50_000 * share))
    seen = sinks.counters
    stage.result.note = f"{seen[words.BUSY]} transactions under way at the slow ones, {seen[words.MESSAGES]} done"


def half_busy(stage: Stage, share: float) -> None:
    """The destination that turns away half of its callers gets its mail all the same, and the good one too."""
    sinks = stage.moody("half", 1)
    messages = int(5000 * share)
    bad_then_good(stage, sinks, messages, '\n[queue]\nbackoff = ["2s", "4s"]\n')
    begun, seen = time.monotonic(), sinks.counters
    while seen[words.MESSAGES] < messages and time.monotonic() - begun < ARRIVAL_LIMIT:
        time.sleep(0.01)
    stage.result.note = (
        f"{seen[words.MESSAGES]} of {messages} delivered to it within {time.monotonic() - begun:.0f} s, "
        f"{seen[words.REFUSED]} of {seen[words.CONNECTIONS]} callers turned away"
    )


def sampled(stage: Stage, sinks: MoodySinks, recipients: int, limit: float) -> list[int]:
    """Transactions under way at the sinks, every `SAMPLE_SECONDS`, until so many recipients have come."""
    samples, begun = [], time.monotonic()
    while sinks.counters[words.RECIPIENTS] < recipients and time.monotonic() - begun < limit:
        samples.append(sinks.counters[words.BUSY])
        if len(samples) % 10 == 1:
            stage.look_at_memory()
        time.sleep(SAMPLE_SECONDS)
    return samples


def list_and_singles(stage: Stage, share: float) -> None:
    """One message with 100,000 recipients, and single ones for the same destination behind it."""
    sinks = stage.moody("slow", 1, 0.05)
    recipients = int(100_000 * share)
    stage.serve(sinks.routes, f"\n[limits]\nrecipients = {recipients}\n")
    domain = sinks.domains[0]
    inject(stage.server.port, (f"user{n}@{domain}" for n in range(recipients)), together=True)
    samples: list[int] = []
    watch = threading.Thread(target=lambda: samples.extend(sampled(stage, sinks, recipients, 300)))
    watch.start()
    stage.good(domain, sinks.delays)
    arrived = sinks.counters[words.RECIPIENTS]
    watch.join()
    middle = samples[5:-5] or [0]
    stage.result.note = (
        f"{arrived:,} of {recipients:,} recipients done when the last single one had come; "
        f"{mean(middle):.1f} of {SchedulerSettings().max_window} transactions under way on average, all in {len(samples) * SAMPLE_SECONDS:.0f} s"
    )
    stage.result.expect(2000, 5000)


def list_of_a_million(stage: Stage, share: float) -> None:
    """Memory, and the window until the end."""
    sinks = stage.moody("slow", 1, 0.05)
    recipients = int(1_000_000 * share)
    stage.serve(sinks.routes, f"\n[limits]\nrecipients = {recipients}\n")
    domain = sinks.domains[0]
    begun = time.monotonic()
    inject(stage.server.port, (f"user{n}@{domain}" for n in range(recipients)), together=True)
    taken = time.monotonic() - begun
    stage.look_at_memory()
    accepted_mib = stage.result.memory_mib
    samples = sampled(stage, sinks, recipients, 900)
    middle, last = samples[5:-5] or [0], samples[-len(samples) // 10 : -5] or [0]
    stage.look_at_memory()
    now_mib = memory_bytes(stage.server.pid) / 2**20
    stage.result.note = (
        f"accepted in {taken:.0f} s, {sinks.counters[words.RECIPIENTS]:,} delivered in {len(samples) * SAMPLE_SECONDS:.0f} s; "
        f"{mean(middle):.1f} transactions under way on average, {mean(last):.1f} in the last tenth; "
        f"{accepted_mib:.0f} MiB when accepted, {now_mib:.0f} at the end"
    )
    if mean(last) < 0.75 * mean(middle):
        stage.result.missed = f"{mean(last):.1f} transactions under way in the last tenth"


def fill(spool: Path, destination: str, messages: int, *, attempts: int) -> None:
    """A queue with so many messages that are due now."""

    async def run() -> None:
        queue = await Queue.open(spool, QueueSettings(reserve=0))
        now = time.time()
        done = asyncio.Event()
        left = messages
        failed: list[Exception] = []

        def queued(error: Exception | None) -> None:
            nonlocal left
            left -= 1
            failed.extend([error] if error else [])
            if not left:
                done.set()

        for number in range(messages):
            recipient = Recipient(0, f"user{number}@rcpt.bench.example", destination, due=now, attempts=attempts)
            message = Message(
                queue.new_id(),
                "sender@bench.example",
                [recipient],
                CONTENT,
                arrived=now,
                size=len(CONTENT),
                peer=Peer(),
            )
            queue.enqueue(message, queued)
            while number - (messages - left) > FILL_AT_ONCE:  # noqa: ASYNC110 - a bench: the count is enough
                await asyncio.sleep(0.005)
        await done.wait()
        await queue.close()
        if failed:
            raise failed[0]

    asyncio.run(run())


@contextlib.contextmanager
def flood(port: int, domain: str, sessions: int) -> Iterator[Callable[[], int]]:
    """New mail as fast as it is taken, with the time of its departure, until the end of the block; gives how much was."""
    stop = threading.Event()
    taken = [0] * sessions

    def work(session: int) -> None:
        with contextlib.closing(Sender(port, domain)) as sender:
            for number in count():
                if stop.is_set():
                    break
                sender.message(number)
                taken[session] += 1

    threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in range(sessions)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(taken)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def retries(stage: Stage, share: float) -> None:
    """100,000 retries due at once, and new mail for the same destination faster than that takes it."""
    sinks = stage.moody("slow", 1, RETRIES_REPLY_SECONDS)
    domain, next_hop = next(iter(sinks.routes.items()))
    mountain, seen = int(100_000 * share), sinks.counters
    stage.serve(sinks.routes, spool=lambda spool: fill(spool, f"smtp:{next_hop}", mountain, attempts=1))
    with flood(stage.server.port, domain, 20) as taken:
        time.sleep(3.0)
        before = seen[words.MESSAGES], seen[words.DELAYS]
        time.sleep(30.0 if share == 1 else 5.0)
        after = seen[words.MESSAGES], seen[words.DELAYS]
        waiting = taken() - after[1]
        stage.look_at_memory()
    all_, new = (b - a for a, b in zip(before, after, strict=True))
    ratio = new / max(1, all_ - new)
    stage.result.note = f"{new} new and {all_ - new} retried messages delivered: {ratio:.2f} to 1 (set: 4 to 1)"
    stage.result.figures = {"new": new, "retried": all_ - new, "new that waits": waiting}
    if waiting < all_:
        stage.result.error = f"new mail came too slowly to tell: {waiting} waited, {all_} were delivered"
    if not 3.2 < ratio < 5:
        stage.result.missed = f"{ratio:.2f} new for each retried"


@contextlib.contextmanager
def smtp_source_flood(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """New mail from Postfix's load generator, as fast as it is taken, until the end of the block."""
    command = source_command(port, Load(FLOOD_SESSIONS, 1024, reuse=True), 100_000_000)
    source = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield source
    finally:
        source.kill()
        source.wait()


def rate(stage: Stage, seconds: float) -> float:
    """Deliveries each second, over so many, after what went before has come to rest."""
    time.sleep(REST_SECONDS)
    begun, first = time.monotonic(), stage.sink.messages
    time.sleep(seconds)
    return (stage.sink.messages - first) / (time.monotonic() - begun)


def back_pressure(stage: Stage, share: float) -> None:
    """How fast a full queue drains undisturbed, and under a flood of new mail, in turns: the flood is stopped and goes on."""
    turns, seconds = (FLOOD_TURNS, FLOOD_SECONDS) if share == 1 else (2, 1.0)
    messages = int(FASTEST_PER_SECOND * 2 * turns * (seconds + REST_SECONDS))
    stage.serve({}, spool=lambda path: fill(path, f"smtp:[127.0.0.1]:{stage.sink.port}", messages, attempts=0))
    calm: list[float] = []
    flooded: list[float] = []
    with smtp_source_flood(stage.server.port) as source:
        for _ in range(turns):
            flooded.append(rate(stage, seconds))
            stage.look_at_memory()
            source.send_signal(signal.SIGSTOP)
            calm.append(rate(stage, seconds))
            source.send_signal(signal.SIGCONT)
    if stage.sink.messages > messages or not all(calm):
        stage.result.missed = "the queue was empty before the end"
        return
    kept = sum(flooded) / sum(calm)
    stage.result.note = (
        f"{mean(calm):,.0f} deliveries/s undisturbed, {mean(flooded):,.0f}/s under the flood ({kept:.0%}; in {turns} turns"
        f" {min(map(truediv, flooded, calm)):.0%} to {max(map(truediv, flooded, calm)):.0%})"
    )
    if kept < 0.5:
        stage.result.missed = stage.result.note


CASES: dict[str, Case] = {
    "mute-1": Case(mute_one, beside_postfix=True),
    "mute-40": Case(mute_forty, beside_postfix=True),
    "slow-1000": Case(slow_thousand),
    "half-busy": Case(half_busy),
    "list": Case(list_and_singles),
    "million": Case(list_of_a_million),
    "retries": Case(retries),
    "pressure": Case(back_pressure),
}
