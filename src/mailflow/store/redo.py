"""The redo log: what is durable already and not in the tables yet, written one after the other.

A commit of the database writes every page that it touches, whole, however little changed in them; a record of the redo
log is the rows and contents themselves, with one write and one sync. Most mail leaves within moments, and never has
to enter the tables at all. What stays is put into them a little later, many at a time (`fold.py`).

The database names the generation that counts (`meta.redo`), so that the transaction that puts mail into the tables is the same that makes its records void. Two
files take turns, `redo-0` and `redo-1`; one has several generations, one behind the other. Those that are over stay there until the file is used again:
should the database lose its last commits, as it does where a byte of its own log changes, they are told, and found here.

A record begins at a multiple of BLOCK_BYTES: head, rows as JSON, contents. The head has a token that only the database has beside it (`meta.redo_token`). The head has a checksum, the rows have one, and each content
has its own, bound to its message's id. The last record may be torn by a crash: it was never acknowledged, and counts for nothing. A damaged one
with others behind it was, and is told; of one whose contents alone are damaged the rows are as they were, so that the message is
found damaged where its content is read.

This module has the format, and reads; `redo_file.py` writes. What goes into the log is decided in `fresh.py`.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from mailflow.store import checksums

Entry: TypeAlias = tuple[tuple[Any, ...], bytes]
"""A message with one recipient: `rows.EnteringRows.values`, and its content."""
Gone: TypeAlias = tuple[int, int]
"""Message id and number of its last recipient."""

FILES = 2
BLOCK_BYTES = 4096
"""So that no write touches a sector in which something acknowledged stands."""
MOST_UNREADABLE = 64
"""Blocks: where there are more it is the disk that is broken, and each of them may take it seconds."""
_HEAD = struct.Struct("<8sqQIIII")
_CRC = struct.Struct("<I")
_MAGIC = b"mflwredo"
HEAD_BYTES = _HEAD.size + _CRC.size
"""Before the rows of a record."""


class Record(NamedTuple):
    """What is committed together."""

    entries: list[Entry]
    """Messages that enter."""
    gone: list[Gone]
    """Messages that leave, of this log or of the tables."""
    carried: bool = False
    """From the generation before: all of it was there too."""


def make_head(token: int, generation: int, number: int, rows: bytes, size: int) -> bytes:
    """The head of a record, with these rows and `size` bytes of contents behind it."""
    packed = _HEAD.pack(_MAGIC, token, generation, number, len(rows), size, zlib.crc32(rows))
    return packed + _CRC.pack(zlib.crc32(packed))


def blocks(size: int) -> int:
    """Bytes that a record of this size takes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def path(spool: Path, file: int) -> Path:
    """One of the files."""
    return spool / f"redo-{file}"


class _Head(NamedTuple):
    token: int
    generation: int
    number: int
    text: int
    contents: int
    crc: int

    @property
    def size(self) -> int:
        """Bytes that the record takes."""
        return blocks(HEAD_BYTES + self.text + self.contents)


def _head(data: bytes, at: int) -> _Head | None:
    """The head of a record that begins there."""
    if data[at : at + len(_MAGIC)] != _MAGIC or at + HEAD_BYTES > len(data):
        return None
    crc = _CRC.unpack_from(data, at + _HEAD.size)[0]
    if crc != zlib.crc32(data[at : at + _HEAD.size]):
        return None
    return _Head(*_HEAD.unpack_from(data, at)[1:])


def _record(data: bytes, at: int, head: _Head) -> tuple[Record | None, bool]:
    """The record, if its rows are as they were written, and whether its contents are."""
    at += HEAD_BYTES
    text = data[at : at + head.text]
    if zlib.crc32(text) != head.crc:
        return None, False
    found, gone, carried = json.loads(text)
    at += head.text
    entries, whole = [], True
    for *values, size in found:
        content = data[at : at + size]
        at += size
        entries.append((tuple(values), content))
        whole = whole and checksums.content(values[0], content) == values[-1]
    return Record(entries, [(key, number) for key, number in gone], carried), whole


class _Part(NamedTuple):
    file: int
    number: int
    record: Record | None
    whole: bool


class Log(NamedTuple):
    """What the files say."""

    records: list[Record]
    """Those that count, in order."""
    trouble: list[str]
    """What is damaged or cannot be read, in words."""
    damaged: bool
    """Whether something of that did count."""
    used: bool
    """Whether there is anything of the generation that was asked for, or behind it, be it damaged."""
    next: int
    """The generation that begins next,"""
    file: int
    """in this file,"""
    at: int
    """here: nothing that counts is written over."""


