"""Bytes change on the disk while nobody looks: in contents, in the log, in the database."""

from __future__ import annotations

import random
import re
import shutil
from contextlib import suppress
from pathlib import Path

from mailflow.store.reader import list_messages
from tests.support.client import Client
from tests.support.server import Server
from tests.support.sink import Manner
from tests.support.waiting import wait_for
from tests.torture import letters
from tests.torture.ledger import Row
from tests.torture.letters import Letter
from tests.torture.rig import Rig

LETTERS = 30
VICTIMS = 3
FIRST_PAGE_BYTES = 8192
SPOILT_BYTES = 16
SPOKEN = r"damaged|malformed|corrupt|not a database"
"""A server that cannot deliver all says why, in one of these words."""
STUCK_SECONDS = 8.0
"""After this time what could be delivered from a damaged database has been."""
INTO_THE_TEXT = 150
"""Bytes behind the letter's name in its header: already text, whatever the size."""


def contents(rig: Rig) -> Row:
    """A byte changes in the contents of some messages, wherever they live: these stay in the queue and are reported,
    all others arrive."""
    kept: set[str] = set()
    for number in range(rig.rounds):
        server, sent = _filled(rig, f"d{number}", [size for size, _ in letters.SIZES])
        rig.stop(server)
        victims = rig.chance.sample(sent, VICTIMS)
        for letter in victims:
            _flip(rig.spool, letter.name, rig.chance)
        kept |= {letter.name for letter in victims}
        rig.hop.manner = Manner.PROPER
        with rig.server() as again:
            wait_for(lambda: _senders(rig) <= {f"{name}.back" for name in kept}, "whole messages to leave", 60)  # noqa: B023
            for letter in victims:
                assert re.search(rf"d{letter.name[1:]}@.*damaged", again.output), "nothing is said of the damage"
            rig.stop(again)
        assert _senders(rig) == {f"{name}.back" for name in kept}, "a damaged message has left the queue"
    return rig.row(kept=kept, note=f"{len(kept)} damaged, kept")


def log(rig: Rig) -> Row:
    """A byte changes in the database's log of a killed server: nothing is half there. What was acknowledged before the damage and what
    is in the redo log arrives."""
    gone: set[str] = set()
    told = 0
    for number in range(rig.rounds):
        server, sent = _filled(rig, f"l{number}", [1_000])
        rig.crash(server)
        _spoil(rig.spool / "queue.db-wal", rig.chance)
        rig.hop.manner = Manner.PROPER
        with rig.server() as again:
            rig.settle(again)
            rig.stop(again)
        missing = _mine(rig, sent)
        told += "lost commits" in again.output
        gone |= missing
    return rig.row(kept=gone, note=f"{len(gone)} behind the damage, {told} times told")


def database(rig: Rig) -> Row:
    """Some bytes of the database change: the server says so and delivers nothing that is not whole."""
    gone: set[str] = set()
    for number in range(rig.rounds):
        shutil.rmtree(rig.spool, ignore_errors=True)
        server, sent = _filled(rig, f"p{number}", [1_000, 5_000])
        rig.stop(server)
        _spoil(rig.spool / "queue.db", rig.chance)
        rig.hop.manner = Manner.PROPER
        again = rig.server().launch()
        with suppress(AssertionError):  # not all can arrive
            wait_for(lambda: again.ended or not _mine(rig, sent), "all to arrive", STUCK_SECONDS)  # noqa: B023
        rig.crash(again)
        missing = _mine(rig, sent)
        assert not missing or re.search(SPOKEN, again.output), f"nothing is said of the damage:\n{again.output[-3000:]}"
        assert "Traceback" not in again.output, again.output[-3000:]
        gone |= missing
    return rig.row(kept=gone, note=f"{len(gone)} in damaged pages")


def _mine(rig: Rig, sent: list[Letter]) -> set[str]:
    return rig.ledger.missing(rig.mailbox) & {letter.name for letter in sent}


def _senders(rig: Rig) -> set[str]:
    """Who sent what is in the queue, without the domain."""
    return {message.sender.partition("@")[0] for message in list_messages(rig.spool)}


def _spoil(path: Path, chance: random.Random) -> None:
    """Writes over some bytes behind a file's first page."""
    with path.open("r+b") as file:
        file.seek(chance.randrange(FIRST_PAGE_BYTES, path.stat().st_size - SPOILT_BYTES))
        file.write(chance.randbytes(SPOILT_BYTES))


def _filled(rig: Rig, prefix: str, sizes: list[int]) -> tuple[Server, list[Letter]]:
    """A running server with letters that nobody takes yet, in the order of their 250."""
    rig.hop.manner = Manner.BUSY
    server = rig.server().start()
    sent = []
    with Client(server.port) as client:
        client.say("EHLO client.test")
        for number in range(LETTERS):
            name = f"{prefix}.{number}"
            letter = Letter(name, (f"{name}@remote.test",), sizes[number % len(sizes)])
            rig.ledger.sent(letter)
            assert client.message(list(letter.recipients), letter.data, letter.sender).startswith("250 ")
            rig.ledger.acknowledged(letter)
            sent.append(letter)
    return server, sent


def _flip(spool: Path, name: str, chance: random.Random) -> None:
    """Changes one byte in a letter's text, in whichever files below the spool it is found."""
    marker = b"X-Letter: %s " % name.encode()
    found = 0
    for path in sorted(p for p in spool.rglob("*") if p.is_file()):
        data = path.read_bytes()  # not mapped: `mmap.find` of CPython 3.11 reads a byte behind the end at times
        with path.open("r+b") as file:
            at = data.find(marker)
            while at >= 0:
                place = at + len(marker) + INTO_THE_TEXT + chance.randrange(500)
                file.seek(place)
                file.write(bytes((data[place] ^ 1 << chance.randrange(8),)))
                found += 1
                at = data.find(marker, at + 1)
    assert found, f"{name} is nowhere below {spool}"
