"""Where log lines go: standard error, standard output, a file, or nowhere.

Used by the log's writer thread only: `write` may block as long as a full pipe or a slow disk wants, which is
why the loop never calls it. A file is appended to, so that several writers and `logrotate` do no harm.
Nothing is ever synced: the log does not decide whether mail is safe (wish 31).
"""

from __future__ import annotations

import os
import select
from typing import Protocol

_FILE_MODE = 0o640  # addresses are personal: the group may read, others not


class Output(Protocol):
    """A place for log lines."""

    def write(self, data: bytes) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


class DescriptorOutput:
    """A descriptor that someone else owns: standard error or output. It is not closed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        """Writes all of it, waiting as long as it takes. Raises OSError."""
        write_all(self._descriptor, data)

    def reopen(self) -> None:
        """There is nothing to open again."""

    def close(self) -> None:
        """The descriptor stays open."""


class FileOutput:
    """A file that is appended to. Raises OSError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _FILE_MODE)

    def write(self, data: bytes) -> None:
        """Writes all of it. Raises OSError."""
        write_all(self._descriptor, data)

    def reopen(self) -> None:
        """Opens the path again, as is needed after the file was moved. Raises OSError and keeps the old file."""
        new = self._open()
        os.close(self._descriptor)
        self._descriptor = new

    def close(self) -> None:
        os.close(self._descriptor)


class NoOutput:
    """Nowhere."""

    def write(self, data: bytes) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`, also to a descriptor that someone has made non-blocking. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def open_output(to: str) -> Output:
    """The output that `log.to` names. Raises OSError when a file cannot be opened."""
    if to == "none":
        return NoOutput()
    if to in ("stderr", "stdout"):
        return DescriptorOutput(2 if to == "stderr" else 1)
    return FileOutput(to)