def read(spool: Path, token: int, generation: int | None) -> Log:
    """What counts where the database is at this generation, or at the last one where it does not say. Raises OSError.

    Later ones count too, which only a database can lack that has lost its last commits. With one exception: what is
    carried over is written before the commit that makes it count.
    """
    files = [contents(spool, file) for file in range(FILES)]
    heads = [(head, at, file) for file, (data, _) in enumerate(files) for at, head in _heads(data, token)]
    last = max((head.generation for head, _, _ in heads), default=-1)
    if generation is None:
        generation = max(last, 0)
    found: dict[int, list[_Part]] = {}
    for head, at, file in heads:
        if head.generation >= generation:
            part = _Part(file, head.number, *_record(files[file][0], at, head))
            found.setdefault(head.generation, []).append(part)
    trouble = list(chain.from_iterable([_damage(spool, parts) for parts in found.values()]))
    later = chain.from_iterable(parts for number, parts in found.items() if number > generation)
    lost = last > generation + 1 or any(part.record is None or not part.record.carried for part in later)
    if lost:
        trouble.append(f"the database has lost commits: the redo log is at {last}, and it is at {generation}")
    damaged = bool(trouble)
    if found:  # or else nobody misses them
        trouble += [f"{path(spool, n)}: {bad} blocks cannot be read" for n, (_, bad) in enumerate(files) if bad]
    ordered = chain.from_iterable(found[number] for number in sorted(found))
    records = [part.record for part in ordered if part.record is not None]
    return Log(records, trouble, damaged, bool(found), *_place(heads, generation, lost=lost))


def _place(heads: list[tuple[_Head, int, int]], generation: int, *, lost: bool) -> tuple[int, int, int]:
    """`Log.next`, `file` and `at`. What was only carried over, for a commit that was never made, is written over by the next attempt."""
    last = max((head.generation for head, _, _ in heads), default=-1)
    if last < 0:
        return generation, 0, 0
    its = [(at, at + head.size, file) for head, at, file in heads if head.generation == last]
    if last > generation and not lost:
        at, _, file = min(its)
        return last, file, at
    _, end, file = max(its, key=itemgetter(1))
    return max(last + 1, generation), file, end


def _damage(spool: Path, parts: list[_Part]) -> list[str]:
    """What is damaged in a generation, if anything is; a torn last record is taken out, as it was never acknowledged."""
    if not parts[-1].whole:
        parts.pop()
    damaged = {part.number for part in parts if not part.whole}
    if parts:
        damaged |= set(range(parts[-1].number)) - {part.number for part in parts}
    if not damaged:
        return []
    name = path(spool, parts[0].file)
    return [f"{name}: commits {', '.join(map(str, sorted(damaged)))} of {parts[-1].number + 1} are damaged"]


def contents(spool: Path, file: int) -> tuple[bytes, int]:
    """What a file says, b"" where there is none, and how many of its blocks the disk does not give back: they read as zeros.

    Raises OSError, for more than MOST_UNREADABLE of them too.
    """
    try:
        fd = os.open(path(spool, file), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b"", 0
    try:
        size = os.fstat(fd).st_size
        with suppress(OSError):
            data = os.pread(fd, size, 0)
            if len(data) == size:
                return data, 0
        return _blocks(fd, size)
    except OSError as error:
        error.filename = str(path(spool, file))
        raise
    finally:
        os.close(fd)


def _blocks(fd: int, size: int) -> tuple[bytes, int]:
    read, unreadable = [], 0
    for at in range(0, size, BLOCK_BYTES):
        try:
            read.append(os.pread(fd, BLOCK_BYTES, at).ljust(BLOCK_BYTES, b"\0"))
        except OSError as error:
            unreadable += 1
            if error.errno != errno.EIO or unreadable > MOST_UNREADABLE:
                raise
            read.append(bytes(BLOCK_BYTES))
    return b"".join(read), unreadable


def _heads(data: bytes, token: int) -> Iterator[tuple[int, _Head]]:
    """The records whose heads can be found, of whatever generation, and where they are. Behind the last one stands what was
    left of older ones, mail as strangers wrote it, that may look like a record: but none of them knows the token."""
    at = 0
    while at < len(data):
        head = _head(data, at)
        if head is not None and head.token != token:
            head = None
        if head is not None:
            yield at, head
        at += BLOCK_BYTES if head is None else head.size


def begun(spool: Path, token: int, generation: int) -> bool:
    """Whether this generation has a record, or a later one. Raises OSError."""
    return read(spool, token, generation).used


def token_of(spool: Path) -> int | None:
    """The token, where the database does not have it: at the beginning of a file is nothing but a record."""
    heads = [head for file in range(FILES) if (head := _first(spool, file)) is not None]
    return max(heads, key=attrgetter("generation")).token if heads else None


def _first(spool: Path, file: int) -> _Head | None:
    try:
        with path(spool, file).open("rb") as stream:
            return _head(stream.read(HEAD_BYTES), 0)
    except OSError:
        return None
