"""What a command of mailflow's loads, for commands that must start fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.server import environment

HEAVY = frozenset(
    {
        "pydantic",
        "pydantic_core",
        "aiohttp",
        "asyncio",
        "uvloop",
        "cryptography",
        "mailflow.settings",
        "mailflow.setting",
    }
)
"""What takes long to load, and a command about the queue needs none of."""
_CODE = """
import sys
from mailflow.cli import main
try:
    main()
finally:
    print("", *sys.modules, file=sys.stderr)
"""


def run_loading(config: Path, *words: str) -> tuple[set[str], str]:
    """Runs a command: all modules that it has loaded when it ends, and what it says. It must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, "--config", str(config), *words],
        env=environment() | {"MAILFLOW_RELAY__NETWORKS": "192.0.2.0/24"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split()), done.stdout
