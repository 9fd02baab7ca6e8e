"""Fetching from disk what is due and was not in memory: after a start, a deferral, or when there was no room.

`Loader` asks the `Backlog` which destination is next, `room` whether there is any for it in memory, and the `Queue` for a
slice; what comes is handed to `take`. At most `LOADS` slices are on their way at a time.

One danger has to be excluded here: a recipient that was delivered while a slice with it was being read must not be
delivered again. `Loader.forget` is told of every recipient that leaves memory (after its transaction), and what was
forgotten while a load was under way is struck from that slice, and from that one only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from mailflow.backlog import NEVER, Backlog, LoadRequest
from mailflow.envelope import Message
from mailflow.queue import Queue, Slice
from mailflow.queuetime import QueueTime
from mailflow.scheduler import Lane, Scheduler

LOADS = 4
"""Slices on their way from disk at a time."""
LOOKS = 200
"""Destinations that are found to have no room, one after the other, before the loop gets its turn again."""
RETRY_SECONDS = 5.0
"""Wait before a load that failed is tried again."""
TELL_SECONDS = 60.0
"""Between two lines in the log about loads that failed, whichever they are."""
BLOCKED_SECONDS = 1.0
"""A destination without room is looked at again after this time even if none of its jobs ended."""


class Loader:
    """See the module's description."""

    def __init__(
        self,
        queue: Queue,
        backlog: Backlog,
        scheduler: Scheduler,
        room: Callable[[str, Lane], int],
        take: Callable[[Lane, list[Message]], None],
        time: QueueTime,
        lost: Callable[[int], None],
        unread: Callable[[str, str], None],
    ) -> None:
        """`room(destination, lane)` says how many recipients may come with one slice; `take(lane, messages)` is given
        what was loaded, the messages with one destination's recipients; `lost(id)` hears of those whose envelope is damaged,
        `unread(destination, reason)` of a slice that cannot be read, at most once in TELL_SECONDS."""
        self._queue, self._backlog, self._scheduler = queue, backlog, scheduler
        self._room, self._take, self._time, self._lost = room, take, time, lost
        self._unread, self._told = unread, -TELL_SECONDS
        self._loads: dict[asyncio.Future[Slice], set[tuple[int, int]]] = {}
        """The loads under way, each with what left memory since it began."""

    async def survey(self) -> None:
        """Notes all destinations that have mail on disk. Raises QueueError."""
        async for destination, new, deferred in self._queue.destinations():
            for lane, due in ((Lane.NEW, new), (Lane.DEFERRED, deferred)):
                if due is not None:
                    self._backlog.note(destination, lane, due)

    @property
    def loading(self) -> bool:
        """Whether a slice is on its way, so that `forget` has to be told."""
        return bool(self._loads)

    def forget(self, message_id: int, number: int) -> None:
        """A recipient has left memory, its delivery's transaction is on disk."""
        for gone in self._loads.values():
            gone.add((message_id, number))

    def pump(self) -> None:
        """Starts the loads that are due and for which there is room."""
        for _ in range(LOOKS):
            if len(self._loads) >= LOADS:
                return
            now = self._time.look()
            request = self._backlog.take(now)
            if request is None:
                return
            room = self._room(request.destination, request.lane)
            if room:
                self._load(request, room, now)
            else:
                self._postpone(request, now)

    def _load(self, request: LoadRequest, limit: int, now: float) -> None:
        destination, lane, after = request
        retried = lane is Lane.DEFERRED
        # New mail is due, whatever the wall clock said when it came.
        load = self._queue.load(destination, after, now if retried else NEVER, limit, retried=retried)
        self._backlog.asked(request, limit)
        self._loads[load] = set()
        load.add_done_callback(partial(self._loaded, request))

    def _postpone(self, request: LoadRequest, now: float) -> None:
        """There is no room for this destination, or for none: then the others need not be asked one by one."""
        destination, lane, _ = request
        if self._scheduler.full(lane):
            self._backlog.postpone(destination, lane, now, 0.0)
            self._backlog.block_lane(lane, now + BLOCKED_SECONDS)
        else:
            dead = self._scheduler.dead_until(destination) - self._time.clock()
            self._backlog.postpone(destination, lane, now, now + max(BLOCKED_SECONDS, dead))

    def close(self) -> None:
        """Nothing that is still on its way will be taken."""
        for load in self._loads:
            load.cancel()

    def _loaded(self, request: LoadRequest, load: asyncio.Future[Slice]) -> None:
        gone = self._loads.pop(load)
        destination, lane, _ = request
        now = self._time.now()
        if load.cancelled() or (error := load.exception()) is not None:
            if not load.cancelled():
                self._tell(destination, str(error))
            self._backlog.postpone(destination, lane, now, now + RETRY_SECONDS)
            self._take(lane, [])  # so that a timer is set for it: nothing else may happen until then
            return
        found = load.result()
        for message_id in found.lost:
            self._lost(message_id)
        self._backlog.loaded(request, after=found.last, complete=found.complete, next_due=found.next_due, now=now)
        _strike(gone, found.messages)
        self._take(lane, found.messages)

    def _tell(self, destination: str, reason: str) -> None:
        clock = self._time.clock()
        if clock >= self._told + TELL_SECONDS:
            self._told = clock
            self._unread(destination, reason)


def _strike(gone: set[tuple[int, int]], messages: list[Message]) -> None:
    """Takes out what left memory since the load began."""
    for message in messages if gone else ():
        message.recipients = [r for r in message.recipients if (message.id, r.number) not in gone]
