"""Fuzzes the parsers that strangers can reach.

usage: python -m tests.fuzz [--seconds N] [--plain] [--seed N] [TARGET ...]

With atheris (libFuzzer) where it is installed, or else with the plain fuzzer. Prints for each target how many inputs
were run; ends with 1 and the input when one was found that breaks something.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.plain import Fuzzer
from tests.fuzz.targets import LONGEST, TARGETS, WORDS


def plainly(name: str, seconds: float, seed: int) -> int:
    """Runs the plain fuzzer; the number of inputs."""
    target, seeds = TARGETS[name]
    fuzzer = Fuzzer(target, seeds(), seed)
    fuzzer.go(seconds=seconds)
    print(f"{name}: {fuzzer.runs} inputs, {len(fuzzer.corpus)} kept, {len(fuzzer.seen)} steps covered (plain)")
    return fuzzer.runs


def with_atheris(name: str, seconds: float, seed: int) -> int:
    """Runs atheris, which wants a process for itself; the number of inputs."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for number, data in enumerate(TARGETS[name][1]()):
            Path(corpus, str(number)).write_bytes(data)
        words = Path(folder, "words")
        words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))
        options = [f"-max_total_time={int(seconds)}", f"-max_len={LONGEST}", f"-dict={words}", f"-seed={seed}"]
        options += ["-print_final_stats=1", f"-artifact_prefix={Path.cwd()}/fuzz-{name}-"]
        command = [sys.executable, "-m", "tests.fuzz.guided", name, *options, str(corpus)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    count = re.search(r"number_of_executed_units: (\d+)", said)
    if done.returncode or count is None:
        print(said[-6000:])
        raise SystemExit(1)
    covered = re.findall(r"cov: (\d+)", said)
    print(f"{name}: {count[1]} inputs, {covered[-1] if covered else '?'} branches covered (atheris)")
    return int(count[1])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=float, default=60, help="for each target (60)")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"not a target: {', '.join(unknown)}")
    guided = importlib.util.find_spec("atheris") is not None and not given.plain
    run = with_atheris if guided else plainly
    total = sum(run(name, given.seconds, given.seed) for name in given.targets or TARGETS)
    print(f"{total} inputs, nothing found")


if __name__ == "__main__":
    main()
