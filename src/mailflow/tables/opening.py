"""The tables of a configuration, made from it and kept as new as their files.

`Tables` maps names to tables. What a name gives is a `Live` table, the same object as long as the server runs; its
entries are replaced as a whole when its file has changed. The loop never waits for a file: `watch` looks and reads in a
thread, every `LOOK_SECONDS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.tables.kinds import make, read_entries
from mailflow.tables.settings import TableSettings
from mailflow.tables.table import Table, TableError

LOOK_SECONDS = 5.0
"""How often the files of tables are looked at."""
FILE_BYTES = 256 * 2**20
"""Largest file of a table; a larger one belongs into a database."""

State = tuple[int, int, int]
"""Inode, size, and time of the last change in ns."""


class Live:
    """A table whose entries may be replaced."""

    __slots__ = ("_state", "_table", "name", "patterns", "settings")

    def __init__(self, name: str, settings: TableSettings) -> None:
        """Reads a file, if it is one. Raises TableError, OSError."""
        self.name = name
        self.settings = settings
        self._state: State | None = None
        if settings.file is None:
            self._table = make(settings.type, [(key, value, 0) for key, value in settings.entries.items()])
        else:
            self._state, self._table = _read(settings.type, settings.file)
        self.patterns = self._table.patterns

    def __repr__(self) -> str:
        return f"<Live {self.name} {self._table}>"

    def get(self, key: str, /) -> str | None:
        """As `Table.get`."""
        return self._table.get(key)

    def refresh(self) -> bool:
        """Reads the file again if it has changed; True when it was read. Raises TableError, OSError; then the old stays."""
        file = self.settings.file
        if file is None:
            return False
        try:
            state = _state(file)
        except OSError:
            if self._state is None:
                return False
            self._state = None
            raise
        if state == self._state:
            return False
        self._state = state  # a file that cannot be used is not tried again, or complained of, before it changes
        self._state, self._table = _read(self.settings.type, file)
        return True


class Tables(Mapping[str, Table]):
    """All tables of a configuration, by name."""

    def __init__(self, settings: Mapping[str, TableSettings]) -> None:
        """Reads all files. Raises ConfigError, with a problem for each table that cannot be used."""
        self._tables: dict[str, Live] = {}
        problems = []
        for name, each in settings.items():
            try:
                self._tables[name] = Live(name, each)
            except TableError as error:
                problems.append(
                    ConfigProblem(str(error), file=str(each.file or ""), line=error.line, key=f"table.{name}")
                )
            except (OSError, ValueError) as error:
                words = error.strerror if isinstance(error, OSError) else str(error)
                problems.append(ConfigProblem(f"{each.file} cannot be read: {words}", key=f"table.{name}.file"))
        if problems:
            raise ConfigError(problems)

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def change(self) -> bool:
        """Whether some table comes from a file."""
        return any(table.settings.file is not None for table in self._tables.values())

    async def watch(self, warn: Callable[[str], None], seconds: float = LOOK_SECONDS) -> None:
        """Keeps the tables as new as their files, until it is cancelled. `warn` is told what is wrong with a file."""
        while True:
            await asyncio.sleep(seconds)
            await self.refresh(warn)

    async def refresh(self, warn: Callable[[str], None]) -> None:
        """Looks at all files once."""
        for table in self._tables.values():
            if table.settings.file is not None:
                try:
                    await asyncio.to_thread(table.refresh)
                except (TableError, OSError, ValueError) as error:
                    where = (
                        f"{table.settings.file}:{error.line}" if isinstance(error, TableError) else table.settings.file
                    )
                    warn(f"table {table.name} stays as it was: {where}: {error}")


def _state(file: Path) -> State:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(kind: str, file: Path) -> tuple[State, Table]:
    """A file's state and its entries. Looked at first: a change while it is read is seen the next time."""
    state = _state(file)
    with file.open("rb") as stream:
        data = stream.read(FILE_BYTES + 1)
    if len(data) > FILE_BYTES:
        raise ValueError(f"is larger than {FILE_BYTES >> 20} MiB")
    return state, make(kind, read_entries(kind, data.decode()))
