"""The agent of the transport "local": mailboxes on this machine.

Each mailbox is a destination of its own (wish 1), so one that is slow or full stops only itself. The writing is
done in a small pool of threads; the event loop hands over and takes back. A final delivery adds Return-Path:
(RFC 5321 §4.4), Delivered-To: and, where the address was rewritten, X-Original-To:.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mailflow.delivery.maildir import write_maildir
from mailflow.delivery.request import Delivery, Done, Fact, Stage, Trouble
from mailflow.envelope import Content, ContentFile, Message, Recipient
from mailflow.smtp.reply import reply

THREADS = 8
"""Mailboxes written at the same time; each waits for the disk twice."""
PIECE = 256 * 1024
"""Bytes of a content file that are in memory at a time."""

_STORED = reply(250, "2.0.0", "delivered to mailbox")
_FULL = {errno.ENOSPC, errno.EDQUOT}


class LocalAgent:
    """Delivers to Maildirs."""

    def __init__(self, maildir: str, hostname: str) -> None:
        """`maildir`: path with "{user}" in it."""
        self._maildir = maildir
        self._suffix = hostname.replace("/", r"\057").replace(":", r"\072")
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mailflow-mailbox")
        self._running: set[asyncio.Future[list[Fact]]] = set()

    def start(self, delivery: Delivery, done: Done) -> None:
        """See `Agent.start`."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._deliver, delivery)
        self._running.add(future)
        future.add_done_callback(lambda f: self._finished(f, delivery, done))

    async def close(self, grace: float) -> None:
        """See `Agent.close`. A write that hangs goes on in its thread; the delivery is repeated under the same name."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=grace)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for future in (left := set(self._running)):
            future.cancel()
        if left:
            await asyncio.wait(left)

    def _finished(self, future: asyncio.Future[list[Fact]], delivery: Delivery, done: Done) -> None:
        self._running.discard(future)
        if future.cancelled():
            delivery.fail(Fact(Stage.FILE, trouble=Trouble.UNATTEMPTED))
        elif future.exception():
            delivery.fail(Fact(Stage.FILE, trouble=Trouble.IO_ERROR))
        else:
            delivery.facts.extend(future.result())
        done(delivery)

    def _deliver(self, delivery: Delivery) -> list[Fact]:
        return [self._store(delivery, recipient) for recipient in delivery.recipients]

    def _store(self, delivery: Delivery, recipient: Recipient) -> Fact:
        message = delivery.message
        folder = Path(self._maildir.replace("{user}", recipient.next_hop))
        name = f"{int(message.arrived)}.Q{message.queue_id}R{recipient.number}.{self._suffix}"
        try:
            write_maildir(folder, name, _mailbox_form(message, recipient, delivery.content))
        except OSError as error:
            trouble = Trouble.DISK_FULL if error.errno in _FULL else Trouble.IO_ERROR
            return Fact(Stage.FILE, trouble=trouble, detail=errno.errorcode.get(error.errno or 0, ""))
        return Fact(Stage.FILE, reply=_STORED)


def _mailbox_form(message: Message, recipient: Recipient, content: Content) -> Iterator[bytes]:
    head = f"Return-Path: <{message.sender}>\nDelivered-To: {recipient.address}\n"
    if recipient.original and recipient.original != recipient.address:
        head += f"X-Original-To: {recipient.original}\n"
    yield head.encode("utf-8", "surrogateescape")
    if isinstance(content, ContentFile):
        yield from _unix_lines(content)
    else:
        yield content.replace(b"\r\n", b"\n")


def _unix_lines(content: ContentFile) -> Iterator[bytes]:
    """A content file with LF line ends; a CRLF split between two pieces is kept together.

    Content files are used again, so what stands behind the message's size belongs to an older one.
    """
    with content.path.open("rb") as file:
        held, left = b"", content.size
        while left and (piece := file.read(min(PIECE, left))):
            left -= len(piece)
            piece = held + piece
            held = b"\r" if piece.endswith(b"\r") else b""
            yield piece[: len(piece) - len(held)].replace(b"\r\n", b"\n")
        if left:
            raise OSError(errno.EIO, "content file is shorter than its message")
        yield held
