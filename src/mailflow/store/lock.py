"""One server on a spool: the lock file.

`SpoolLock(spool).acquire()` takes an flock on `<spool>/lock` and writes the pid into it. The kernel drops the lock with
the process, however that ends, so there is no stale lock to clear; the file itself stays. Reading the queue needs no lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from mailflow.errors import QueueError, QueueLocked

TRIES = 5
"""Whoever lists the queue may have the lock for an instant (`is_held`)."""
PAUSE_SECONDS = 0.005


class SpoolLock:
    """The exclusive right to write below a spool; held from `acquire` to `release`."""

    __slots__ = ("_fd", "path")

    def __init__(self, spool: Path) -> None:
        self.path = spool / "lock"
        self._fd = -1

    def acquire(self) -> None:
        """Takes the lock at once. Raises QueueLocked when another holds it, QueueError when the file cannot be opened."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise QueueError(f"{self.path}: cannot open the lock file: {error.strerror}") from error
        try:
            _lock(fd)
        except OSError as error:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise QueueLocked(
                f"{self.path}: the spool is in use by another process{f' (pid {holder})' if holder else ''}"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Gives the lock back; does nothing when it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _lock(fd: int) -> None:
    for _ in range(TRIES - 1):
        with suppress(OSError):
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(PAUSE_SECONDS)
    return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(spool: Path) -> bool:
    """Whether somebody works on the spool, as far as that can be told. Takes the lock for an instant where nobody does."""
    try:
        fd = os.open(spool / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
