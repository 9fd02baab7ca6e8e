"""What every table is, and what is wrong with one."""

from __future__ import annotations

from typing import Protocol

from mailflow.errors import MailflowError

KEY_CHARACTERS = 255
"""Longest key that is looked up; a longer one is in no table. No address and no host name is longer (RFC 5321 §4.5.3.1)."""


class TableError(MailflowError):
    """An entry that cannot be used."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line
        """In the table's file, counted from 1; 0 for no file."""


class Table(Protocol):
    """Text keys to text values, in memory. Keys are compared without regard to case."""

    @property
    def patterns(self) -> bool:
        """Whether its entries are patterns for whole keys: then parts of a key (the domain of an address) are not looked up."""
        ...

    def get(self, key: str, /) -> str | None:
        """The value of a key, None when there is none. Answers at once, never raises."""
        ...
