"""Servers that go on with a damaged database: nobody is delivered to twice, and a repair finds everybody else (wish 82).

Each round changes some bytes of a queue's database, its header included. Three servers, one after the other, deliver what they find,
with a bounce now and then and new mail beside it; then comes a repair, and two more servers.
`MAILFLOW_DAMAGE_ROUNDS` for more rounds.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mailflow.envelope import Message
from mailflow.errors import QueueDamaged, QueueError
from mailflow.ids import format_id
from mailflow.queue import Queue, QueueSettings
from mailflow.store.reader import list_messages
from mailflow.store.repair import repair
from mailflow.store.schema import database
from tests.queue.helpers import make, put, settle, with_queue

ROUNDS = int(os.environ.get("MAILFLOW_DAMAGE_ROUNDS", "8"))
MESSAGES = 60
SITES = tuple(f"smtp:site{n}.example" for n in range(5))
BACK = "smtp:back.example"
SLICE = 7
HEADER, FIRST_PAGE = range(100), range(8192)
"""Bytes of the first page that say how all others are to be read."""

Key = tuple[int, int]


class Story:
    """What happened to everybody."""

    def __init__(self) -> None:
        self.told: set[Key] = set()
        """Were in the queue: put there before, or acknowledged since."""
        self.taken: Counter[Key] = Counter()
        self.open = True
        """Whether new mail comes."""
        self.unsure: set[Key] = set()
        """Their settlement was answered with an error: they may be tried again."""

    async def serve(self, queue: Queue) -> None:
        """One server's life."""
        for place in (*SITES, BACK):
            for retried in (False, True):
                await self._drain(queue, place, retried=retried)

    async def _drain(self, queue: Queue, place: str, *, retried: bool) -> None:
        after = None
        for _ in range(MESSAGES):
            try:
                part = await queue.load(place, after, 2e9, SLICE, retried=retried)
            except QueueError:
                return  # as the loader logs it
            for lost in part.lost:
                queue.quarantine(lost, lambda _changed: None)
            await asyncio.gather(*(self._deliver(queue, message) for message in part.messages), self._receive(queue))
            after = part.last
            if part.complete:
                return

    async def _deliver(self, queue: Queue, message: Message) -> None:
        try:
            await queue.content(message)
        except QueueDamaged:
            queue.quarantine(message.id, lambda _changed: None)
            return
        except QueueError:
            return
        keys = [(message.id, r.number) for r in message.recipients]
        self.taken.update(keys)
        new = [make(queue, b"returned\r\n", (BACK,), sender="")] if message.id % 4 == 0 and message.sender else []
        if await settle(queue, message, message.recipients, new=new) is not None:
            self.unsure.update(keys)
        else:
            self.told.update((bounce.id, 0) for bounce in new)

    async def _receive(self, queue: Queue) -> None:
        message = make(queue, b"new " * 500, (SITES[0],))
        if self.open and await put(queue, message) is None:
            self.told.add((message.id, 0))


def _server(spool: Path, story: Story) -> bool:
    """Whether it could start and end."""
    try:
        with_queue(spool, story.serve)
    except QueueError:
        return False
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[Key]]:
    spool, told = tmp_path_factory.mktemp("living"), set[Key]()

    async def fill(queue: Queue) -> None:
        for n in range(MESSAGES):
            content = b"Subject: x\r\n\r\n%d\r\n" % n * (1 + n % 20) * (400 if n % 7 == 0 else 1)
            message = make(queue, content, (SITES[n % 5],) * (3 if n % 4 == 0 else 1))
            for r in message.recipients:
                r.attempts = n % 2
            assert await put(queue, message) is None
            told.update((message.id, r.number) for r in message.recipients)

    with_queue(spool, fill)
    return spool, told


@pytest.mark.wish(82)
@pytest.mark.parametrize("size", [1, 16, 512])
def test_nobody_is_delivered_to_twice_and_a_repair_finds_the_others(
    whole: tuple[Path, set[Key]], tmp_path: Path, size: int
) -> None:
    chance = random.Random(size)
    for number in range(ROUNDS):
        spool = tmp_path / str(number)
        shutil.copytree(whole[0], spool)
        end = database(spool).stat().st_size - size
        place = chance.choice((chance.choice(HEADER), chance.choice(FIRST_PAGE), *[chance.randrange(8192, end)] * 2))
        with database(spool).open("r+b") as file:
            file.seek(place)
            file.write(chance.randbytes(size if place not in FIRST_PAGE else 1))
        story, where = Story(), f"seed {size}, round {number}: bytes at {place}"
        story.told |= whole[1]
        for _ in range(3):
            _server(spool, story)
        list(repair(spool, QueueSettings()))
        for story.open in (True, False):
            assert _server(spool, story), where
        twice = {key for key, times in story.taken.items() if times > 1}
        assert twice <= story.unsure, f"{where}: delivered again"
        kept = {path.name[:11] for path in (spool / "damaged").glob("*.json")}
        kept |= {m.queue_id for m in list_messages(spool) if {r.state for r in m.recipients} == {"held"}}
        rescued = any((spool / "damaged").glob("queue.db.*"))
        missing = {key for key in story.told - story.taken.keys() if format_id(key[0]) not in kept}
        assert (rescued and place not in FIRST_PAGE) or not missing, f"{where}: nothing is known of {missing}"
        shutil.rmtree(spool)
