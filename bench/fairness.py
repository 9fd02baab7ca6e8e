"""Does mail for bad destinations hold up mail for good ones? Real servers, real sockets, every destination misbehaving.

usage: python -m bench.fairness [--short] [--cases a,b] [--servers mailflow,postfix] [--work DIR]

In each case much mail is put in for bad destinations; then 100 messages for a good one follow at 50 a second, and
their delay is taken from their departure to their arrival at the sink. The cases that a limit is set for end the
command with an error when mailflow misses it. Postfix (stock, private configuration) runs in the same way, one after
the other, where it is installed. What the cases are stands in `bench/fairness_cases.py`; docs/scheduler.md has the figures.
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

from bench.__main__ import interrupted
from bench.fairness_cases import CASES, Result
from bench.load import turn
from bench.machine import describe
from bench.moody_server import SERVERS
from bench.servers import unavailable

HEAD = (
    "| case | server | bad mail accepted/s | good mail arrived | median ms | worst ms | memory MiB | what else |\n"
    "|---|---|--:|--:|--:|--:|--:|---|\n"
)


def row(result: Result) -> str:
    """A line of the table."""
    if result.error:
        return f"| {result.case} | {result.server} | failed: {result.error} | | | | | |\n"
    rate = f"{result.accept_rate:,.0f}" if result.accept_rate else ""
    arrived = f"{len(result.delays)} of {result.sent}" if result.sent else ""
    median, worst = (f"{v:,.0f}" for v in (result.median, result.worst)) if result.delays else ("", "")
    return f"| {result.case} | {result.server} | {rate} | {arrived} | {median} | {worst} | {result.memory_mib:.0f} | {result.note} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a tenth of the mail (about two minutes)")
    parser.add_argument("--cases", default=",".join(CASES), help=f"some of {','.join(CASES)}")
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where spools live; a real disk")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    names = [
        n
        for n in chosen.servers.split(",")
        if not (reason := unavailable(SERVERS[n])) or print(f"not measured: {n}: {reason}")
    ]
    results: list[Result] = []
    folder = Path(tempfile.mkdtemp(prefix="mailflow-fair-", dir=chosen.work))
    folder.chmod(0o755)  # Postfix's daemons pass through it as another user
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        print(describe(folder))
        for name in chosen.cases.split(","):
            case = CASES[name]
            for server in names if case.beside_postfix else names[:1]:
                place = folder / f"{name}-{server}"
                place.mkdir(mode=0o755)
                with turn():
                    result = case.measure(name, SERVERS[server], place, 0.1 if chosen.short else 1.0)
                results.append(result)
                print(row(result), end="", file=sys.stderr)
                shutil.rmtree(place, ignore_errors=True)
    record = Path(__file__).parent / "results"
    record.mkdir(exist_ok=True)
    with (record / f"fairness-{time.strftime('%Y%m%dT%H%M%S')}.jsonl").open("w") as lines:
        lines.writelines(json.dumps(result.record()) + "\n" for result in results)
    print("\n" + HEAD + "".join(map(row, results)))
    missed = [f"{r.case}: {r.missed}" for r in results if r.server == "mailflow" and r.missed]
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
