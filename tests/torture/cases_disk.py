"""The disk says no: writes and syncs fail, for want of room or worse, once, for a while, or until it is mended."""

from __future__ import annotations

import errno
import time
from contextlib import suppress

from tests.support.client import Client
from tests.support.server import Server
from tests.support.waiting import wait_for
from tests.torture.disk import Control, Disk, Files, Op
from tests.torture.ledger import Row
from tests.torture.rig import Rig

FOR_EVER = 10**9
FAILURES_SECONDS = 2.0
"""So long a disk fails at most before it is mended."""
EXIT_CODES = (0, 1)
STOPPED = "queue"
"""A server that gives up says that it is the queue."""


def errors(rig: Rig) -> Row:
    """EIO: what waited for the call is not acknowledged; the server mends its store, or stops and says why."""
    return _failing(rig, errno.EIO, Op.WRITE | Op.SYNCS)


def no_space(rig: Rig) -> Row:
    """ENOSPC: mail is refused with 452 or 451, and everything goes on by itself when there is room."""
    return _failing(rig, errno.ENOSPC, Op.WRITE | Op.ALLOCATE | Op.CREATE)


def _failing(rig: Rig, error: int, ops: Op) -> Row:
    for _ in range(rig.rounds):
        disk = rig.disk()
        server = rig.server(disk).start()
        with rig.flood(server):
            files = rig.chance.choice([Files.DATABASE, Files.LOG, Files.CONTENT, Files.ALL])
            after = rig.chance.randrange(200 if Op.WRITE in ops else 30)
            disk.fail(ops, error, files=files, after=after, count=rig.chance.choice([1, 3, 30, FOR_EVER]))
            with suppress(AssertionError):  # there may be too few such calls, and one may be for ever
                wait_for(lambda disk=disk: disk[Control.FAIL_COUNT] <= 0, "the failures", FAILURES_SECONDS)  # type: ignore[misc]
            disk[Control.FAIL_COUNT] = 0  # mended
            _goes_on_or_says_why(rig, server, disk)
        if server.ended:
            rig.crash(server, disk.failed_at)
        else:
            rig.settle(server)
            rig.stop(server, EXIT_CODES)
    assert not any(reply.startswith("5") for reply in rig.ledger.refusals), f"refused for good: {rig.ledger.refusals}"
    return rig.drain()


def _goes_on_or_says_why(rig: Rig, server: Server, disk: Disk) -> None:
    """Mail is acknowledged again, or the server has come to its end with a word about it."""
    before = rig.ledger.promised
    wait_for(lambda: server.ended or rig.ledger.promised > before, "mail to be taken again, or the end", 60)
    if server.ended:
        assert server.wait_exit() in EXIT_CODES
        assert disk.failed, "it stopped though nothing had failed"
        assert STOPPED in server.output, server.output[-2000:]


def slow(rig: Rig) -> Row:
    """A sync takes 5 s: nobody is told 250 before, everybody else is answered at once, and nothing is lost in a kill."""
    disk = rig.disk()
    for _ in range(rig.rounds):
        server = rig.server(disk).start()
        disk.slow(SLOW_SECONDS)
        before = time.monotonic()
        with rig.flood(server, largest=LARGEST) as senders:
            assert time.monotonic() - before >= SLOW_SECONDS
            _answers_at_once(server)
            disk.slow(0.0)
            rig.crash(server, since=before)  # what was delivered since then waited for a sync to be settled
            senders.wait()
    return rig.drain()


SLOW_SECONDS = 5.0
LARGEST = 12_000
"""Bytes: larger letters have syncs of their own, one after the other."""
AT_ONCE_SECONDS = 2.0
"""Far below SLOW_SECONDS, and above what a busy machine does to a greeting and two commands."""


def _answers_at_once(server: Server) -> None:
    began = time.monotonic()
    with Client(server.port) as client:
        client.say("EHLO client.test")
        assert client.say("NOOP").startswith("250")
    assert time.monotonic() - began < AT_ONCE_SECONDS, "a session waits for somebody else's sync"
