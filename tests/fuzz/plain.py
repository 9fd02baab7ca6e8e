"""A fuzzer for where atheris cannot be installed: mutates inputs, and keeps those that reach lines no other has reached.

Coverage is the set of steps from one line to the next in the files under test, by `sys.settrace`: slow, but the same in
every Python.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any, Self

from tests.fuzz.targets import LONGEST, WORDS

Step = tuple[CodeType, int, int]


class Coverage:
    """The steps that one run took."""

    def __init__(self) -> None:
        self.steps: set[Step] = set()

    def __enter__(self) -> Self:
        self.steps = set()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _argument: object) -> Any:
        code = frame.f_code
        if event != "call" or "/mailflow/" not in code.co_filename:
            return None
        last = 0

        def line(frame: FrameType, _event: str, _argument: object) -> Any:
            nonlocal last
            self.steps.add((code, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line


class Fuzzer:
    """One target and its corpus."""

    def __init__(self, target: Callable[[bytes], None], seeds: Sequence[bytes], seed: int) -> None:
        self._target = target
        self._random = random.Random(seed)
        self._coverage = Coverage()
        self.seen: set[Step] = set()
        self.corpus: list[bytes] = []
        self.runs = 0
        for data in seeds:
            self.run(data)

    def run(self, data: bytes) -> None:
        """Runs one input, and keeps it when it was new. Whatever the target raises is raised, with the input."""
        self.runs += 1
        try:
            with self._coverage as coverage:
                self._target(data)
        except Exception as error:
            error.add_note(f"input: {data!r}")
            raise
        new = coverage.steps - self.seen
        if new:
            self.seen |= new
            self.corpus.append(data)

    def go(self, *, runs: int = sys.maxsize, seconds: float = float("inf")) -> None:
        """Runs mutated inputs."""
        until = time.monotonic() + seconds
        for _ in range(runs):
            if time.monotonic() > until:
                return
            self.run(self._mutate())

    def _mutate(self) -> bytes:
        r = self._random
        data = bytearray(r.choice(self.corpus) if self.corpus else b"")
        for _ in range(1 + r.randrange(4)):
            at = r.randrange(len(data) + 1)
            match r.randrange(6):
                case 0:
                    data[at:at] = r.choice(WORDS)
                case 1:
                    del data[at : at + 1 + r.randrange(12)]
                case 2 if data:
                    data[at % len(data)] = r.randrange(256)
                case 3:
                    data[at:at] = bytes(r.choices(range(256), k=1 + r.randrange(4)))
                case 4:
                    other = r.choice(self.corpus) if self.corpus else b""
                    data[at:] = other[r.randrange(len(other) + 1) :]
                case _:
                    data[at:at] = data[r.randrange(len(data) + 1) :][: r.randrange(60)] * (1 + r.randrange(3))
        return bytes(data[:LONGEST])
