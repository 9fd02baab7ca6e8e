"""How fast an administrator's deletion goes beside mail, and how much of its rate the mail keeps, in pairs under one flood.

The rate of mail alone varies by a factor of two within minutes on a shared machine, so a rate before and a rate after a deletion of half a
minute say little. Here smtp-source sends without a pause, and the deletion goes for some seconds and rests for some, again and
again: each stretch of it is compared with the stretches of rest on both sides. A command that begins again looks through what it has
passed before; that is not counted, for a command that is left alone looks there once, on its way.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.load import Case, SinkProcess, source_command
from bench.servers import Server
from mailflow.control.client import ControlClient

ENDLESS = 10**8
"""Messages: more than any flood gets to."""
WARM_SECONDS = 2.0
REST_SECONDS = 3.0
STRETCH_SECONDS = 3.0
LEAD_SECONDS = 0.5
"""Of a stretch that begins, before it is measured."""
QUIET_SECONDS = 1.0
"""Without an arrival for so long, the flood has run dry."""


@dataclass(frozen=True)
class Deletion:
    """What one deletion beside mail came to."""

    rate: float
    """Messages deleted a second, while it went."""
    kept: float
    """The mail's rate meanwhile, as a share of its rate on both sides: the mean over the stretches."""
    error: float
    """Its standard error; 0 where there was one stretch only."""


def delete_beside_mail(server: Server, sink: SinkProcess, case: Case, socket: Path, sender: str) -> Deletion:
    """Deletes all mail from `sender` (a pattern) beside a flood."""
    stretches: list[_Stretch] = []
    shares: list[float] = []
    with _flood(server, sink, case):
        before = _rate(sink)
        while stretch := _stretch(ControlClient(socket), sink, sender):
            after = _rate(sink)
            stretches.append(stretch)
            shares.append(2 * stretch.rate / (before + after))
            before = after
    if not stretches:
        sys.exit(f"the mail of {sender} is too little to tell how fast it was deleted")
    error = statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else 0.0
    deleted, seconds = sum(s.deleted for s in stretches), sum(s.seconds for s in stretches)
    return Deletion(deleted / seconds, statistics.mean(shares), error)


class _Stretch(NamedTuple):
    """Between the first messages of two steps."""

    deleted: int
    seconds: float
    rate: float
    """Of the mail, messages a second."""


@contextlib.contextmanager
def _flood(server: Server, sink: SinkProcess, case: Case) -> Iterator[None]:
    """Mail without a pause until the block ends; then what was taken arrives."""
    source = subprocess.Popen(
        source_command(server.port, case, ENDLESS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(WARM_SECONDS)
        yield
        if source.poll() is not None:
            sys.exit("smtp-source ended while it was to send")
    finally:
        source.kill()
        source.wait()
        _run_dry(sink)


def _run_dry(sink: SinkProcess) -> None:
    seen = -1
    while seen != sink.messages:
        seen = sink.messages
        time.sleep(QUIET_SECONDS)


def _rate(sink: SinkProcess) -> float:
    """Messages a second that arrive meanwhile."""
    begun, arrived = time.monotonic(), sink.messages
    time.sleep(REST_SECONDS)
    return (sink.messages - arrived) / (time.monotonic() - begun)


def _stretch(client: ControlClient, sink: SinkProcess, sender: str) -> _Stretch | None:
    """Deletes for a stretch; None when it ended early, for nothing is left.

    Messages come in bursts, one for each step of the command, so it is measured from the start of one to the start of another.
    """
    entries = client.change("delete", {"sender": sender})
    first, start = 0.0, None
    with contextlib.closing(entries):
        for count, _ in enumerate(entries, 1):
            now = time.monotonic()
            first = first or now
            if start is None and now - first >= LEAD_SECONDS:
                start = (now, count, sink.messages)
            elif start is not None and now - start[0] >= STRETCH_SECONDS:
                seconds = now - start[0]
                return _Stretch(count - start[1], seconds, (sink.messages - start[2]) / seconds)
    return None
