"""A message's bytes as they go over the wire after DATA: leading dots doubled, CRLF.CRLF at the end (RFC 5321 §4.5.2).

`wire_form` is for a content at hand: it is copied only when there are dots to double, which is rare. `DotStuffer`
is for one that comes in pieces. Contents have CRLF line ends; line ends are not mended here.
"""

from __future__ import annotations

_DOT = ord(".")
OWN_BUFFER = 65536
"""Bytes from which a content is handed out as a buffer of its own, so that it is never copied into another."""


def wire_form(content: bytes) -> list[bytes]:
    """The buffers to send for a whole content, the end of the message included."""
    content = content.replace(b"\r\n.", b"\r\n..")  # the same object when there is nothing to double
    if content[-2:] == b"\r\n" and content[0] != _DOT:  # by far the most
        return [content, b".\r\n"]
    end = b".\r\n" if content.endswith(b"\r\n") or not content else b"\r\n.\r\n"
    if content.startswith(b"."):
        return [b".", content, end]
    return [content, end] if content else [end]


class DotStuffer:
    """The same for a content in pieces; remembers whether a line begins where the pieces meet."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def feed(self, piece: bytes) -> list[bytes]:
        """The buffers to send for the next piece."""
        if not piece:
            return []
        tail = self._tail
        self._tail = (tail + piece[-2:])[-2:]
        extra = b""
        if tail == b"\r\n" and piece.startswith(b"."):
            extra = b"."
        elif tail.endswith(b"\r") and piece.startswith(b"\n."):
            # the line end itself is torn apart: the dot behind it is not at the piece's start
            piece = b"\n." + piece[1:]
        if b"\r\n." in piece:
            piece = piece.replace(b"\r\n.", b"\r\n..")
        return [extra, piece] if extra else [piece]

    def end(self) -> bytes:
        """The end of the message."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"


def joined(buffers: list[bytes]) -> list[bytes]:
    """Neighbouring small buffers in one, large ones left as they are."""
    result: list[bytes] = []
    small: list[bytes] = []
    for buffer in buffers:
        if len(buffer) < OWN_BUFFER:
            small.append(buffer)
            continue
        if small:
            result.append(b"".join(small))
            small = []
        result.append(buffer)
    if small:
        result.append(b"".join(small))
    return result
