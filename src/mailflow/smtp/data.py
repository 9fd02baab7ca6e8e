r"""A message's bytes as they come: finds the end of DATA and undoes dot-stuffing; checks line ends, line lengths and the size.

`WholeMessages` is tried with the first bytes; when it does not take them, a `DataScanner` is fed with them and with
whatever the network gives then, in pieces of any size. `feed` gives back a piece of the message, and where the message
ended. `ChunkScanner` is for what comes with BDAT, where the end is known otherwise and dots mean nothing; it gives the
same message and the same refusals, as all of it will leave again by DATA one day. `BinaryScanner` lets any byte pass. Every piece is taken as a whole: one search for CR LF dot, one pass over the line ends, and jumps of a line
limit's width; nothing is done line by line.

Invariants: only CR LF . CR LF ends the message (RFC 5321 §4.1.1.4), whatever else is in it. The same pieces joined
give the same message for every split of the input. At most four bytes are kept between two calls. When something
is wrong, `trouble` holds the reply for the final dot, nothing more is given out, and the rest is swallowed.

Decisions: a CR or LF that stands alone is refused (RFC 5321 §2.3.8: "MUST NOT"), or made a CR LF when `normalise` is
set; either way it ends nothing, so that no second message can be smuggled in. NUL passes: RFC 5321 §4.5.2 delivers
every character, and RFC 5322 §4 has receivers accept it. 8-bit bytes pass, announced or not, as everyone does.
"""

from __future__ import annotations

import io
import re

from mailflow.smtp.reply import Reply

TOO_BIG = Reply(552, "5.3.4", ("Message size exceeds the fixed limit",))
BARE_NEWLINE = Reply(554, "5.6.0", ("Message refused: CR or LF that stands alone (RFC 5321 section 2.3.8)",))
LONG_LINE = Reply(554, "5.6.0", ("Message refused: line too long",))

_GRAVEST_FIRST = (TOO_BIG, BARE_NEWLINE, LONG_LINE)

_GOOD_NEWLINES = ("\r\n", None)
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_DOT = ord(".")


class WholeMessages:
    """The short way for messages that come in one piece, as nearly all small ones do. Keeps nothing between two calls."""

    __slots__ = ("_limit", "_newlines")

    def __init__(self, size_limit: int, line_limit: int) -> None:
        """Limits in bytes, as for `DataScanner`."""
        self._limit = min(size_limit, line_limit)
        self._newlines = io.IncrementalNewlineDecoder(None, translate=False)

    def __repr__(self) -> str:
        return f"<WholeMessages up to {self._limit}>"

    def take(self, data: bytes) -> bytes | None:
        """The message, when `data` is all of it and there is nothing to undo, to mend or to refuse; or else None.

        `data` is the first that came after 354; after None it must go to a scanner.
        """
        size = len(data) - 3
        if size > self._limit or not data.endswith(b"\r\n.\r\n") or data.find(b"\r\n.") + 2 != size or data[0] == _DOT:
            return None
        message = data[:size]
        return None if _has_bare(message, self._newlines) else message


class _Scanner:
    """What scanners of text share: what is checked, and what is remembered of a line that is torn apart."""

    __slots__ = (
        "_column",
        "_newlines",
        "_tail",
        "line_limit",
        "normalise",
        "size",
        "size_limit",
        "trouble",
    )

    def __init__(self, size_limit: int, line_limit: int, *, normalise: bool = False) -> None:
        """Limits in bytes, the line's without its CR LF."""
        self.size_limit = size_limit
        self.line_limit = line_limit
        self.normalise = normalise
        self._newlines = io.IncrementalNewlineDecoder(None, translate=False)
        self.size = 0
        """Bytes of the message seen so far."""
        self.trouble: Reply | None = None
        """The reply that the message will get instead of being accepted."""
        self._tail = b""
        self._column = 0
        """Bytes given out since the last line end."""

    def __repr__(self) -> str:
        trouble = self.trouble and self.trouble.text
        return f"<{type(self).__name__} size={self.size} tail={self._tail!r} trouble={trouble!r}>"

    def _mend(self, piece: bytes) -> bytes:
        """The piece with a CR or LF that stands alone made a CR LF, or as it is, and refused."""
        if self.normalise:
            return _BARE.sub(b"\r\n", piece)
        self._refuse(BARE_NEWLINE)
        return piece

    def _measure(self, piece: bytes) -> bytes:
        """Checks size and line lengths of what is about to be given out."""
        self.size += len(piece)
        if self.size > self.size_limit:
            self._refuse(TOO_BIG)
        if self._column + len(piece) > self.line_limit and not self._lines_fit(piece):
            self._refuse(LONG_LINE)
        newline = piece.rfind(b"\n")
        self._column = len(piece) - newline - 1 if newline >= 0 else self._column + len(piece)
        return b"" if self.trouble else piece

    def _refuse(self, reply: Reply) -> None:
        # The gravest wins, not the first found: which one is found first depends on how the bytes were split.
        if self.trouble is None or _GRAVEST_FIRST.index(reply) < _GRAVEST_FIRST.index(self.trouble):
            self.trouble = reply

    def _lines_fit(self, piece: bytes) -> bool:
        """Whether no line is too long; from each line end it jumps a limit's width ahead and looks back for the next."""
        width = self.line_limit + 2
        start = -self._column
        while len(piece) - start >= width:
            newline = piece.rfind(b"\n", max(start, 0), start + width)
            if newline < 0:
                return False
            start = newline + 1
        return True


