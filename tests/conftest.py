"""For all tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.support.form import COMPILED

# An example that takes long on a busy machine says nothing about the code; a test as a whole has its time limit.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

LONGEST_STORY = 20
"""Seconds that a test's story may take on its loop."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what cannot be said of compiled code: it has no lines to count, and nothing in it can be replaced."""
    for item in items:
        if COMPILED and (mark := item.get_closest_marker("interpreted")):
            item.add_marker(pytest.mark.skip(reason=f"not of compiled code: {mark.args[0]}"))


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a test's story, once on each kind of loop."""
    loop_factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(story: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LONGEST_STORY):
                await story()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(bounded())

    return run
