"""How much new mail the disk has room for, so that the reserve is kept. Pure; used on the event loop.

Free space is looked up by the writer's thread, with a batch, and is old at once. In between, whatever is on its way to
the disk is counted: `promise` before it is written, `looked` when a new figure comes. When the count says that the
reserve would be touched, the writer looks again before the next commit and refuses exactly what does not fit
(`Committer`); so the count may be generous, and is: it costs a look, not a message.

A message needs its size twice, in the write-ahead log and in the database, and some pages for its rows. What is not
done here: looking (`Store.free_bytes`), and refusing.
"""

from __future__ import annotations

from mailflow.envelope import Message
from mailflow.store.extents import GROW_PAGES, PAGE_BYTES, pages_for

ROW_BYTES = 2048
"""For a message's row and each recipient's, with their part of the pages of tables and index."""
BATCH_BYTES = 64 * 1024
"""Each commit writes the pages that it touches to the log, whole, however little changed in them."""
GROW_BYTES = GROW_PAGES * PAGE_BYTES
"""A segment file may be given so much more than what is needed at once."""
SEGMENT_BATCH = 32
"""Contents go to a segment when a batch has this many thresholds of them (256 KiB): less is not worth the segment's own
sync. Measured in docs/queue.md."""
COPIES = 2
"""The log's, and the database's once the log is copied."""


def weight(message: Message) -> int:
    """Bytes that a message is worth on its way to the database; a content file is on the disk already."""
    rows = ROW_BYTES * (1 + len(message.recipients))
    return message.size + rows if type(message.content) is bytes else rows


def need(message: Message, segment_threshold: int) -> int:
    """Bytes of the disk that a message will take at most; what goes to a segment for certain is written once."""
    rows = COPIES * ROW_BYTES * (1 + len(message.recipients))
    content = message.content
    if type(content) is not bytes:
        return rows
    if len(content) >= SEGMENT_BATCH * segment_threshold:
        return rows + pages_for(len(content)) * PAGE_BYTES
    return rows + COPIES * len(content)


class Room:
    """Free space when last looked at, and what was promised since. All in bytes."""

    __slots__ = ("left", "most", "promised", "reserve")

    def __init__(self, free: int, reserve: int) -> None:
        self.reserve = reserve
        self.promised = 0
        """Bytes on their way to the disk since the last look."""
        self.most = free - reserve
        """Bytes for new mail, when last looked at."""
        self.left = self.most
        """The same, less what was promised."""

    def __repr__(self) -> str:
        return f"<Room left={self.left} promised={self.promised} reserve={self.reserve}>"

    def promise(self, size: int) -> bool:
        """Counts what will be written; False when it may touch the reserve, so that somebody should look."""
        self.promised += size
        self.left -= size
        return self.left >= 0

    def looked(self, free: int, *, before: int) -> None:
        """A new figure, in which the first `before` bytes of all that was promised are on the disk or were refused."""
        self.promised -= before
        self.most = free - self.reserve
        self.left = self.most - self.promised
