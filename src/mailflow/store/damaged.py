"""Quarantine: what is damaged is kept below `<spool>/damaged/`, for the operator to look at.

Of each message there are `<queue id>.json`, its envelope as far as it is known, and `<queue id>.eml`, its content as far as it can be
read. Both are synced, with the folder, before anything is changed in the queue. Nothing here is ever removed by us.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mailflow.envelope import HELD
from mailflow.ids import format_id
from mailflow.store.content import sync_folder
from mailflow.store.extents import PAGE_BYTES, SEGMENT_BYTES
from mailflow.store.rows import MESSAGE_COLUMNS, read_options, read_peer
from mailflow.store.segments import segment_path

COPY_BYTES = 2**20
KEPT = 100
"""Times that one message is kept beside what was kept of it before; then the last is written over."""
RECIPIENTS = 100_000
"""Recipients of one message that its JSON holds, at most; all of them stay in the queue."""


def folder(spool: Path) -> Path:
    """Where damaged mail is kept."""
    return spool / "damaged"


def is_kept(spool: Path, id: int) -> bool:
    """Whether anything of a message was kept before."""
    return (folder(spool) / f"{format_id(id)}.json").exists()


def keep(db: sqlite3.Connection, spool: Path, id: int, why: str) -> Path:
    """Keeps what there is of a message; durable when it returns. The JSON's path. Raises OSError, sqlite3.Error."""
    place = folder(spool)
    place.mkdir(mode=0o700, exist_ok=True)
    names = [format_id(id), *(f"{format_id(id)}.{n}" for n in range(1, KEPT))]
    path = next(p for name in names if not (p := place / f"{name}.json").exists() or name == names[-1])
    try:
        content = _content(db, spool, id)
    except (TypeError, ValueError):  # a row that makes no sense
        content = []
    _write(path.with_suffix(".eml"), content)
    _write(
        path,
        [
            json.dumps(envelope(db, id, why), indent=1, ensure_ascii=False, default=str).encode("utf-8", "replace")
            + b"\n"
        ],
    )
    sync_folder(place)
    return path


def envelope(db: sqlite3.Connection, id: int, why: str) -> dict[str, Any]:
    """What the queue knows of a message, ready for JSON."""
    result: dict[str, Any] = {"id": format_id(id), "damage": why}
    row = db.execute(f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id = ?", (id,)).fetchone()  # noqa: S608
    if row:
        _, arrived, size, remaining, sender, peer, options = row
        result |= {"sender": sender, "arrived": arrived, "size": size, "remaining": remaining}
        try:
            result |= {"client": str(read_peer(peer)), "options": repr(read_options(options))}
        except (ValueError, TypeError):
            result |= {"client": peer, "options": options}
    found = db.execute("SELECT * FROM recipient WHERE message_id = ? ORDER BY number LIMIT ?", (id, RECIPIENTS))
    names = [column[0] for column in found.description]
    result["recipients"] = [
        {name: None if value == HELD else value for name, value in zip(names, row, strict=True) if name != "message_id"}
        for row in found
    ]
    return result


def _content(db: sqlite3.Connection, spool: Path, id: int) -> Iterable[bytes]:
    """The bytes that stand in the message's place, right or wrong, in pieces."""
    row = db.execute("SELECT file, data FROM content WHERE id = ?", (id,)).fetchone()
    if row and row[0] is None:
        return [row[1] if isinstance(row[1], bytes) else str(row[1] or "").encode()]
    if row:
        size = db.execute("SELECT size FROM message WHERE id = ?", (id,)).fetchone()
        return _pieces(spool / "content" / f"{row[0]:08}", 0, size[0] if size else SEGMENT_BYTES)
    row = db.execute("SELECT segment, page, size FROM extent WHERE id = ?", (id,)).fetchone()
    return _pieces(segment_path(spool, row[0]), row[1] * PAGE_BYTES, min(row[2], SEGMENT_BYTES)) if row else []


def _pieces(path: Path, start: int, size: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            while size > 0 and (piece := stream.read(min(size, COPY_BYTES))):
                size -= len(piece)
                yield piece
    except (OSError, ValueError, TypeError, OverflowError):
        return  # what cannot be read is what is damaged


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as stream:
        for piece in pieces:
            stream.write(piece)
        stream.flush()
        os.fsync(fd)
