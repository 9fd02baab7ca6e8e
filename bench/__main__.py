"""Measures mailflow as a relay, beside Postfix where it is installed, and prints a table.

usage: python -m bench [--short] [--servers a,b] [--repeats N] [--seconds S] [--work DIR] [--cases SIZE:SESSIONS:reuse|new,...]

All servers run at the same time, on the same disk, with the same sink; only one has work at a time. Each case is
measured in turns (every server, then every server again), so that a slower minute of the machine hits all of them; the
figure is the median. A run beside which others used the machine is repeated, and marked "~" in the table when no quiet
one was found. Every single run is a line of JSON in bench/results/. What is started is ended by process id, and
what is written is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.load import Case, Run, SinkProcess, measure
from bench.machine import describe
from bench.report import table
from bench.servers import SERVERS, Server, unavailable

KB = 1024
FULL = [Case(s, size * KB, reuse) for size in (1, 10, 100) for s in (20, 100) for reuse in (False, True)]
SHORT = [Case(20, KB, False), Case(100, KB, True), Case(20, 100 * KB, True)]
MOST_MESSAGES = 100_000
PROBE_SECONDS = 0.5
"""A probing run of at least this length tells how many messages fill the wanted time."""
MORE_TRIES = 2
"""How often, at most, a run is repeated because others were using the machine."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="three cases, two short runs each (about two minutes)")
    parser.add_argument("--servers", default=",".join(SERVERS), help=f"some of {','.join(SERVERS)}")
    parser.add_argument("--repeats", type=int, help="runs of each case (default 3; short: 2)")
    parser.add_argument("--seconds", type=float, help="how long a run shall be (default 4; short: 2)")
    parser.add_argument("--cases", help="such as 1:100:reuse,100:20:new (KB, sessions, connections)")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where spools and logs live; a real disk")
    chosen = parser.parse_args()
    chosen.repeats = chosen.repeats or (2 if chosen.short else 3)
    chosen.seconds = chosen.seconds or (2.0 if chosen.short else 4.0)
    return chosen


def cases(chosen: argparse.Namespace) -> list[Case]:
    if not chosen.cases:
        return SHORT if chosen.short else FULL
    words = [case.split(":") for case in chosen.cases.split(",")]
    return [Case(int(sessions), int(size) * KB, how == "reuse") for size, sessions, how in words]


def start(names: str, folder: Path, sink: SinkProcess, stack: contextlib.ExitStack) -> list[Server]:
    """The servers that can be measured here, running; why the others cannot is said."""
    servers = []
    for name in names.split(","):
        kind = SERVERS[name]
        if reason := unavailable(kind):
            print(f"not measured: {name}: {reason}", file=sys.stderr)
            continue
        server = kind(folder, sink.port)
        stack.callback(server.stop)
        server.start()
        print(f"{name}: {server.version() or 'the load generator straight to the sink'}")
        servers.append(server)
    return servers


def fitting(server: Server, sink: SinkProcess, case: Case, seconds: float) -> int:
    """How many messages keep this server busy for the wanted time; also warms it up."""
    n = 2 * case.sessions
    while True:
        begun = time.monotonic()
        run = measure(server, sink, case, n)
        if run.error or time.monotonic() - begun > PROBE_SECONDS + 0.15 or n >= MOST_MESSAGES:
            break
        n *= 3
    return n if run.error else max(2 * case.sessions, min(MOST_MESSAGES, int(run.end_to_end_rate * seconds)))


def run_case(case: Case, servers: list[Server], sink: SinkProcess, chosen: argparse.Namespace) -> list[Run]:
    """All runs of a case, in turns."""
    counts = {server.name: fitting(server, sink, case, chosen.seconds) for server in servers}
    runs: list[Run] = []
    wanted = {server.name: chosen.repeats for server in servers}
    for turn in range(chosen.repeats + MORE_TRIES):
        for server in servers:
            if wanted[server.name] == 0:
                continue
            run = measure(server, sink, case, counts[server.name])
            runs.append(run)
            print(progress(run), file=sys.stderr)
            if run.error:
                # What is still under way would be counted in the next run: begin with a fresh one.
                server.stop()
                shutil.rmtree(server.folder, ignore_errors=True)
                server.start()
            tries_left = chosen.repeats + MORE_TRIES - turn - 1
            if not run.noisy or tries_left < wanted[server.name]:
                wanted[server.name] -= 1
    return runs


def progress(run: Run) -> str:
    figures = f"{run.accept_rate:.0f}/s accepted, {run.end_to_end_rate:.0f}/s end to end, {run.cpu_ms:.3f} ms"
    noise = f", others used {run.other_cores:.1f} cores" if run.noisy else ""
    return f"  {run.case}: {run.server}: {run.error or figures + noise}"


def interrupted(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    sys.exit(128 + number)  # by way of every `finally`


def main() -> None:
    chosen = arguments()
    if shutil.which("smtp-source") is None:
        sys.exit("smtp-source is missing: install Debian's package postfix (it need not run)")
    signal.signal(signal.SIGTERM, interrupted)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    record = results / f"{time.strftime('%Y%m%dT%H%M%S')}.jsonl"
    folder = Path(tempfile.mkdtemp(prefix="mailflow-bench-", dir=chosen.work))
    folder.chmod(0o755)  # Postfix's daemons pass through it as another user
    runs: list[Run] = []
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        print(f"\n{describe(folder)}")
        sink = SinkProcess(folder)
        stack.callback(sink.stop)
        servers = start(chosen.servers, folder, sink, stack)
        for case in cases(chosen):
            found = run_case(case, servers, sink, chosen)
            runs += found
            with record.open("a") as lines:
                lines.writelines(json.dumps(run.record()) + "\n" for run in found)
    print(f"\n{table(runs)}\nEvery run: {record}")


if __name__ == "__main__":
    main()
