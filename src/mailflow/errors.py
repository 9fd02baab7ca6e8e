"""The error classes of mailflow: few, and each says whose fault it is.

Every class carries what its reader needs: the operator (`ConfigError`: file, line, key,
accepted form), the SMTP client (`QueueError.reply`: what it is told), the embedding
program (`SendError`). Foreign exceptions (sqlite3, OSError, pycares) are mapped to these
at the border where they arise and never travel further. The text of an exception never
reaches a network peer: only `reply` does, which holds fixed words of ours.
"""

from __future__ import annotations


class MailflowError(Exception):
    """Base of every error that mailflow raises on purpose."""


class ConfigError(MailflowError):
    """The configuration cannot be used; nothing has been started.

    `problems` has one entry for each mistake found, so that the operator mends all of them in one go.
    """

    def __init__(self, problems: list[ConfigProblem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))


class ConfigProblem:
    """One mistake in the configuration: where it stands and what would be accepted."""

    __slots__ = ("accepted", "file", "key", "line", "message")

    def __init__(self, message: str, *, file: str = "", line: int = 0, key: str = "", accepted: str = "") -> None:
        self.message, self.file, self.line, self.key, self.accepted = message, file, line, key, accepted

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        key = f"{self.key}: " if self.key else ""
        accepted = f" (accepted: {self.accepted})" if self.accepted else ""
        return f"{where}{key}{self.message}{accepted}"


class QueueError(MailflowError):
    """The queue could not do what was asked. Nothing that it said is safe has been lost."""

    reply = (451, "4.3.0", "Local error in the queue, try again later")


class QueueFull(QueueError):
    """The disk under the spool has no room (ENOSPC, EDQUOT, or the reserve is reached)."""

    reply = (452, "4.3.1", "Insufficient system storage")


class QueueLocked(QueueError):
    """Another server holds the spool."""


class QueueDamaged(QueueError):
    """What was read back is not what was written: the checksum does not match its id."""


class SendError(MailflowError):
    """A message given to the Python API was refused; `reply` is what an SMTP client would have heard."""

    def __init__(self, code: int, status: str, text: str) -> None:
        self.reply = (code, status, text)
        super().__init__(f"{code} {status} {text}")
