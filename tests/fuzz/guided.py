"""One target under atheris: `python -m tests.fuzz.guided TARGET [libFuzzer's options]`, as `tests.fuzz` calls it."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found,unused-ignore] # installed by `make fuzz`

with atheris.instrument_imports(include=["mailflow"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name][0])
    atheris.Fuzz()
