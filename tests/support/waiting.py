"""Waiting for the thing instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 20.0
"""Seconds until a test gives up; far above what anything here takes on a busy machine."""


def wait_for(look: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
    """The first true value of `look()`; fails the test, naming `what`, when none comes in time (seconds)."""
    until = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {found!r}")
        time.sleep(0.01)
