"""`make torture`: every case at length, and a table at the end. Exit code 1 when a promise was broken.

The seed that is printed repeats the choices of a run (`--seed`), though not the machine's timing.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.torture.cases import CASES, Case
from tests.torture.ledger import Row

HEADINGS = ("case", "rounds", "acknowledged", "delivered", "lost", "partial", "duplicates", "window ms", "seconds", "")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="some of the cases; all of them when none is named")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9), help="repeats the choices of a run")
    parser.add_argument("--rounds", type=int, help="instead of each case's own number")
    parser.add_argument("--list", action="store_true", help="names the cases")
    parser.add_argument("--folder", type=Path, help="where the spools are (default: a new folder for temporary files)")
    return parser.parse_args()


def run(case: Case, folder: Path, seed: int, rounds: int) -> Row:
    """One case; a broken promise, and a case that cannot run here, become rows too."""
    began = time.monotonic()
    try:
        row = case.run(folder, seed, rounds)
    except pytest.skip.Exception as reason:
        row = Row(case.name, note=f"skipped: {reason}")
    except Exception as error:  # whatever goes wrong is this case's result, and the others go on
        print(f"\n{case.name}, seed {seed}: {error}\n{folder} is kept", file=sys.stderr, flush=True)
        return Row(case.name, rounds, seconds=time.monotonic() - began, note="FAILED")
    shutil.rmtree(folder, ignore_errors=True)
    return row


def table(rows: list[Row]) -> str:
    """The rows as text, numbers to the right."""
    lines = [HEADINGS]
    for row in rows:
        numbers = (row.rounds, row.acknowledged, row.delivered, row.lost, row.partial, row.duplicates)
        times = (f"{row.window * 1000:.0f}", f"{row.seconds:.0f}")
        lines.append((row.case, *(f"{n:,}" for n in numbers), *times, row.note))
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if 0 < i < 9 else f"{cell:{width}}"
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def main() -> int:
    """Runs the cases and prints; the exit code."""
    options = arguments()
    names = {case.name for case in CASES}
    unknown = [name for name in options.cases if name not in names]
    if options.list or unknown:
        print("\n".join(f"{case.name:28} {case.body.__doc__}" for case in CASES))
        return 2 if unknown else 0
    folder = options.folder or Path(tempfile.mkdtemp(prefix="mailflow-torture-"))
    rows = []
    for case in CASES:
        if not options.cases or case.name in options.cases:
            rows.append(run(case, folder / case.name, options.seed, options.rounds or case.long))
            print(f"{table(rows[-1:]).splitlines()[1]}", flush=True)
    print(f"\nseed {options.seed}\n\n{table(rows)}")
    failed = any(row.note == "FAILED" for row in rows)
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
