"""Replies of a remote server, out of the bytes as they come.

The client core calls `feed` with whatever arrived and gets the replies that are now complete, in order. What is
incomplete waits for more. What is no SMTP reply, or is larger than the bounds, raises `ReplyError`, and the
connection is of no further use: nothing behind the error is trusted.

Lenient where it is harmless (RFC 5321 §4.2): LF alone ends a line, text may be missing, and the code of a reply of
several lines is that of its last line. Text is made safe to log and to put in a report: control characters
become spaces, bytes that are not UTF-8 are shown escaped. What a reply means is not known here.
"""

from __future__ import annotations

from mailflow.smtp.reply import Reply

MAX_LINE = 2048
"""Bytes of one line, its end included; four times RFC 5321 §4.5.3.1.5."""
MAX_LINES = 128
"""Lines of one reply: the longest EHLO answers known have some 30."""
MAX_REMEMBERED = 32
"""Lines whose `Reply` is kept (and as many successes): the first ones, because hosts say the same few sentences to every message."""


class ReplyError(Exception):
    """What arrived is not an SMTP reply, or exceeds the bounds. `replies` are those before it in the same bytes."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        super().__init__("not an SMTP reply")


class ReplyParser:
    """Incremental parser of one connection's replies."""

    __slots__ = ("_buffer", "_lines", "_remembered", "_successes", "empty")

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[str] = []
        self._remembered: dict[bytes, Reply] = {}
        self._successes: dict[bytes, Reply] = {}
        self.empty = True
        """Whether nothing waits for more bytes."""

    def __repr__(self) -> str:
        return f"<ReplyParser buffered={len(self._buffer)} lines={len(self._lines)}>"

    def success(self, data: bytes) -> Reply | None:
        """The reply when the bytes are one whole line with 250; else None, and they are to be fed. Only when `empty`."""
        reply = self._successes.get(data)
        if reply is not None:
            return reply
        if data[:4] != b"250 " or data.find(b"\n") != len(data) - 1 or len(data) > MAX_LINE:
            return None
        reply = _reply(250, [_text(data[:-1])])
        if len(self._successes) < MAX_REMEMBERED:
            self._successes[data] = reply
        return reply

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that `data` completes. Raises `ReplyError`, which carries the replies before the error."""
        if self._buffer:
            data = self._buffer + data
        lines = data.split(b"\n")
        self._buffer = lines.pop()
        replies: list[Reply] = []
        try:
            self._take(lines, replies)
        except ReplyError as error:
            error.replies = replies
            raise
        self.empty = not self._buffer and not self._lines
        return replies

    def _take(self, lines: list[bytes], replies: list[Reply]) -> None:
        remembered = self._remembered
        for line in lines:
            reply = None if self._lines else remembered.get(line)
            if reply is None:
                reply = self._line(line)
            if reply is not None:
                replies.append(reply)
        if len(self._buffer) >= MAX_LINE:
            raise ReplyError

    def _line(self, line: bytes) -> Reply | None:
        """One line without its LF; the reply that it ends, or None."""
        if len(line) >= MAX_LINE or len(self._lines) >= MAX_LINES:
            raise ReplyError
        code, separator = line[:3], line[3:4]
        # RFC 5321 §4.2: Reply-code = %x32-35 %x30-35 %x30-39
        if not (code.isdigit() and b"200" <= code <= b"599" and len(code) == 3):
            raise ReplyError
        if separator == b"-":
            self._lines.append(_text(line))
            return None
        if separator not in _ENDS:
            raise ReplyError
        if self._lines:
            reply = _reply(int(code), [*self._lines, _text(line)])
            self._lines = []
            return reply
        reply = _reply(int(code), [_text(line)])
        if code < b"400" and len(self._remembered) < MAX_REMEMBERED:
            self._remembered[line] = reply
        return reply


_ENDS = (b" ", b"\r", b"")
"""What may follow the code of a reply's last line."""


def _text(line: bytes) -> str:
    """The text behind code and separator, safe to show."""
    text = line[4:].removesuffix(b"\r").decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return text


_COMMON = ("2.0.0", "2.1.0", "2.1.5", "2.6.0")
"""Status codes that need no second look behind 250."""


def _reply(code: int, lines: list[str]) -> Reply:
    """Takes the enhanced status code out of the lines (RFC 2034 §4: it stands on every line, with the code's class)."""
    status, space, rest = lines[0].partition(" ")
    if not (code == 250 and status in _COMMON) and not is_status(status, code):
        return Reply(code, "", tuple(lines))
    prefix = status + space
    texts = [line.removeprefix(prefix) for line in lines[1:]]
    return Reply(code, status, (rest, *texts))


def is_status(text: str, code: int) -> bool:
    """Whether the text is an enhanced status code that agrees with the reply code (RFC 3463 §2, RFC 2034 §4)."""
    if len(text) < 5 or text[1] != "." or text[0] not in "245" or int(text[0]) != code // 100:
        return False
    subject, dot, detail = text[2:].partition(".")
    return (
        bool(dot)
        and len(subject) <= 3
        and len(detail) <= 3
        and (subject + detail).isascii()
        and subject.isdigit()
        and detail.isdigit()
    )
