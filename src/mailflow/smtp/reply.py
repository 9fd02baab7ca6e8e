"""SMTP replies as values: what our server says, and what a remote server said.

Pure; RFC 5321 §4.2 (form of replies), RFC 3463 and RFC 2034 (enhanced status codes).
"""

from __future__ import annotations

from typing import NamedTuple


class Reply(NamedTuple):
    """One reply: the three-digit code, the enhanced status code ("" where there is none), and its lines of text."""

    code: int
    status: str
    lines: tuple[str, ...]

    def encode(self) -> bytes:
        """The bytes on the wire, with CRLF. A reply of several lines repeats code and status on each (RFC 2034 §4)."""
        status = f"{self.status} " if self.status else ""
        last = len(self.lines) - 1
        return "".join(
            f"{self.code}{' ' if i == last else '-'}{status}{line}\r\n" for i, line in enumerate(self.lines)
        ).encode("utf-8", "surrogateescape")

    @property
    def text(self) -> str:
        """All of it on one line, as a log or a report shows it: "550 5.1.1 No such user"."""
        code, status, lines = self
        if status and len(lines) == 1 and lines[0]:  # by far the most
            return f"{code} {status} {lines[0]}"
        return " ".join(filter(None, (str(code), status, " ".join(lines))))


def reply(code: int, status: str, *lines: str) -> Reply:
    """Short form for a reply of our own."""
    return Reply(code, status, lines)
