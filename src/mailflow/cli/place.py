"""Where the queue and the control socket of a server are: all that most commands about the queue need of its configuration.

Read in passing (`config.peek`), for these commands are called by scripts and monitors, and by an operator at night whose
configuration has a mistake somewhere else: the queue can be looked at nevertheless, and a running server be asked. Where
there is any doubt, and where no queue or server is found, the whole configuration is loaded, and says what is wrong with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mailflow.config.peek import Doubt, peek
from mailflow.config.positions import KeyPath
from mailflow.paths import CONTROL_SOCKET, DEFAULT_SPOOL, SOCKET_PATH_LIMIT, base_of, below, cannot_make
from mailflow.store.schema import database

__all__ = ["Doubt", "Place", "find_place"]

SPOOL: KeyPath = ("spool",)
ENABLED: KeyPath = ("control", "enabled")
SOCKET: KeyPath = ("control", "socket")
VALUES = ("hostname", "domain", "spool", "shutdown_grace")
"""The settings at the top level that are no tables."""


class Place(NamedTuple):
    """Where one server is."""

    spool: Path
    control: Path | None
    """Its control socket; None when the configuration has none."""


def find_place(file: Path | None, environment: Mapping[str, str], overrides: Sequence[str]) -> Place:
    """The place of the server that has this configuration, with a queue in it. Raises Doubt."""
    found = peek((SPOOL, ENABLED, SOCKET), VALUES, file, environment, overrides)
    try:
        return _place(base_of(file), found)
    except (OSError, RuntimeError, ValueError):  # not to be entered, links in a circle, no path at all
        raise Doubt from None


def _place(base: Path, found: Mapping[KeyPath, Any]) -> Place:
    spool = _path(base, found, SPOOL, DEFAULT_SPOOL)
    socket = _path(base, found, SOCKET, spool / CONTROL_SOCKET)
    enabled = found.get(ENABLED, True)
    if not isinstance(enabled, bool):
        raise Doubt
    # What `Settings.mistakes` says about these two; and without a queue, perhaps this is not the place.
    too_long = enabled and len(os.fsencode(socket)) > SOCKET_PATH_LIMIT
    if too_long or cannot_make(spool) or not database(spool).exists():
        raise Doubt
    return Place(spool, socket if enabled else None)


def _path(base: Path, found: Mapping[KeyPath, Any], key: KeyPath, default: Path) -> Path:
    value = found.get(key, default)
    if not value or not isinstance(value, str | Path):
        raise Doubt
    return below(base, value)
