"""The power goes: what was not synced is gone, wholly or in part, and nobody asked which part."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from signal import SIGKILL

from tests.support.server import Server
from tests.support.waiting import wait_for
from tests.torture.disk import Control, Disk, Files, Op
from tests.torture.ledger import Row
from tests.torture.power import PowerLoss
from tests.torture.rig import Rig

SYNC_SECONDS = 0.002
"""A sync takes so long, so that there is something under way when the power goes."""
LONGEST_SECONDS = 0.5
FAILURES_SECONDS = 3.0
MOST_CALLS = 2_000
RECOVERY_CALLS = 60
"""The power goes at one of so many calls after the failure: while the store is opened anew, or soon after."""
ANY_CALL = Op.WRITE | Op.SYNCS | Op.TRUNCATE | Op.ALLOCATE | Op.CREATE | Op.RENAME | Op.UNLINK | Op.MKDIR


def loss(rig: Rig) -> Row:
    """The power goes at random moments and at single calls, also while the queue recovers from the last time."""
    for _ in range(rig.rounds):
        _round(rig, None)
    return rig.drain()


def loss_after_failing_syncs(rig: Rig) -> Row:
    """Some syncs fail, what they were for may never reach the disk, and the power goes during the recovery."""

    def hurt(disk: Disk) -> None:
        after, count = rig.chance.randrange(40), rig.chance.choice([1, 1, 2, 5])
        files = rig.chance.choice(
            [Files.LOG, Files.DATABASE, Files.CONTENT, Files.LOG | Files.DATABASE | Files.CONTENT]
        )
        disk.kill_after_failure(ANY_CALL, rig.chance.randint(1, RECOVERY_CALLS))
        disk.fail(Op.SYNCS, errno.EIO, files=files, after=after, count=count)

    for _ in range(rig.rounds):
        _round(rig, hurt)
    return rig.drain()


def _round(rig: Rig, hurt: Callable[[Disk], None] | None) -> None:
    with until_the_power_goes(rig) as disk:
        if hurt:
            hurt(disk)
        elif rig.chance.random() < 0.5:
            disk.kill_at(ANY_CALL, int(MOST_CALLS ** rig.chance.random()))
        server = rig.server(disk).launch()
        wait_for(lambda: server.ready_line or server.ended, "the start or the end")
        _load(rig, server, disk)


@contextmanager
def until_the_power_goes(rig: Rig) -> Iterator[Disk]:
    """The disk of a server that is dead when the block ends; then its folder becomes what the power loss left of it."""
    rig.server()  # its configuration
    base = rig.folder / "base"
    shutil.copytree(rig.root, base)
    with Disk(rig.folder / "power", rig.root, journal=True) as disk:
        disk.slow(SYNC_SECONDS)
        yield disk
        work = rig.folder / "work"
        lost = PowerLoss(base, disk.journal, work, rig.chance)
        shutil.rmtree(rig.root)
        lost.leave(rig.root)
        shutil.rmtree(work)
        shutil.rmtree(base)


def _load(rig: Rig, server: Server, disk: Disk) -> None:
    if not server.ready_line:
        refused = disk.failed and "queue.db" in server.output and "Traceback" not in server.output
        assert refused or server.wait_exit() == -SIGKILL, f"the server did not start:\n{server.output}"
        rig.crash(server)
        return
    with rig.flood(server):
        rig.pause(LONGEST_SECONDS)
        with suppress(AssertionError):  # there may be too few syncs of that file
            wait_for(lambda: server.ended or disk[Control.FAIL_COUNT] <= 0, "the failures", FAILURES_SECONDS)
        rig.pause(LONGEST_SECONDS)
        rig.crash(server, disk.failed_at)
