"""Where a server's files are, and whether they can be there: for the settings, and for commands that start without them."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_SPOOL = Path("var/spool")
CONTROL_SOCKET = "control.sock"
"""The control socket's name in the spool, when the configuration has none."""
SOCKET_PATH_LIMIT = 107
"""Bytes in the path of a UNIX socket: sun_path holds 108 with the closing NUL (unix(7))."""


def base_of(file: Path | None) -> Path:
    """The directory that relative paths of a configuration file begin at; the working directory when there is none."""
    return Path.cwd() if file is None else file.absolute().parent


def below(base: Path, path: str | Path) -> Path:
    """The path from `base`, without "..": short paths fit into a socket's address, and read better."""
    return Path(os.path.normpath(base.resolve() / path))


def cannot_make(directory: Path) -> str:
    """Why a directory is not there and cannot be made; "" when it is or can. Nothing is made."""
    for place in (directory, *directory.parents):
        if place.is_dir():
            if os.access(place, os.W_OK | os.X_OK):
                return ""
            return (
                f"{place} is not writable for this user"
                if place == directory
                else f"{directory} cannot be made: {place} is not writable for this user"
            )
        if place.exists():
            return f"{place} is not a directory"
    return f"{directory} does not exist"
