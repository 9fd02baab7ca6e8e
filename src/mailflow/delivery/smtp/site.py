"""The connections of one destination, and who gets which: the agent's policy in one place.

A job goes to the first of these that there is (`_place`):
1. an idle connection, the one used last: written at once, synchronously;
2. a connection with one small message under way whose host pipelines and has proven itself, once there are enough
   connections (`enough`): the envelope leaves behind that message's body, one round trip and two system calls less;
3. the queue of those who wait, for which connections are opened (`worth_opening`): three quarters of the limit at once,
   and all of it when somebody has waited for `PATIENCE`. A quick host serves them before that, and few connections that
   are always busy cost less, for both sides, than many; but each carries one message in a turn of the loop, and with few
   there is little to do in a turn. While the host has not yet taken a message from us it gets no more than these: it
   may be slow, or dislike us.

Invariants: each job that is submitted is finished once; while jobs wait, there is a connection busy or being
opened; a connection is in `_idle` only with load 0, in `_half` only with load 1.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from mailflow.delivery.request import Fact, Stage, Trouble
from mailflow.delivery.settings import SmtpSettings
from mailflow.delivery.smtp.connect import Connector, NoConnection
from mailflow.delivery.smtp.connection import Connection
from mailflow.delivery.smtp.hosts import Host
from mailflow.delivery.smtp.job import Job, end_words
from mailflow.report import HostAttempt
from mailflow.setting import Endpoint
from mailflow.smtp.reply import Reply
from mailflow.smtp.transaction import End, Step, Transaction

MAX_WAITING = 1000
"""Jobs of one destination that wait for a connection; the scheduler's window is far smaller. More come back unattempted."""
PATIENCE = 0.1
"""Seconds that a job waits for one of the connections there are before it is worth more of them."""
UNATTEMPTED = Fact(Stage.CONNECT, None, Trouble.UNATTEMPTED)

_new = tuple.__new__  # makes a named tuple without its constructor, which takes twice as long
_DOT = Stage.DOT  # a global is found faster than an enum's member

T = TypeVar("T")


class Household(Protocol):
    """What the sites of one agent share."""

    settings: SmtpSettings
    connector: Connector
    now: Callable[[], float]
    idle: int
    """Idle connections of all sites together."""

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]: ...
    def spawn_opening(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]: ...
    def quieter(self) -> None: ...
    def forget(self, site: Site) -> None: ...


