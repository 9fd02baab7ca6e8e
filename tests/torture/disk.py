"""A disk that a test can hurt: `disk.c`, compiled, preloaded into a process, and steered through a page of memory.

`Disk(folder, root)` steers what happens to the files below `root`; `Disk.environment` goes to the process. Every number of the page
may be set at any time. The library is compiled once a run; without a C compiler the test is skipped by name.
"""

from __future__ import annotations

import atexit
import functools
import mmap
import shutil
import struct
import subprocess
import tempfile
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Self

import pytest

SOURCE = Path(__file__).with_name("disk.c")


class Op(IntFlag):
    """Calls, as `disk.c` names them; also the kinds of journal records."""

    WRITE = 1
    FSYNC = 2
    FDATASYNC = 4
    TRUNCATE = 8
    RENAME = 16
    UNLINK = 32
    OPEN = 64
    CREATE = 128
    MKDIR = 256
    LINK = 512
    ALLOCATE = 1024
    SYNC_BEGIN = 2048
    SYNC_FAILED = 4096
    ZERO = 8192
    SYNCS = FSYNC | FDATASYNC


class Files(IntFlag):
    """Which files a failure is for."""

    DATABASE = 1
    LOG = 2
    CONTENT = 4
    OTHER = 8
    FOLDER = 16
    ALL = 31


class Control(IntEnum):
    """The numbers of the control page, as in `disk.c`."""

    CLOCK_US = 0
    SYNC_DELAY_US = 1
    FAIL_OPS = 2
    FAIL_FILES = 3
    FAIL_ERRNO = 4
    FAIL_AFTER = 5
    FAIL_COUNT = 6
    FAILED = 7
    KILL_OPS = 8
    KILL_AFTER = 9
    CALLS = 10
    ARM_OPS = 11
    FAILED_US = 12


@functools.cache
def library() -> Path:
    """The compiled `disk.c`; skips the test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc): install Debian's package gcc")
    folder = Path(tempfile.mkdtemp(prefix="mailflow-disk-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / "disk.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", target, SOURCE, "-ldl"], check=True)
    return target


class Disk:
    """The control page of one process's disk; a context manager."""

    def __init__(self, folder: Path, root: Path, *, journal: bool = False) -> None:
        """`folder` is for the page and the journal, and must not be below `root`."""
        folder.mkdir(parents=True, exist_ok=True)
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.journal = folder / "journal"
        page = folder / "control"
        page.write_bytes(bytes(8 * len(Control)))
        with page.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 0)
        self.environment = {
            "LD_PRELOAD": str(library()),
            "TORTURE_ROOT": str(root),
            "TORTURE_CONTROL": str(page),
        }
        if journal:
            self.journal.unlink(missing_ok=True)
            self.environment["TORTURE_JOURNAL"] = str(self.journal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._page.close()
        self.journal.unlink(missing_ok=True)

    def __getitem__(self, which: Control) -> int:
        return int(struct.unpack_from("q", self._page, 8 * which)[0])

    def __setitem__(self, which: Control, value: int) -> None:
        struct.pack_into("q", self._page, 8 * which, value)

    def step_clock(self, seconds: float) -> None:
        """The wall clock jumps."""
        self[Control.CLOCK_US] += int(seconds * 1e6)

    def slow(self, seconds: float) -> None:
        """Every sync takes so long from now on."""
        self[Control.SYNC_DELAY_US] = int(seconds * 1e6)

    def fail(self, ops: Op, error: int, *, files: Files = Files.ALL, after: int = 0, count: int = 1) -> None:
        """Lets `count` calls fail with errno `error`, once `after` others of the kind have gone well."""
        self[Control.FAIL_COUNT] = 0  # while the rest changes
        self[Control.FAIL_OPS], self[Control.FAIL_FILES], self[Control.FAIL_ERRNO] = ops, files, error
        self[Control.FAIL_AFTER] = after
        self[Control.FAIL_COUNT] = count

    @property
    def failed(self) -> int:
        """Calls that were made to fail."""
        return self[Control.FAILED]

    @property
    def failed_at(self) -> float | None:
        """When the first of them was (time.monotonic), or None."""
        return self[Control.FAILED_US] / 1e6 or None

    def kill_at(self, ops: Op, number: int) -> None:
        """The process dies at its `number`-th call of these from now on (1: the next); a write is half done then."""
        self[Control.KILL_OPS] = 0
        self[Control.KILL_AFTER] = number
        self[Control.KILL_OPS] = ops

    @property
    def left(self) -> int:
        """How many calls are left until the process dies."""
        return self[Control.KILL_AFTER]

    def kill_after_failure(self, ops: Op, number: int) -> None:
        """The process dies at its `number`-th call of these after the first call that was made to fail."""
        self[Control.KILL_AFTER] = number
        self[Control.ARM_OPS] = ops
