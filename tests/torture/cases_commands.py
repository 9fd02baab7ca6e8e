"""The server dies while an administrator's commands are under way beside the mail."""

from __future__ import annotations

from tests.support.sink import Manner
from tests.torture.administrator import BACKLOG, Administrator
from tests.torture.cases_power import until_the_power_goes
from tests.torture.disk import Op
from tests.torture.ledger import Row
from tests.torture.rig import Rig

CALLS = Op.WRITE | Op.SYNCS
MOST_CALLS = 1_000
CALLS_SECONDS = 20.0
"""The call at which it dies comes in this time, or does not come in this round."""


def killed(rig: Rig) -> Row:
    """SIGKILL while messages are deleted, held, released and flushed: when some are deleted, or at a write or sync."""
    administrator, disk = Administrator(rig), rig.disk()
    for number in range(rig.rounds):
        rig.hop.manner = rig.chance.choice([Manner.PROPER, Manner.PROPER, Manner.BUSY])
        administrator.fill()
        disk.kill_at(Op(0), 0)
        server = rig.server(disk).start()
        with rig.flood(server), administrator.at_work():
            if number % 2:
                disk.kill_at(CALLS, int(MOST_CALLS ** rig.chance.random()))
                rig.wait_for_end(server, CALLS_SECONDS)
            else:
                administrator.wait_for_deletions(rig.chance.randrange(1, BACKLOG // 2))
            rig.crash(server)
        administrator.check()
    return _drain(rig, administrator)


def power_loss(rig: Rig) -> Row:
    """The power goes while messages are deleted, held, released and flushed."""
    administrator = Administrator(rig)
    for _ in range(rig.rounds):
        administrator.fill()
        with until_the_power_goes(rig) as disk:
            server = rig.server(disk).start()
            with rig.flood(server), administrator.at_work():
                administrator.wait_for_deletions(rig.chance.randrange(1, BACKLOG // 2))
                rig.crash(server)
        administrator.check()
    return _drain(rig, administrator)


def _drain(rig: Rig, administrator: Administrator) -> Row:
    """What is on hold leaves, all else arrives, and no fault is found in the queue."""
    rig.hop.manner = Manner.PROPER
    with rig.server() as server:
        administrator.clear_up()
        rig.settle(server)
        rig.stop(server)
        server.run("queue", "check")
    return rig.row(note=f"{administrator.deleted:,} deleted, {administrator.commands:,} other commands")
