"""Recipients whose outcome the database cannot take, because the page that would be written is damaged (wish 82).

They are delivered, or have failed and their sender was told, and only their rows are still in the queue. So that nobody delivers to them again,
neither this server nor one that is started after it, they are noted in the file `aside` in the spool, a line each with a
checksum of its own, and are left alone until the database lets them go: a server tries when it starts, and so do the operator's
commands on a spool without a server; after `mailflow queue check --repair` it succeeds.

For whoever writes the database. What this module does not do: decide what is set aside (`commit.py`).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mailflow.errors import QueueFull
from mailflow.ids import format_id, parse_id
from mailflow.store.content import sync_folder
from mailflow.store.failure import StoreDamaged, failure
from mailflow.store.values import QueuedMessage

if TYPE_CHECKING:
    from mailflow.store.sqlite import Store

Key: TypeAlias = tuple[int, int]
"""Message id and recipient number."""
REASON = "done with, but the damaged queue does not let it go (mailflow queue check --repair)"
"""What a listing says of a recipient that is set aside."""


class Aside:
    """The file, and what is in it."""

    def __init__(self, spool: Path) -> None:
        self.path = spool / "aside"
        self.keys: set[Key] = set()

    @classmethod
    def open(cls, store: Store) -> Aside:
        """What an earlier server noted, less what the database lets go now, and who is only in its redo log. Raises QueueError."""
        aside = cls(store.spool)
        try:
            noted = read(store.spool)
        except OSError as error:
            raise failure(error, str(aside.path)) from error
        aside.keys = _let_go(store, sorted(noted)) if noted else set()
        if len(aside.keys) < len(noted):
            with suppress(OSError):  # lines of recipients who have left do no harm
                aside._write_anew()
        if kept := store.fresh.kept():
            keys = [(key, number) for key, (number, _) in kept.items()]
            try:
                aside.add(keys)
                store.fresh.forget(kept)
            except QueueFull:
                return aside  # the log keeps them, and the next attempt may succeed
        return aside

    def add(self, keys: Iterable[Key]) -> None:
        """Notes recipients, durably when it returns. Raises QueueFull, QueueError."""
        new = [key for key in keys if key not in self.keys]
        if not new:
            return
        try:
            _write(self.path, new, os.O_APPEND)
            sync_folder(self.path.parent)
        except OSError as error:
            raise failure(error, str(self.path)) from error
        self.keys.update(new)

    def _write_anew(self) -> None:
        """Only those who are left, or no file."""
        if self.keys:
            work = self.path.with_name("aside.new")
            _write(work, sorted(self.keys), os.O_TRUNC)
            work.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)


def _let_go(store: Store, keys: list[Key]) -> set[Key]:
    """Takes recipients out of the queue: all at once, or one message after the other; those that stay."""
    stays = {key for key in keys if key[0] in store.fresh.entries}  # not in the tables, for they do not take it
    keys = [key for key in keys if key not in stays]
    messages = [(key, [number for _, number in its]) for key, its in groupby(keys, key=itemgetter(0))]
    if _gone(store, messages):
        return stays
    return stays | {(key, n) for key, numbers in messages if not _gone(store, [(key, numbers)]) for n in numbers}


def _gone(store: Store, messages: list[tuple[int, list[int]]]) -> bool:
    try:
        ended = store.transaction(lambda: [key for key, its in messages if store.remove_recipients(key, its)])
    except (StoreDamaged, QueueFull):
        return False
    for key in ended:
        store.delete_file(key)
    return True


def read(spool: Path) -> set[Key]:
    """What is noted below `spool`; a line that was only half written counts for nothing. Raises OSError."""
    try:
        lines = (spool / "aside").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return set()
    return {key for line in lines if (key := _key(line)) is not None}


def marked(spool: Path, found: Iterator[QueuedMessage]) -> Iterator[QueuedMessage]:
    """What a listing of the queue below `spool` found, with the recipients that are set aside in this state. Raises QueueError."""
    try:
        noted = read(spool)
    except OSError as error:
        raise failure(error, str(spool / "aside")) from error
    return (_marked(message, noted) for message in found) if noted else found


def _marked(message: QueuedMessage, noted: set[Key]) -> QueuedMessage:
    recipients = (
        r._replace(state="aside", reason=REASON) if (message.id, r.number) in noted else r for r in message.recipients
    )
    return message._replace(recipients=tuple(recipients))


def _write(path: Path, keys: Iterable[Key], how: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | how, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(b"\n" + b"".join(map(_line, keys)))  # behind what a crash may have left unfinished
        file.flush()
        os.fsync(fd)


def _line(key: Key) -> bytes:
    text = f"{format_id(key[0])} {key[1]}".encode()
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _key(line: bytes) -> Key | None:
    words = line.split()
    try:
        key = parse_id(words[0].decode()), int(words[1])
    except (IndexError, ValueError):
        return None
    return key if line == _line(key) else None
