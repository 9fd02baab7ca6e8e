"""What a back end of AUTH is, and the threads that slow verification runs in.

A back end answers with the login as it is to be known from now on (its spelling, with a domain or without), with None
for a wrong password as for an unknown user, or raises `Unavailable` when it cannot tell. One that knows no user of that
name does the same work as for a wrong password, so that the time tells nothing. It never blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar

from mailflow.smtp.scram import Keys

T = TypeVar("T")

SCRAM_ITERATIONS = 100_000
"""Of new SCRAM keys: some 50 ms for who has the password, as argon2; clients calculate it at each login."""


class Unavailable(Exception):
    """It cannot be told now whether a password is right: the client hears 454 and may try again. The text is for the log."""


class Attempt(NamedTuple):
    """One password to be verified."""

    login: str
    password: str
    client: str = ""
    """IP address of the client."""
    secured: bool = True
    """Whether the connection is encrypted."""

    def __repr__(self) -> str:
        return f"<Attempt {self.login!r} from {self.client}>"  # the password stays out of tracebacks and logs


class Backend(Protocol):
    """A place where logins and passwords are known."""

    @property
    def cached(self) -> bool:
        """Whether a right password may be remembered for `auth.cache`."""
        ...

    @property
    def has_keys(self) -> bool:
        """Whether it may know SCRAM keys."""
        ...

    @property
    def generation(self) -> int:
        """Another number when what was remembered is no longer good."""
        ...

    async def start(self) -> None:
        """Gets ready. Raises ConfigError when the server must not start so."""
        ...

    async def close(self) -> None:
        """Gives back what it holds."""
        ...

    async def refresh(self) -> None:
        """Called before each look into the cache: notices what has changed, where that costs little."""
        ...

    async def verify(self, attempt: Attempt) -> str | None:
        """The login as it is to be known, or None. Raises Unavailable."""
        ...

    async def keys(self, login: str) -> tuple[str, Keys] | None:
        """For SCRAM: the login as it is to be known, and its keys; None without any. Raises Unavailable."""
        ...

    def iterations(self, login: str) -> int:
        """How many iterations the made-up SCRAM keys of an unknown login have; the same each time."""
        ...


class TokenCheck(Protocol):
    """Someone who knows whom a bearer token is for."""

    async def start(self) -> None:
        """Gets ready."""
        ...

    async def close(self) -> None:
        """Gives back what it holds."""
        ...

    async def check(self, login: str, token: str) -> str | None:
        """The login that the token is for; None when it is no good, or for another than `login`. Raises Unavailable."""
        ...


class Base:
    """The parts of a back end that most have nothing to say about."""

    cached = True
    has_keys = False
    generation = 0

    async def start(self) -> None:
        """Nothing to get ready."""

    async def close(self) -> None:
        """Nothing to give back."""

    async def refresh(self) -> None:
        """Nothing changes."""

    async def keys(self, login: str) -> tuple[str, Keys] | None:  # noqa: ARG002
        """No keys are kept here."""
        return None

    def iterations(self, login: str) -> int:  # noqa: ARG002
        """As many as new entries have."""
        return SCRAM_ITERATIONS


class Pool:
    """A few threads and a bounded queue before them. The threads are daemons: one that hangs does not keep the server alive."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        """At most `threads` at work and `waiting` behind them."""
        self._name = name
        self._threads = threads
        self._most = threads + waiting
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started = 0
        self.under_way = 0

    def __repr__(self) -> str:
        return f"<Pool {self._name} {self.under_way}/{self._most}>"

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives or raises, from a thread. Raises Unavailable when too much is waiting already."""
        if self.under_way >= self._most:
            raise Unavailable(f"{self._name}: {self.under_way} are waiting already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            result, error = None, None
            if not future.cancelled():
                try:
                    result = work()
                except BaseException as failure:  # noqa: BLE001 - it is raised where it is awaited
                    error = failure
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(self._settle, future, result, error)

        self.under_way += 1
        self._jobs.put(job)
        if self._started < min(self._threads, self.under_way):
            self._started += 1
            threading.Thread(target=self._work, name=f"mailflow-{self._name}", daemon=True).start()
        return await future

    def close(self) -> None:
        """Ends the threads, each after what it is at."""
        for _ in range(self._started):
            self._jobs.put(None)
        self._started = 0

    def _settle(self, future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
        self.under_way -= 1
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
