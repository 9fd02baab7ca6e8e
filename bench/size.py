"""What a queue of up to 1,000,000 deferred messages costs: start, memory, listing, counting, flushing, deleting.

usage: python -m bench.size [--short] [--sizes N,N,…] [--seconds S] [--work DIR] [--write]

For each size a spool is filled through the store's own commits, then a server is started on it and the operator's
commands are run as an operator runs them, each in a process of its own. Mail that goes through beside it (in by SMTP, out
to a sink) shows what a message costs, and how much of its rate is left while a tenth of a million is deleted by a condition
(`deletion.py`).
`--write` puts table and plot into docs/ (performance.md between its marks, size.svg). Every figure is one line of JSON in
bench/results/ too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.deletion import delete_beside_mail
from bench.load import Case, SinkProcess, measure
from bench.machine import cpu_seconds, describe
from bench.plot import line_plot
from bench.servers import Mailflow
from mailflow.control.client import ControlClient
from mailflow.envelope import Message, Peer, Recipient
from mailflow.store.settings import QueueSettings
from mailflow.store.sqlite import Store

FULL = (0, 10_000, 100_000, 1_000_000)
SHORT = (0, 20_000)
PER_SITE = 100
FEWEST_TO_DELETE = 1_000_000
"""In a smaller queue a tenth is gone before it can be told what it costs the mail."""
BATCH = 1000
CONTENT = b"Subject: waiting\r\n\r\n" + b"x" * 1000
CASE = Case(20, 1024, True)
DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- bench.size begins -->", "<!-- bench.size ends -->"
FILTERS = {
    "list, sender": ["list", "--limit", "100", "--sender", "nobody@*"],
    "list, recipient": ["list", "--limit", "100", "--recipient", "nobody@*"],
    "list, site": ["list", "--limit", "100", "--destination", "smtp:site1.example"],
    "list, client": ["list", "--limit", "100", "--client", "nobody"],
    "list, age": ["list", "--limit", "100", "--older", "900d"],
    "list, size": ["list", "--limit", "100", "--larger", "1GB"],
    "list, state": ["list", "--limit", "100", "--state", "held"],
    "list, reason": ["list", "--limit", "100", "--reason", "no such reason"],
    "count by site": ["count", "--by", "destination", "--limit", "100"],
    "count": ["count"],
}
"""Conditions that nothing fulfils: the whole queue has to be read."""

RESTING_SECONDS = 0.1
"""CPU time in a second of a server that has nothing more to do."""


def fill(spool: Path, messages: int) -> None:
    """Deferred messages for a hundredth as many sites; a tenth of them from one sender."""
    spool.mkdir(parents=True, exist_ok=True)
    store = Store.open(spool, QueueSettings())
    now, number = time.time(), int((time.time() - 2 * 86400) * 1e6)
    for first in range(0, messages, BATCH):
        batch = [_message(i, number + i, now, messages) for i in range(first, min(first + BATCH, messages))]
        store.commit(batch, [], batch[-1].id)
    store.close(number + messages)


def _message(i: int, number: int, now: float, messages: int) -> Message:
    site = i % max(1, messages // PER_SITE)
    recipient = Recipient(
        0,
        f"user{i}@site{site}.example",
        f"smtp:site{site}.example",
        due=now + 7200 + i % 7200,  # not later than mail ever waits (store/strays.py)
        attempts=3,
        reason=f"connect to mx.site{site}.example[192.0.2.9]:25: Connection refused",
    )
    sender = "tenth@example.org" if i % 10 == 0 else f"sender{i % 1000}@example.org"
    peer = Peer(f"192.0.2.{i % 250}", 40_000, "client.example.org", "client", "ESMTP")
    return Message(number, sender, [recipient], CONTENT, arrived=number / 1e6, size=len(CONTENT), peer=peer)


class Filled(Mailflow):
    """A server that finds `messages` deferred ones in its queue."""

    def __init__(self, folder: Path, sink_port: int, messages: int) -> None:
        super().__init__(folder, sink_port)
        self._full = folder / "full"
        fill(self._full, messages)

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def command(self) -> list[str]:
        self._full.rename(self.spool)
        return super().command()


class Operator:
    """The command line on one server's configuration."""

    def __init__(self, server: Filled) -> None:
        self._base = [sys.executable, "-m", "mailflow", "queue"]
        self._config = ["--config", str(server.folder / "mailflow.toml")]

    def __call__(self, *words: str) -> tuple[float, str]:
        """Seconds, and what it printed."""
        begun = time.perf_counter()
        done = subprocess.run([*self._base, *words, *self._config], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"mailflow queue {' '.join(words)}: exit code {done.returncode}")
        return time.perf_counter() - begun, done.stdout


