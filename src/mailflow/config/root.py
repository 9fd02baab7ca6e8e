"""The base of the root settings class: how it is loaded, what it must add, and where its values came from.

Callers: `Settings.load`. A subclass adds its fields, `relative_to` (paths), `prepare` (values that are derived
from others or from the machine) and `mistakes` (what takes more than one value to judge).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from mailflow.config.check import check
from mailflow.config.positions import KeyPath, format_key
from mailflow.config.raw import parse_key
from mailflow.config.sources import Origin, Sources, gather
from mailflow.errors import ConfigError, ConfigProblem
from mailflow.paths import base_of
from mailflow.setting import Section


@dataclass(frozen=True, slots=True)
class Mistake:
    """Values that are right each by itself and wrong together, or on this machine."""

    path: KeyPath
    message: str
    accepted: str = ""


class Root(Section):
    """A settings class that can be loaded."""

    _sources: Sources = PrivateAttr(default_factory=Sources)

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str] | None,
        *,
        environment: Mapping[str, str] | None = None,
        overrides: Sequence[str] = (),
    ) -> Self:
        """Settings from all sources: `--set` before environment before file before defaults.

        Args:
            file: the TOML file; None for none. Relative paths in the settings are relative to its directory.
            environment: the variables `MAILFLOW_…` are read from here; default: this process's environment.
            overrides: texts "key=value".

        Raises:
            ConfigError: with one problem for every mistake.
        """
        path = None if file is None else Path(file)
        sources = gather(cls, path, os.environ if environment is None else environment, overrides)
        if not sources.unreadable:
            for derived, words in cls.prepare(sources.tree).items():
                written = sources.origin(derived)
                sources.origins[derived] = Origin(f"{written}, {words}" if written else words)
        settings = None if sources.unreadable else check(cls, sources)
        if sources.problems or settings is None:
            raise ConfigError(sorted(sources.problems, key=lambda p: (p.line == 0, p.line)))
        loaded = settings.relative_to(base_of(path))
        loaded._sources = sources  # noqa: SLF001 - our own
        loaded.verify()
        return loaded

    def verify(self) -> None:
        """Raises ConfigError when the values do not fit each other or this machine."""
        problems = [self._problem(mistake) for mistake in self.mistakes()]
        if problems:
            raise ConfigError(problems)

    def _problem(self, mistake: Mistake) -> ConfigProblem:
        origin = self._sources.origin(mistake.path) or Origin("")
        key = format_key(mistake.path)
        return ConfigProblem(mistake.message, file=origin.file, line=origin.line, key=key, accepted=mistake.accepted)

    def origin(self, key: str) -> str:
        """Where the value of a key was written, "mailflow.toml:12"; "" for a default. Keys are as in `listener[0].bind`."""
        found = self._sources.origin(parse_key(key))
        return str(found) if found else ""

    def written(self, path: KeyPath) -> str:
        """The same for exactly this value: "" when a table was written and this key of it was not."""
        place: Any = self._sources.tree
        for part in path:
            try:
                place = place[part]
            except (KeyError, IndexError, TypeError):
                return ""
        return str(self._sources.origin(path) or "")

    # For subclasses

    @classmethod
    def prepare(cls, tree: dict[str, Any]) -> dict[KeyPath, str]:  # noqa: ARG003
        """Fills in, before the check, what is derived; tells for each such key in words where it came from."""
        return {}

    def relative_to(self, base: Path) -> Self:  # noqa: ARG002
        """A copy whose relative paths begin at `base`."""
        return self

    def mistakes(self) -> Iterable[Mistake]:
        """What is wrong with the whole of it."""
        return ()
