"""`mailflow serve`: one server in a process of its own, on uvloop, in the foreground.

SIGTERM and SIGINT stop it cleanly; a second one while it stops ends the process at once. SIGHUP opens the log file
again and looks for renewed certificates. `ready` is logged, and told to systemd, when every listener accepts.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import sys
from collections.abc import Callable

import uvloop

from mailflow.notify import notify
from mailflow.server import Server
from mailflow.settings import Settings

SWITCH_SECONDS = 0.001
"""How long one thread may keep the interpreter when another wants it. The default of 5 ms lets the queue's writer wait
that long behind a busy event loop each time it comes back from the database."""
FIRST_GENERATION = 20_000
"""Allocations between two runs of the garbage collector: what is made for a message is freed by counting references."""


def serve(settings: Settings, ready: Callable[[Server], None] | None = None) -> int:
    """Runs a server until it is told to stop; returns the exit code: 0, or 1 when its queue has failed.

    `ready` is called once when every listener accepts. Raises what `Server.start` raises.
    """
    _raise_file_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(FIRST_GENERATION, 50, 100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, ready))


def _raise_file_limit() -> None:
    """Sessions and deliveries need a descriptor each; the usual soft limit of 1,024 is there for select(2) only."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: Settings, ready: Callable[[Server], None] | None) -> int:
    server = Server(settings)
    await server.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            sys.exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    gc.freeze()
    server.log.event("ready", listen=" ".join(server.places), hostname=settings.hostname)
    notify("READY=1")
    if ready:
        ready(server)
    stopping = asyncio.ensure_future(stop.wait())
    broken = asyncio.ensure_future(server.broken.wait())
    await asyncio.wait({stopping, broken}, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    stopping.cancel()
    broken.cancel()
    await server.stop()
    return 1 if server.broken.is_set() else 0
