"""The world around the server misbehaves: the clock jumps, a second server comes, descriptors run out."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack
from typing import Self

from tests.support.client import Client
from tests.support.waiting import wait_for
from tests.torture.disk import Control
from tests.torture.ledger import Row
from tests.torture.rig import Rig

DAY_SECONDS = 86_400.0
LONGEST_SECONDS = 0.4
DESCRIPTORS = 64
CLIENTS = 150
START_SECONDS = 20


def clock_steps(rig: Rig) -> Row:
    """The clock jumps a day ahead and back under load, and between a kill and the start.

    A start reads due times by the clock as it is then; what was deferred under one that was ahead is due at once. At the
    last start the clock is ahead of all that went before.
    """
    disk = rig.disk()
    latest = 0
    for _ in range(rig.rounds):
        server = rig.server(disk).start()
        with rig.flood(server):
            for days in (1, -2, 1):
                disk.step_clock(days * DAY_SECONDS)
                latest = max(latest, disk[Control.CLOCK_US])
                rig.pause(LONGEST_SECONDS)
            rig.crash(server)
        disk.step_clock(rig.chance.choice([-1, 1]) * DAY_SECONDS)
    disk[Control.CLOCK_US] = max(latest, disk[Control.CLOCK_US])
    with rig.server(disk) as server:
        rig.settle(server)
        rig.stop(server)
    return rig.row()


def two_servers(rig: Rig) -> Row:
    """A second server on the spool is refused with the first one's number, and does the first no harm."""
    for _ in range(rig.rounds):
        server = rig.server().start()
        with rig.flood(server):
            words = [sys.executable, "-m", "mailflow", "serve", "--config", str(server.config)]
            second = subprocess.run(
                words, env=server.environment, capture_output=True, text=True, timeout=START_SECONDS
            )
            assert second.returncode not in (0, -9)
            assert re.search(rf"in use by another process \(pid {server.pid}\)", second.stderr), second.stderr
            rig.crash(server)  # the next one takes the spool without being told
    return rig.drain()


def descriptors(rig: Rig) -> Row:
    """More clients than there are descriptors: those who are in are served, and when they go the others are."""
    limit = ["sh", "-c", f'ulimit -n {DESCRIPTORS}; "$@"; exit $?', "sh"]
    for _ in range(rig.rounds):
        server = rig.server(wrap=limit).start()
        with ExitStack() as crowd:
            for _ in range(CLIENTS):
                crowd.enter_context(_Silent(server.port))
            assert not server.ended, server.output[-2000:]
        with rig.flood(server):
            rig.pause(LONGEST_SECONDS)
            with ExitStack() as crowd:
                for _ in range(CLIENTS):
                    crowd.enter_context(_Silent(server.port))
                before = rig.ledger.promised
                rig.pause(LONGEST_SECONDS)
            wait_for(lambda before=before: rig.ledger.promised > before, "mail to be taken again")  # type: ignore[misc]
        rig.settle(server)
        rig.stop(server)
    return rig.drain()


class _Silent(Client):
    """A client that connects and does not even read the greeting."""

    def __enter__(self) -> Self:
        return self
