"""Logins in a text file: "login:{SCHEME}hash" a line, "#" begins a remark. Written by `mailflow user`.

The file is read whole into memory, and again when its time, size or inode has changed; this is looked for at most once a
second, off the loop. A file that has become unreadable or wrong is logged, and the old content stays in force. What stands behind a further
":" is left alone, so that Dovecot's passwd-files can be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.ingress.auth import hashes
from mailflow.ingress.auth.backend import SCRAM_ITERATIONS, Attempt, Base, Pool, Unavailable
from mailflow.ingress.ports import Events
from mailflow.smtp.scram import Keys

FILE_OCTETS = 64 * 2**20
"""Largest password file: half a million logins."""
LOOK_SECONDS = 1.0
"""How often it is looked whether the file has changed."""

T = TypeVar("T")
_Stamp = tuple[int, int, int]


class Entry(NamedTuple):
    """One line."""

    login: str
    stored: str


class PasswordFileError(ValueError):
    """The file is wrong; `line` is 0 when it is wrong as a whole."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        self.path, self.line, self.message = path, line, message
        super().__init__(f"{path}:{line}: {message}" if line else f"{path}: {message}")

    @property
    def problem(self) -> ConfigProblem:
        """The same for the operator."""
        return ConfigProblem(self.message, file=str(self.path), line=self.line, key="auth.file")


def parse(text: str, path: Path) -> dict[str, Entry]:
    """The entries by login in lower case. Raises PasswordFileError; its text never holds a line of the file."""
    entries: dict[str, Entry] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        login, stored, *_ = [*line.split(":"), ""]
        try:
            hashes.check_form(stored)
        except ValueError as error:
            raise PasswordFileError(path, number, str(error)) from None
        if not login or login.lower() in entries:
            raise PasswordFileError(path, number, "no login" if not login else "this login stands there twice")
        entries[login.lower()] = Entry(login, stored)
    return entries


def read(path: Path) -> dict[str, Entry]:
    """The entries of a file. Raises PasswordFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_OCTETS + 1)
        if len(data) > FILE_OCTETS:
            raise PasswordFileError(path, 0, f"larger than {FILE_OCTETS} bytes")
        return parse(data.decode(), path)
    except OSError as error:
        raise PasswordFileError(path, 0, error.strerror or str(error)) from error
    except UnicodeDecodeError:
        raise PasswordFileError(path, 0, "not UTF-8") from None


def is_exposed(path: Path) -> bool:
    """Whether others on the machine may read or write it. Raises OSError."""
    return bool(path.stat().st_mode & 0o006)


class PasswordFile(Base):
    """The back end."""

    has_keys = True

    def __init__(self, path: Path, pool: Pool, secret: bytes, log: Events, clock: Callable[[], float]) -> None:
        """`secret` chooses whose hash an unknown user's password is compared with."""
        self._path = path
        self._pool = pool
        self._secret = secret
        self._log = log
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._decoys: list[str] = []
        self._iterations: list[int] = []
        self._stamp: _Stamp | None = None
        self._looked = float("-inf")
        self._trouble = ""
        """What was wrong with the file when it was last looked at; said once."""

    def __repr__(self) -> str:
        return f"<PasswordFile {self._path} logins={len(self._entries)}>"

    async def start(self) -> None:
        """Reads the file. Raises ConfigError."""
        try:
            await self._pool.run(self._read)
        except PasswordFileError as error:
            raise ConfigError([error.problem]) from error
        if is_exposed(self._path):
            self._log.event("warning", level=30, reason=f"password file {self._path} may be read by everybody")

    async def refresh(self) -> None:
        """Reads the file again when it has changed."""
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        trouble = ""
        try:
            await self._pool.run(self._read)
        except (PasswordFileError, Unavailable) as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:
            self._log.event("warning", level=30, reason=f"password file not read again, the old one stays: {trouble}")
        self._trouble = trouble

    async def verify(self, attempt: Attempt) -> str | None:
        """Compares with the stored password; an unknown user's with somebody else's, in vain."""
        entry = self._entries.get(attempt.login.lower())
        stored = entry.stored if entry else self._decoy(attempt.login)
        right = await self._pool.run(partial(_verify, stored, attempt.password))
        return entry.login if entry and right else None

    async def keys(self, login: str) -> tuple[str, Keys] | None:
        """The keys of a {SCRAM-SHA-256} entry."""
        entry = self._entries.get(login.lower())
        keys = hashes.keys_in(entry.stored) if entry else None
        return (entry.login, keys) if entry and keys else None

    def iterations(self, login: str) -> int:
        """As many as somebody's keys have."""
        return self._pick(self._iterations, login, SCRAM_ITERATIONS)

    def _decoy(self, login: str) -> str:
        """Somebody's stored password: so unknown users take as long as known ones, in all schemes."""
        return self._pick(self._decoys, login, "")

    def _pick(self, among: Sequence[T], login: str, otherwise: T) -> T:
        """One of these, the same for a login each time, and not to be foretold."""
        if not among:
            return otherwise
        chosen = hashlib.blake2b(login.lower().encode(), digest_size=8, key=self._secret).digest()
        return among[int.from_bytes(chosen) % len(among)]

    def _read(self) -> None:
        """In a thread: reads the file if it is another one than before."""
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            entries = read(self._path)
            # Assigned last, and each in one step: the loop sees the old ones or the new ones.
            self._decoys = [entry.stored for entry in entries.values()]
            self._iterations = [keys.iterations for stored in self._decoys if (keys := hashes.keys_in(stored))]
            self._entries = entries
            self._stamp = stamp
            self.generation += 1


def _verify(stored: str, password: str) -> bool:
    try:
        return hashes.verify(stored or hashes.decoy(), password)
    except ValueError as error:
        raise Unavailable(f"a stored password cannot be verified here: {error}") from None


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise PasswordFileError(path, 0, error.strerror or str(error)) from error
    return found.st_mtime_ns, found.st_size, found.st_ino
