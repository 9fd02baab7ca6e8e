"""Servers as processes: what most end-to-end tests begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Server
from tests.support.sink import Sink

QUICK = {"backoff": ["200ms", "400ms"]}
"""Retries soon enough for a test."""
PROBES = {"probe": ["200ms", "400ms"], "dead_after": 10}


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A next hop that takes everything."""
    with Sink() as running:
        yield running


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers; each has a folder of its own and is ended with the test."""
    with ExitStack() as stack:
        count = iter(range(100))

        def start(**sections: Any) -> Server:
            return stack.enter_context(Server(tmp_path / f"server{next(count)}", **sections))

        yield start


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """A server for alice and bob at example.test."""
    return serve()


@pytest.fixture
def relay(serve: Callable[..., Server], sink: Sink) -> Server:
    """A server that sends all other mail to `sink`, with quick retries."""
    return serve(relay={"host": sink.next_hop}, queue=QUICK, scheduler=PROBES)