class DataScanner(_Scanner):
    """Scans one message that comes with DATA."""

    __slots__ = ("_fresh", "_skip")

    def __init__(self, size_limit: int, line_limit: int, *, normalise: bool = False) -> None:
        """Limits in bytes, the line's without its CR LF."""
        super().__init__(size_limit, line_limit, normalise=normalise)
        self._fresh = True
        self._skip = 0

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Takes the next bytes, not empty. Gives (piece of the message, index in `data` behind the final dot's CR LF, or -1)."""
        if self._fresh:
            # A first line that begins with a dot: the CR LF of the DATA command belongs to the search.
            self._fresh = False
            if data[0] == _DOT:
                self._tail, self._skip = b"\r\n", 2
        tail = self._tail
        if tail:
            data = tail + data
        dot = data.find(b"\r\n.")
        if dot >= 0:
            end = dot if data.startswith(b"\r\n", dot + 3) else data.find(b"\r\n.\r\n", dot + 3)
            if end >= 0:
                return self._accept(data[: end + 2], stuffed=dot != end), end + 5 - len(tail)
        keep = _unfinished(data) or (_unfinished_bare(data) if self.normalise else 0)
        if keep:
            self._tail = data[-keep:]
            data = data[:-keep]
        else:
            self._tail = b""
        return self._accept(data, stuffed=dot >= 0) if data else b"", -1

    def _accept(self, piece: bytes, *, stuffed: bool) -> bytes:
        """The piece as the message has it; b"" once there is trouble. All is checked to the end, trouble or not."""
        if _has_bare(piece, self._newlines):
            piece = self._mend(piece)
            stuffed = True
        if stuffed:
            piece = piece.replace(b"\r\n.", b"\r\n")  # RFC 5321 §4.5.2
        if self._skip:
            piece = piece[self._skip :]
            self._skip = 0
        return self._measure(piece)


class ChunkScanner(_Scanner):
    """Scans one message that comes with BDAT (RFC 3030)."""

    __slots__ = ("pieces",)

    def __init__(self, size_limit: int, line_limit: int, *, normalise: bool = False) -> None:
        """Limits in bytes, the line's without its CR LF."""
        super().__init__(size_limit, line_limit, normalise=normalise)
        self.pieces = 0
        """Chunks begun; kept by the caller."""

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes, not empty; gives a piece of the message."""
        data = self._tail + data
        if data.endswith(b"\r"):
            self._tail, data = b"\r", data[:-1]
        else:
            self._tail = b""
        return self._accept(data) if data else b""

    def end(self) -> bytes:
        """The message is complete; gives its last piece."""
        data, self._tail = self._tail, b""
        return self._accept(data) if data else b""

    def _accept(self, piece: bytes) -> bytes:
        return self._measure(self._mend(piece) if _has_bare(piece, self._newlines) else piece)


class BinaryScanner:
    """The same for BODY=BINARYMIME: only the size is checked (RFC 3030 §3)."""

    __slots__ = ("pieces", "size", "size_limit", "trouble")

    def __init__(self, size_limit: int) -> None:
        """The limit in bytes."""
        self.size_limit = size_limit
        self.size = 0
        self.pieces = 0
        """Chunks begun; kept by the caller."""
        self.trouble: Reply | None = None

    def __repr__(self) -> str:
        return f"<BinaryScanner size={self.size}>"

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes; gives them back, b"" once the message is too big."""
        self.size += len(data)
        if self.size > self.size_limit:
            self.trouble = TOO_BIG
        return b"" if self.trouble else data

    def end(self) -> bytes:
        """The message is complete."""
        return b""


def _has_bare(text: bytes, newlines: io.IncrementalNewlineDecoder) -> bool:
    """Whether a CR or LF stands alone in it.

    The decoder tells in one pass which kinds of line ends it has seen: three times as fast as counting them.
    """
    newlines.decode(text.decode("latin-1"), True)  # noqa: FBT003 - final, so that it keeps nothing
    if newlines.newlines in _GOOD_NEWLINES:
        return False
    newlines.reset()
    return True


def _unfinished(data: bytes) -> int:
    """How many bytes at the end may be the beginning of CR LF . CR LF, and must wait for what follows."""
    last = data[-1]
    if last == 0x0A:
        return 2 if data.endswith(b"\r\n") else 0
    if last == 0x0D:
        return 4 if data.endswith(b"\r\n.\r") else 1
    return 3 if last == _DOT and data.endswith(b"\r\n.") else 0


def _unfinished_bare(data: bytes) -> int:
    """The same where a bare CR or LF is to become a line end: a dot that follows it must be seen together with it."""
    if data[-1] == 0x0A:
        return 1
    return 2 if data.endswith((b"\n.", b"\r.")) else 0
