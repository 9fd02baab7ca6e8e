"""The settings of lookup tables: `[table.NAME]`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from mailflow.setting import Section, setting


class TableSettings(Section):
    """A lookup table, named so that rules can use it: `client = ["table:NAME"]`, `check = "check_client_access NAME"`."""

    type: Literal["inline", "text", "cidr", "regexp"] = setting("inline")
    """"inline": `entries`; "text": a file with a key and, behind blanks, its value on each line; "cidr": networks in place of keys;
    "regexp": regular expressions in place of keys (between slashes in a file). Of "cidr" and "regexp" the first that matches counts."""
    entries: dict[str, str] = setting({})
    """Keys and values, where they stand in the configuration itself. A value may be empty where only the key matters."""
    file: Path | None = setting(None)
    """Where they stand in a file. "#" begins a comment line. Read again, beside the work, when it has changed; a file
    that cannot be used then leaves the old entries in force, with a line in the log."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.type == "text" and self.file is None:
            raise ValueError('a table of type "text" needs a `file` (accepted: a path; without a file, type "inline")')
        if self.type == "inline" and self.file is not None:
            raise ValueError('a table of type "inline" has no `file` (accepted: type "text", "cidr" or "regexp")')
        if self.file is not None and self.entries:
            raise ValueError("`file` and `entries` exclude each other (accepted: one of them)")
        return self
