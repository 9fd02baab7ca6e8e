"""What is written, before anybody knows what it means: the text of a file, and the keys that names stand for.

Nothing here knows the settings, and nothing here imports pydantic: `peek.py` must start fast. `sources.py` builds on the same.
"""

from __future__ import annotations

import re
from pathlib import Path

from mailflow.config.positions import KeyPath

PREFIX = "MAILFLOW_"
RESERVED = frozenset({"MAILFLOW_CONFIG"})
SECRET = "_FILE"  # noqa: S105 - the end of a variable's name
"""Behind a variable's name: its value is a file's name, and what is in the file counts."""
SIZE_LIMIT = 4 * 2**20  # bytes of a configuration or secret file; a larger one is surely not meant


def read_file(file: Path) -> str:
    """The text of a configuration or secret file. Raises OSError, or ValueError when it cannot be one."""
    with file.open("rb") as stream:
        data = stream.read(SIZE_LIMIT + 1)
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"is larger than {SIZE_LIMIT >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 text (at line {line}, column 1)") from None


def parse_key(text: str) -> KeyPath:
    """The path of a key in TOML notation: "listener[0].bind"; "listener.0.bind" is understood too."""
    return _split(re.sub(r"\[(\d+)\]", r".\1", text.strip()), ".")


def parse_variable(name: str) -> KeyPath:
    """The path of the key that an environment variable stands for: "MAILFLOW_LISTENER__0__BIND" is listener[0].bind."""
    return _split(name.removeprefix(PREFIX).lower(), "__")


def _split(text: str, separator: str) -> KeyPath:
    return tuple(int(part) if part.isdecimal() and part.isascii() else part for part in text.split(separator))
