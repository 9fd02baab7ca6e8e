"""The local agent: the form of a message in a mailbox, and what is reported when it cannot be written."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from mailflow.delivery.local import PIECE, LocalAgent
from mailflow.delivery.request import Delivery, Fact, Trouble
from mailflow.delivery.trouble import judge
from mailflow.envelope import Content, ContentFile, Message, Peer, Recipient
from mailflow.report import Action

TEXT = b"Subject: x\r\n\r\nText\r\n"
MAIL = 12345678901234


def a_delivery(*users: str, sender: str = "s@client.example", content: Content = TEXT, original: str = "") -> Delivery:
    recipients = [Recipient(n, f"{u}@here.example", f"local:{u}", original) for n, u in enumerate(users)]
    size = len(content) if isinstance(content, bytes) else content.size
    message = Message(MAIL, sender, recipients, content, arrived=1_800_000_000.5, size=size, peer=Peer())
    return Delivery(message, recipients, "local", users[0], content, 0.0)


def deliver(maildir: Path | str, *deliveries: Delivery) -> list[list[Fact]]:
    async def run() -> list[list[Fact]]:
        agent = LocalAgent(str(maildir), "mx.here/example:1")
        left = len(deliveries)
        finished = asyncio.Event()

        def done(_delivery: Delivery) -> None:
            nonlocal left
            left -= 1
            if not left:
                finished.set()

        for delivery in deliveries:
            agent.start(delivery, done)
        await asyncio.wait_for(finished.wait(), 10)
        await agent.close(1.0)
        return [delivery.facts for delivery in deliveries]

    return asyncio.run(run())


def stored(box: Path) -> bytes:
    [file] = (box / "new").iterdir()
    return file.read_bytes()


def test_the_form_in_the_mailbox(tmp_path: Path) -> None:
    [[fact]] = deliver(tmp_path / "{user}", a_delivery("alice"))
    assert judge(fact).action is Action.DELIVERED
    assert stored(tmp_path / "alice") == (
        b"Return-Path: <s@client.example>\nDelivered-To: alice@here.example\nSubject: x\n\nText\n"
    )


def test_the_null_sender_and_a_rewritten_address(tmp_path: Path) -> None:
    deliver(tmp_path / "{user}", a_delivery("alice", sender="", original="Jörg@here.example"))
    assert stored(tmp_path / "alice").startswith(
        "Return-Path: <>\nDelivered-To: alice@here.example\nX-Original-To: Jörg@here.example\nSubject: ".encode()
    )


def test_the_name_is_the_same_for_the_same_message_and_fit_for_a_file(tmp_path: Path) -> None:
    deliver(tmp_path / "{user}", a_delivery("alice"))
    deliver(tmp_path / "{user}", a_delivery("alice"))
    [file] = (tmp_path / "alice" / "new").iterdir()
    assert file.name.startswith("1800000000.Q")
    assert file.name.endswith(r"R0.mx.here\057example\0721")


def test_several_recipients_of_one_mailbox_have_a_copy_each(tmp_path: Path) -> None:
    deliver(tmp_path / "{user}", a_delivery("alice", "alice"))
    assert len(list((tmp_path / "alice" / "new").iterdir())) == 2


@pytest.mark.parametrize("cut", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 7])
def test_a_content_file_is_written_up_to_its_size_with_unix_lines(tmp_path: Path, cut: int) -> None:
    """A file is used again and longer than its message; a line end may lie across two pieces."""
    whole = (b"x" * 60 + b"\r\n") * (2 * PIECE // 62 + 10)
    path = tmp_path / "content"
    path.write_bytes(whole)
    deliver(tmp_path / "{user}", a_delivery("alice", content=ContentFile(path, cut)))
    head, _, body = stored(tmp_path / "alice").partition(b"example\nx")
    assert head.startswith(b"Return-Path: ")
    assert b"x" + body == whole[:cut].replace(b"\r\n", b"\n")


@pytest.mark.parametrize("size", [10**6, 100])
def test_a_content_file_that_is_too_short_or_gone_delivers_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / "content"
    if size > 100:
        path.write_bytes(b"x" * 1000)
    [[fact]] = deliver(tmp_path / "{user}", a_delivery("alice", content=ContentFile(path, size)))
    assert fact.trouble is Trouble.IO_ERROR
    assert judge(fact).action is Action.DELAYED
    assert list((tmp_path / "alice" / "new").iterdir()) == []


def test_a_mailbox_that_is_a_file_is_tried_again_later(tmp_path: Path) -> None:
    (tmp_path / "alice").write_bytes(b"mbox")
    [[bad, good]] = deliver(tmp_path / "{user}", a_delivery("alice", "bob"))
    assert (bad.trouble, bad.detail) == (Trouble.IO_ERROR, "ENOTDIR")
    assert judge(bad).action is Action.DELAYED
    assert judge(good).action is Action.DELIVERED
    assert str(tmp_path) not in judge(bad).reason, "no path of ours in a report"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    """A content that cannot be read on plays the disk: the error comes from within the write."""

    class NoRoom(bytes):
        def replace(self, *_args: object) -> bytes:  # type: ignore[override]
            raise OSError(number, os.strerror(number))

    [[fact]] = deliver(tmp_path / "{user}", a_delivery("alice", content=NoRoom(TEXT)))
    assert fact.trouble is Trouble.DISK_FULL
    assert judge(fact)[:2] == (Action.DELAYED, "4.2.2")
    assert list((tmp_path / "alice" / "new").iterdir()) == []
    assert list((tmp_path / "alice" / "tmp").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_tried_again_later(tmp_path: Path) -> None:
    (tmp_path / "alice").mkdir(mode=0o000)
    [[fact]] = deliver(tmp_path / "{user}", a_delivery("alice"))
    assert (fact.trouble, fact.detail) == (Trouble.IO_ERROR, "EACCES")


def test_what_did_not_begin_when_the_grace_is_over_is_given_back(tmp_path: Path) -> None:
    """Mailboxes that hang hold all threads: each delivery comes back, and is repeated at the next start."""
    released = threading.Event()

    class Slow(bytes):
        def replace(self, *args: object) -> bytes:  # type: ignore[override]
            released.wait(10)
            return bytes(self).replace(*args)  # type: ignore[arg-type]

    async def run() -> list[Delivery]:
        agent = LocalAgent(str(tmp_path / "{user}"), "mx")
        ended: list[Delivery] = []
        for n in range(12):
            agent.start(a_delivery(f"u{n}", content=Slow(TEXT)), ended.append)
        await agent.close(0.05)
        back = list(ended)
        released.set()
        return back

    back = asyncio.run(run())
    assert len(back) == 12
    assert all(d.facts[0].trouble is Trouble.UNATTEMPTED for d in back)