def measure_size(messages: int, sink: SinkProcess, folder: Path, seconds: float) -> Iterator[tuple[str, float]]:
    """All figures of one size: name (with its unit) and value."""
    begun = time.perf_counter()
    server = Filled(folder, sink.port, messages)
    print(f"{messages}: filled in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    try:
        begun = time.perf_counter()
        server.start()
        yield "start s", time.perf_counter() - begun
        yield "look for damage, CPU s", _rest(server.pid)
        yield from _commands(server, sink, messages, seconds)
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def _rest(pid: int) -> float:
    """Waits until a server that was just started has looked at its queue; the CPU time since it began, s."""
    used = 0.0
    while (now := cpu_seconds(pid)) - used > RESTING_SECONDS:
        used = now
        time.sleep(1.0)
    return now


def _commands(server: Filled, sink: SinkProcess, messages: int, seconds: float) -> Iterator[tuple[str, float]]:
    operator = Operator(server)
    rate, cpu, memory = _mail(server, sink, seconds)
    yield "memory MiB", memory
    yield "CPU ms a message", cpu
    yield "end to end /s", rate
    if not messages:
        return
    for name, words in FILTERS.items():
        yield f"{name} s", operator(*words)[0]
    begun = time.perf_counter()
    flushed = list(ControlClient(server.spool / "control.sock").change("flush", {"destination": "smtp:site1.example"}))
    yield "flush one site (asked on the socket) s", time.perf_counter() - begun
    if len(flushed) != PER_SITE:
        sys.exit(f"{len(flushed)} messages flushed, not {PER_SITE}")
    if messages >= FEWEST_TO_DELETE:
        beside = delete_beside_mail(server, sink, CASE, server.spool / "control.sock", "tenth@*")
        yield "delete a tenth, beside mail without a pause s", messages / 10 / beside.rate
        yield "the mail's rate meanwhile %", 100 * beside.kept
        yield "standard error of that %", 100 * beside.error
    busy = cpu_seconds(server.pid)
    yield (
        "delete the oldest tenth, no mail beside s",
        operator("delete", "--state", "deferred", "--limit", str(messages // 10))[0],
    )
    yield "CPU of the server for that, µs a message", 1e6 * (cpu_seconds(server.pid) - busy) / (messages // 10)
    before = _blocks(server.spool)
    yield "compact s", operator("compact")[0]
    yield "given back MiB", (before - _blocks(server.spool)) / 2**20


def _mail(server: Mailflow, sink: SinkProcess, seconds: float) -> tuple[float, float, float]:
    """Mail through the server for so long, in runs of a second: messages/s, CPU ms each, MiB of memory."""
    probe = measure(server, sink, CASE, 200)
    count = max(200, int(probe.end_to_end_rate * min(seconds, 1.0)))
    rates, cpus, memory, end = [], [], 0.0, time.monotonic() + seconds
    while not rates or time.monotonic() < end:
        result = measure(server, sink, CASE, count)
        if result.error:
            sys.exit(result.error)
        rates.append(result.end_to_end_rate)
        cpus.append(result.cpu_ms)
        memory = max(memory, result.memory_mib)
    return sum(rates) / len(rates), sum(cpus) / len(cpus), memory


def _blocks(spool: Path) -> int:
    """Bytes of disk that the spool takes."""
    return sum(p.stat().st_blocks * 512 for p in spool.rglob("*") if p.is_file())


def table(figures: dict[int, dict[str, float]]) -> str:
    """Markdown: a row for each figure, a column for each size."""
    sizes = list(figures)
    names = list(figures[sizes[-1]])
    lines = [f"| | {' | '.join(f'{n:,}' for n in sizes)} |", f"|---|{'--:|' * len(sizes)}"]
    lines += [f"| {name} | {' | '.join(_cell(figures[n].get(name)) for n in sizes)} |" for name in names]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_docs(figures: dict[int, dict[str, float]]) -> None:
    """Table and plot into docs/."""
    page = DOCS / "performance.md"
    head, _, rest = page.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(f"{head}{BEGIN}\n{table(figures)}\n{END}{tail}")
    points = [(n, values["CPU ms a message"]) for n, values in figures.items()]
    plot = line_plot(points, x="deferred messages in the queue", y="CPU, ms a message, end to end")
    (DOCS / "size.svg").write_text(plot)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # by way of every `finally`
    parser = argparse.ArgumentParser(prog="python -m bench.size", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help=f"only {SHORT[-1]:,} messages, and briefly")
    parser.add_argument("--sizes", help="such as 0,100000")
    parser.add_argument("--seconds", type=float, help="of mail for each rate (default 4; short: 1)")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where the spools live; a real disk")
    parser.add_argument("--write", action="store_true", help="write the result into docs/")
    chosen = parser.parse_args()
    sizes = [int(n) for n in chosen.sizes.split(",")] if chosen.sizes else SHORT if chosen.short else FULL
    seconds = chosen.seconds or (1.0 if chosen.short else 4.0)
    run(sizes, seconds, chosen.work, write=chosen.write)


def run(sizes: list[int] | tuple[int, ...], seconds: float, work: Path, *, write: bool) -> None:
    """Measures, prints the table, and writes it where that is wanted."""
    folder = Path(tempfile.mkdtemp(prefix="mailflow-size-", dir=work))
    figures: dict[int, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sink = SinkProcess(folder)
        stack.callback(sink.stop)
        for n in sizes:
            figures[n] = {}
            for name, value in measure_size(n, sink, folder, seconds):
                figures[n][name] = value
                print(f"  {n}: {name} {value:.4g}", file=sys.stderr)
    record(figures, describe(work))
    print(table(figures))
    if write:
        write_docs(figures)


def record(figures: dict[int, Any], machine: str) -> None:
    """One line of JSON for each size."""
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    with (results / f"{time.strftime('%Y%m%dT%H%M%S')}-size.jsonl").open("w") as out:
        for n, values in figures.items():
            out.write(json.dumps({"machine": machine, "deferred": n, **values}) + "\n")


if __name__ == "__main__":
    main()
