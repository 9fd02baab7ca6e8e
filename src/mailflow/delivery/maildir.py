"""Writing one message into a Maildir, so that it is there whole after a crash, or not at all.

The protocol is that of https://cr.yp.to/proto/maildir.html: write to `tmp/` under a name that nobody else uses, sync
the file, move it to `new/`, sync that folder. A reader never sees a half-written message and no lock is needed.
Blocking: callers run it in a thread. Lines end in LF on disk, as mail readers on Unix expect.

What is guarded against (wish 40 begins here): the file is created with O_EXCL and O_NOFOLLOW, folders are made with
mode 0700, and nothing outside the Maildir is touched. What it does not do: quota, locking, mbox.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FOLDERS = ("tmp", "new", "cur")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_maildir(maildir: Path, name: str, parts: Iterable[bytes]) -> Path:
    """Stores `parts`, joined, as one new message; returns its path once it is safe on disk.

    `name` must be unique in the Maildir for all time, and the same for the same message: a delivery repeated after
    a crash then replaces its first copy instead of standing beside it. Raises OSError, and what `parts` raises; then no
    half of a message is left behind.
    """
    if not ((maildir / "new").is_dir() and (maildir / "tmp").is_dir()):
        create_maildir(maildir)
    temporary, final = maildir / "tmp" / name, maildir / "new" / name
    temporary.unlink(missing_ok=True)  # what a crash left
    try:
        _write_synced(temporary, parts)
        temporary.rename(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(final.parent)
    return final


def create_maildir(maildir: Path) -> None:
    """Makes the folders, and each durable in its parent."""
    for folder in (maildir, *(maildir / f for f in FOLDERS)):
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the entries of a folder durable: without it a rename may be gone after a power failure."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_synced(path: Path, parts: Iterable[bytes]) -> None:
    fd = os.open(path, _CREATE, 0o600)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
