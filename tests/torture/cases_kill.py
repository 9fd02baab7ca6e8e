"""The process is killed: at any moment, at chosen calls, and with Postfix's own load tool at the other end."""

from __future__ import annotations

from signal import SIGKILL

from tests.support.server import Server
from tests.support.sink import Manner
from tests.support.waiting import wait_for
from tests.torture.disk import Disk, Op
from tests.torture.ledger import Row
from tests.torture.letters import Letter
from tests.torture.post import Tap, smtp_source
from tests.torture.rig import Rig

LONGEST_SECONDS = 0.5
"""Under load, before a kill."""
TEXT_BYTES = 3_000
"""smtp-source's messages."""
QUIET_SECONDS = 3.0
"""When no call of the kind has come for so long, none comes."""


def at_random(rig: Rig) -> Row:
    """SIGKILL at random moments, each generation on the spool as the one before left it."""
    for _ in range(rig.rounds):
        rig.hop.manner = rig.chance.choice([Manner.PROPER, Manner.PROPER, Manner.BUSY])
        server = rig.server().start()
        with rig.flood(server):
            rig.pause(LONGEST_SECONDS)
            rig.crash(server)
    rig.hop.manner = Manner.PROPER
    return rig.drain()


def while_starting(rig: Rig) -> Row:
    """SIGKILL while it starts on a queue that a crash left, and while it stops."""
    for number in range(rig.rounds):
        server = rig.server().start()
        with rig.flood(server):
            rig.pause(LONGEST_SECONDS / 2)
            if number % 2:
                rig.crash(server)
            else:
                server.process.terminate()  # type: ignore[union-attr]
                rig.pause(LONGEST_SECONDS / 4)
                rig.crash(server)
        again = rig.server().launch()
        rig.pause(LONGEST_SECONDS * 2)
        rig.crash(again)
    return rig.drain()


def _at_call(rig: Rig, op: Op, most: int) -> Row:
    """Dies at its n-th call of this kind, counted from its start; n up to `most`, small ones oftener. A write is half done."""
    disk = rig.disk()
    reached = 0
    for _ in range(rig.rounds):
        disk.kill_at(op, int(most ** rig.chance.random()))
        server = rig.server(disk).launch()
        wait_for(lambda server=server: server.ready_line or server.ended, "the start or the end")  # type: ignore[misc]
        if server.ready_line:
            with rig.flood(server):
                reached += _comes_to_it(rig, server, disk)
                rig.crash(server)
        else:
            assert server.process is not None
            assert server.process.poll() == -SIGKILL, f"the server did not start:\n{server.output}"
            reached += 1
            rig.crash(server)
    assert reached, f"it never came to a call of {op!r}"
    return rig.drain()


def _comes_to_it(rig: Rig, server: Server, disk: Disk) -> bool:
    """Whether the call at which it dies comes; waits for as long as others of the kind do, however slow the machine."""
    while True:
        left = disk.left
        if rig.wait_for_end(server, QUIET_SECONDS):
            return True
        if left == disk.left:
            return False


def at_fsync(rig: Rig) -> Row:
    """Killed at calls of fsync (folders, content files, mailboxes)."""
    return _at_call(rig, Op.FSYNC, 30)


def at_fdatasync(rig: Rig) -> Row:
    """Killed at calls of fdatasync (the log, the database)."""
    return _at_call(rig, Op.FDATASYNC, 300)


def at_write(rig: Rig) -> Row:
    """Killed half-way through a write, of any file."""
    return _at_call(rig, Op.WRITE, 3000)


def at_names(rig: Rig) -> Row:
    """Killed at rename, unlink, link, and the making of files and folders."""
    return _at_call(rig, Op.RENAME | Op.UNLINK | Op.LINK | Op.CREATE | Op.MKDIR, 60)


def at_lengths(rig: Rig) -> Row:
    """Killed at ftruncate and fallocate."""
    return _at_call(rig, Op.TRUNCATE | Op.ALLOCATE, 10)


def under_smtp_source(rig: Rig) -> Row:
    """Postfix's load tool sends; what was acknowledged is seen on the wire."""
    rig.ledger.identify = _whole
    for number in range(rig.rounds):
        server = rig.server().start()
        to = f".source{number}@remote.test"
        with Tap(server.port) as tap, smtp_source(tap.port, to=to, length=TEXT_BYTES, sessions=20) as source:
            try:
                wait_for(lambda tap=tap: tap.acknowledged, "a message to be acknowledged")  # type: ignore[misc]
                rig.pause(LONGEST_SECONDS)
                rig.crash(server)
            finally:
                source.kill()
        for recipient in tap.acknowledged:
            rig.ledger.acknowledged(Letter(recipient.partition("@")[0], (recipient,), TEXT_BYTES))
    return rig.drain()


def _whole(data: bytes) -> tuple[str, bool]:
    """smtp-source's text is lines of X, so many bytes in all."""
    text = data.partition(b"\r\n\r\n")[2]
    return "", len(text) == TEXT_BYTES + len(b"\r\n")
