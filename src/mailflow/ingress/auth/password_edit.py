"""Changes to a password file, for `mailflow user`: one line at a time, remarks and all other lines kept as they are.

A change is made in a new file, which is synced and takes the old one's place in one step, owner kept, mode 0600; a reader sees the one or the
other. Writers exclude each other by a lock on the file that is in place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mailflow.ingress.auth.password_file import FILE_OCTETS, PasswordFileError, parse
from mailflow.smtp.sasl import is_login

MODE = 0o600


def put(text: str, login: str, stored: str) -> str:
    """The file's text with this entry, in the place of the login's old one or at the end."""
    lines = text.splitlines()
    line = f"{login}:{stored}"
    found = [number for number, old in enumerate(lines) if _login_of(old) == login.lower()]
    if found:
        old_login, _, rest = lines[found[0]].strip().partition(":")
        _, colon, more = rest.partition(":")
        lines[found[0]] = f"{old_login}:{stored}{colon}{more}"
    else:
        lines.append(line)
    return "\n".join(lines) + "\n"


def without(text: str, login: str) -> str:
    """The file's text without the login's entry."""
    return "".join(line for line in text.splitlines(keepends=True) if _login_of(line) != login.lower())


def check_login(login: str) -> None:
    """Raises ValueError when this cannot stand in a password file."""
    if not is_login(login) or ":" in login or login.startswith("#") or login != login.strip():
        raise ValueError(f"{login!r} cannot be a login (accepted: printable, at most 255 bytes, no colon)")


class Editing:
    """A password file that nobody else changes meanwhile."""

    def __init__(self, path: Path, place: int) -> None:
        self.path = path
        self._place = place
        self.text = _read(path, place)
        self.entries = parse(self.text, path)

    def save(self, text: str) -> None:
        """Puts the new text in place. Raises PasswordFileError, and changes nothing, when it would not be a password file."""
        parse(text, self.path)
        old = os.fstat(self._place)
        place, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(place, "wb") as file:
                os.fchmod(place, MODE)
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(place, old.st_uid, old.st_gid)
                file.write(text.encode())
                file.flush()
                os.fsync(place)
            Path(name).replace(self.path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
            raise
        _sync_folder(self.path.parent)


@contextlib.contextmanager
def editing(path: Path, *, create: bool = False) -> Iterator[Editing]:
    """Locks the file; waits while another one changes it. Raises OSError, PasswordFileError."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        place = os.open(path, flags, MODE)
        try:
            fcntl.flock(place, fcntl.LOCK_EX)
            if _is_in_place(path, place):  # else it was replaced while we waited: lock what came in its place
                yield Editing(path, place)
                return
        finally:
            os.close(place)


def _read(path: Path, place: int) -> str:
    data = os.pread(place, FILE_OCTETS + 1, 0)
    if len(data) > FILE_OCTETS:
        raise PasswordFileError(path, 0, f"larger than {FILE_OCTETS} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PasswordFileError(path, 0, "not UTF-8") from None


def _is_in_place(path: Path, place: int) -> bool:
    ours = os.fstat(place)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _sync_folder(folder: Path) -> None:
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _login_of(line: str) -> str:
    line = line.strip()
    return "" if line.startswith("#") else line.partition(":")[0].lower()
