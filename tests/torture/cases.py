"""The list of cases: what each is called, how often it goes round in the short form and in the long one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.torture import cases_commands, cases_damage, cases_disk, cases_kill, cases_power, cases_world
from tests.torture.ledger import Row
from tests.torture.rig import Rig


@dataclass(frozen=True)
class Case:
    """One thing that is done to the server."""

    body: Callable[[Rig], Row]
    short: int
    """Rounds with the other tests."""
    long: int
    """Rounds of `make torture`."""

    @property
    def name(self) -> str:
        """As on the command line and in the table."""
        module = self.body.__module__.rpartition("_")[2]
        return f"{module}-{self.body.__name__}".replace("_", "-")

    def run(self, folder: Path, seed: int, rounds: int) -> Row:
        """Runs it below an empty folder. Raises AssertionError when a promise was broken."""
        folder.mkdir(parents=True)
        with Rig(folder, seed, rounds, case=self.name) as rig:
            return self.body(rig)


CASES = (
    Case(cases_kill.at_random, short=3, long=120),
    Case(cases_kill.while_starting, short=1, long=60),
    Case(cases_kill.at_fsync, short=1, long=40),
    Case(cases_kill.at_fdatasync, short=1, long=60),
    Case(cases_kill.at_write, short=2, long=100),
    Case(cases_kill.at_names, short=1, long=40),
    Case(cases_kill.at_lengths, short=1, long=10),
    Case(cases_kill.under_smtp_source, short=1, long=20),
    Case(cases_commands.killed, short=2, long=60),
    Case(cases_commands.power_loss, short=1, long=40),
    Case(cases_disk.errors, short=1, long=60),
    Case(cases_disk.no_space, short=1, long=60),
    Case(cases_disk.slow, short=1, long=3),
    Case(cases_world.clock_steps, short=1, long=20),
    Case(cases_world.two_servers, short=1, long=10),
    Case(cases_world.descriptors, short=1, long=10),
    Case(cases_damage.contents, short=1, long=10),
    Case(cases_damage.log, short=1, long=20),
    Case(cases_damage.database, short=1, long=20),
    Case(cases_power.loss, short=2, long=100),
    Case(cases_power.loss_after_failing_syncs, short=1, long=60),
)
