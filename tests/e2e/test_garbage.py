"""What is made for a message and a connection is freed when they end, and waits for no garbage collector (wish 62).

A cycle of references kept every message that came from disk in memory until the collector's rare second generation: 3 KB each,
250 MiB in a flood.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from pathlib import Path

import pytest
import uvloop

from mailflow.server import Server
from tests.e2e.test_api import settings
from tests.support.sink import Sink
from tests.support.tools import free_port

MESSAGES = 30


async def _send(port: int, messages: int) -> None:
    """Some messages with a connection each."""
    for number in range(messages):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for line in (
            "EHLO client.test",
            "MAIL FROM:<a@client.test>",
            f"RCPT TO:<user{number}@remote.test>",
            "DATA",
            "Subject: x\r\n\r\nText\r\n.",
            "QUIT",
        ):
            writer.write(line.encode() + b"\r\n")
        assert b"221" in await reader.read()
        writer.close()
        await writer.wait_closed()


@pytest.mark.wish(62)
def test_nothing_of_mailflow_is_left_to_the_garbage_collector(tmp_path: Path, sink: Sink) -> None:
    left: Counter[str] = Counter()

    async def main() -> None:
        port = free_port()
        server = Server(settings(tmp_path, sink, listener=[{"bind": f"127.0.0.1:{port}"}]))
        await server.start()
        await _send(port, 3)
        gc.collect()
        gc.disable()
        await _send(port, MESSAGES)
        async with asyncio.timeout(20):
            while (await server.queue.counts()).recipients:
                await asyncio.sleep(0.001)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left.update(type(thing).__qualname__ for thing in gc.garbage if type(thing).__module__.startswith("mailflow"))
        await server.stop()

    try:
        uvloop.run(main())
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert max(left.values(), default=0) < MESSAGES // 2, left
