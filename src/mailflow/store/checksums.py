"""The checksums of what is stored: by them a damaged content or envelope is told from a whole one (wish 82). Pure.

Both begin with the message's id, so that another message's bytes do not match. An envelope's checksum stands in each
recipient's row and covers all that does not change while the recipient waits: the message's own columns, and where
to and for whom. What changes with each attempt (due, attempts, reason) and the counter `remaining` are not in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any


def content(id: int, data: bytes | memoryview, start: int | None = None) -> int:
    """CRC-32 of a content.

    `start` is the value so far when the content comes in pieces.
    """
    return zlib.crc32(data, zlib.crc32(id.to_bytes(8, "big")) if start is None else start)


def envelope(id: int, arrived: float, size: int, sender: str, peer: str, options: str) -> int:
    """CRC-32 of a message's columns, with which those of its recipients begin. Peer and options as their texts.

    Raises ValueError, OverflowError, TypeError for an `arrived` that is no number any more.
    """
    text = f"{id}\0{int(arrived * 1e6)}\0{size}\0{sender}\0{peer}\0{options}"
    return zlib.crc32(text.encode())


def recipient(start: int, number: int, destination: str, address: str, original: str, orcpt: str, notify: str) -> int:
    """CRC-32 of a recipient, on top of its message's `envelope`."""
    return zlib.crc32(f"{number}\0{destination}\0{address}\0{original}\0{orcpt}\0{notify}".encode(), start)


def matches(message: Sequence[Any], its: Iterable[Sequence[Any]]) -> bool:
    """Whether recipients' rows (RECIPIENT_ROW) and their message's (MESSAGE_COLUMNS) are as they were written, and what is
    not in the checksum is at least of its kind."""
    key, arrived, size, _, sender, peer, options = message
    try:
        start = envelope(key, arrived, size, sender, peer, options)
    except (ValueError, OverflowError, TypeError):
        return False
    for _, number, due, attempts, destination, address, original, orcpt, notify, reason, crc in its:
        if crc != recipient(start, number, destination, address, original, orcpt, notify):
            return False
        if (type(due), type(attempts), type(reason)) != (float, int, str) or due < 0:
            return False
    return True