def enough(limit: int) -> int:
    """So many connections that jobs rather share one than open another at once."""
    return max(1, limit * 3 // 4)


def worth_opening(waiting: int, opening: int, connections: int, allowed: int, *, depth: int) -> int:
    """How many connections to open now, for so many jobs that wait, of which a connection will take `depth`."""
    return max(0, min(-(-waiting // depth) - opening, allowed - connections - opening))


class Site:
    """One destination."""

    __slots__ = (
        "_addresses",
        "_closing",
        "_connections",
        "_depth",
        "_detours",
        "_endpoint",
        "_enough",
        "_half",
        "_home",
        "_idle",
        "_limit",
        "_opening",
        "_patience",
        "_proven",
        "_waiting",
        "next_hop",
    )

    def __init__(self, next_hop: str, endpoint: Endpoint, home: Household) -> None:
        self.next_hop = next_hop
        self._endpoint = endpoint
        self._home = home
        self._limit = home.settings.connections
        self._enough = enough(self._limit)
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._half: dict[Connection, None] = {}
        self._opening = 0
        self._detours = 0
        self._waiting: deque[Job] = deque()
        self._proven = False
        self._depth = 1
        self._addresses = 1
        self._closing = False
        self._patience: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return (
            f"<Site {self.next_hop} connections={len(self._connections)} idle={len(self._idle)} "
            f"half={len(self._half)} opening={self._opening} waiting={len(self._waiting)}>"
        )

    @property
    def empty(self) -> bool:
        """Whether nothing is here that anybody could miss."""
        return not (self._connections or self._opening or self._detours or self._waiting)

    def submit(self, job: Job) -> None:
        """Takes a job: it is begun, or waits for a connection."""
        connection = self._place()
        if connection is not None:
            connection.run(job)
            if connection.takes_second():
                self._half[connection] = None
        elif self._closing or len(self._waiting) >= MAX_WAITING:
            # not at once: the caller may be in the middle of handing out jobs, and would get them back endlessly
            asyncio.get_running_loop().call_soon(job.fail, UNATTEMPTED)
        else:
            job.began = 0.0
            self._waiting.append(job)
            if self._patience is None:
                self._grow()

    def close(self) -> None:
        """Takes no more jobs; those that wait come back, idle connections are closed."""
        self._closing = True
        if self._patience is not None:
            self._patience.cancel()
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.fail(UNATTEMPTED)
        for connection in list(self._idle):
            connection.hang_up()

    # Policy

    def _place(self) -> Connection | None:
        """The connection that takes the next job now, out of its list."""
        if self._idle:
            self._home.idle -= 1
            return self._idle.pop()
        if self._half and len(self._connections) >= self._enough:
            return self._half.popitem()[0]
        return None

    def _free(self, connection: Connection) -> None:
        """The connection may have room: for those who wait, else it is noted down."""
        if connection.is_gone:
            return
        if connection.load == 0:
            self._unloaded(connection)
        if connection.takes_second():
            if self._waiting and len(self._connections) >= self._enough:
                connection.run(self._waiting.popleft())
            else:
                self._half[connection] = None
        if self._waiting and self._patience is None:
            self._grow()

    def _unloaded(self, connection: Connection) -> None:
        """Nothing is on the connection: another job, its end, or a place among the idle ones."""
        settings = self._home.settings
        self._half.pop(connection, None)
        if self._closing or connection.spare or connection.served >= settings.messages_per_connection:
            connection.quit()
        elif self._waiting:
            connection.run(self._waiting.popleft())
        elif self._home.idle >= settings.idle_connections:
            connection.quit()
        else:
            self._home.idle += 1
            connection.kept = True
            self._idle.append(connection)

    def _grow(self, *, urgent: bool = False) -> None:
        """Opens connections for those who wait, or looks again in a while whether they still do."""
        connections, opening, waiting = len(self._connections), self._opening, len(self._waiting)
        if not urgent and connections + opening >= self._enough:
            if self._patience is None and self._proven and connections < self._limit and not self._closing:
                loop = asyncio.get_running_loop()
                self._patience = loop.call_later(PATIENCE, self._look_again, self._waiting[-1])
            return
        allowed = self._limit if urgent else self._enough
        for _ in range(worth_opening(waiting, opening, connections, allowed, depth=self._depth)):
            self._opening += 1
            task = self._home.spawn_opening(self._home.connector.open(self._endpoint, self))
            task.add_done_callback(self._opened)

    def _look_again(self, job: Job) -> None:
        """`PATIENCE` has passed since this job was the last in the queue."""
        self._patience = None
        if self._waiting:
            self._grow(urgent=job.began == 0.0)

    # What connections tell

    def finished(self, connection: Connection, transaction: Transaction) -> None:
        """A transaction has all its answers: the connection is free before the job ends, as its end may bring the next."""
        job: Job = transaction  # type: ignore[assignment] # a connection is given nothing else
        reply = job.delivered()
        if reply is not None:
            self._delivered(connection, job, reply)
            return
        last = job.answers[-1]
        again = False
        if last is None or last[1] is None or last[1].code == 421:
            again = _untouched(connection, job) and not self._closing and job.restart()
        if again and connection.kept:
            # those kept longer are no better
            for other in list(self._idle):
                other.hang_up()
        if not again:
            self._count(connection)
            record = self._record(connection, job, end_words(job.answers))
            others = self._addresses > 1 and self._has_others(job, connection.host)
            job.take_in(record, other_hosts=others, soft=self._home.settings.protocol_error_class == "temporary")
        self._free(connection)
        if not job.open:
            job.finish()
        elif again or not job.wants_other_host():
            self.submit(job)
        else:
            self._detour(job)

    def _delivered(self, connection: Connection, job: Job, reply: Reply) -> None:
        """The same for what nearly every transaction is: nothing is left open, and no other host is asked."""
        self._count(connection)
        words = reply.text
        record = self._record(connection, job, words)
        delivery = job.delivery
        delivery.hosts.append(record)
        delivery.facts.append(_new(Fact, (_DOT, reply, None, record, words, False)))
        self._free(connection)
        job.give_back()

    def _count(self, connection: Connection) -> None:
        connection.served += 1
        if not self._proven and not connection.is_gone:
            self._proven = True
            self._depth = 2 if connection.client.extensions.pipelining else 1

    def _record(self, connection: Connection, job: Job, words: str) -> HostAttempt:
        host = connection.host
        seconds = connection.time() - job.began
        return HostAttempt(host.name, host.address, host.port, words, self._home.now(), seconds)

    def _has_others(self, job: Job, host: Host) -> bool:
        """Whether there are hosts that the job has not tried; this one now counts as tried."""
        job.tried += (host.key,)
        return not self._closing and len(set(job.tried)) < self._addresses

    def gone(self, connection: Connection) -> None:
        """The connection takes no more jobs."""
        self._connections.discard(connection)
        self._half.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)
            self._home.idle -= 1
        if self._waiting:
            self._grow()
        if self.empty:
            self._home.forget(self)

    def closed(self, _connection: Connection) -> None:
        """The connection's socket is closed."""
        self._home.quieter()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs work of a connection."""
        return self._home.spawn(work)

    # Slow path

    def _opened(self, task: asyncio.Task[tuple[Connection, int]]) -> None:
        """A connection for those who wait; if it was the last hope and failed, they hear why there is none."""
        self._opening -= 1
        connection = self._result(task)
        if isinstance(connection, Connection):
            self._connections.add(connection)
            self._free(connection)
            return
        if not self._connections and not self._opening:
            waiting, self._waiting = self._waiting, deque()
            for job in waiting:
                job.delivery.hosts.extend(connection.attempts)
                job.fail(connection.fact)
        if self.empty:
            self._home.forget(self)

    def _detour(self, job: Job) -> None:
        """Tries the hosts that are left for a job that one has turned away (RFC 5321 §5.1)."""
        self._detours += 1
        task = self._home.spawn_opening(self._home.connector.open(self._endpoint, self, job.tried))
        task.add_done_callback(lambda task: self._detoured(job, task))

    def _detoured(self, job: Job, task: asyncio.Task[tuple[Connection, int]]) -> None:
        self._detours -= 1
        connection = self._result(task)
        if isinstance(connection, Connection):
            connection.spare = True
            self._connections.add(connection)
            connection.run(job)
        else:
            job.delivery.hosts.extend(connection.attempts)
            job.fail(UNATTEMPTED)  # for those only who have no fact yet; else the word of the host before stands
        if self.empty:
            self._home.forget(self)

    def _result(self, task: asyncio.Task[tuple[Connection, int]]) -> Connection | NoConnection:
        """What an opening brought; whatever went wrong, those who wait must hear of it."""
        if task.cancelled():
            return NoConnection(UNATTEMPTED, [])
        error = task.exception()
        if error is None:
            connection, self._addresses = task.result()
            if not connection.is_gone:
                return connection
            # lost between the task's end and now; must count, or such a host would be tried without end
            fact = self._home.connector.why_gone(connection, asyncio.get_running_loop().time())
            return NoConnection(fact, [fact.host] if fact.host is not None else [])
        if isinstance(error, NoConnection):
            return error
        asyncio.get_running_loop().call_exception_handler(
            {"message": "opening a connection failed", "exception": error}
        )
        return NoConnection(Fact(Stage.CONNECT, None, Trouble.IO_ERROR), [])


def _untouched(connection: Connection, job: Job) -> bool:
    """Whether the host has done nothing about this message, so that another connection may have it as if it were new.

    That is so behind a message under which the connection was lost, and on a kept connection that the
    host had closed, or was closing (421), before our MAIL came.
    """
    if job.answers[0] is None:
        return False
    step, reply, end = job.answers[0]
    if end is End.NOT_BEGUN:
        return True
    stale = end is End.LOST or (reply is not None and reply.code == 421)
    return stale and step in (Step.MAIL, Step.RSET) and (connection.kept or connection.served > 0)
