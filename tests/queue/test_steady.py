"""In the steady state no file is made, removed or renamed for a message (wish 85): counted with strace."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.py")
NAMES = "open,openat,creat,unlink,unlinkat,rename,renameat,renameat2,link,linkat,mkdir,access"


@pytest.mark.wish(85)
@pytest.mark.wish(77)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs the Debian package strace")
def test_no_file_is_made_or_removed_per_message(tmp_path: Path) -> None:
    log = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        str(log),
        "-e",
        f"trace={NAMES},faccessat2",
        sys.executable,
        str(DRIVER),
    ]
    command += [str(tmp_path / "spool"), "--count", "500", "--mark"]
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        timeout=50,
    )
    lines = log.read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if "steady-begin" in line)
    end = next(i for i, line in enumerate(lines) if "steady-end" in line)
    calls = Counter(match[1] for line in lines[begin + 1 : end] if (match := re.match(r"\d+ +(\w+)\(", line)))
    print(dict(calls))
    assert sum(calls.values()) <= 5, lines[begin:end]
