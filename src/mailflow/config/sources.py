"""Where settings come from: a TOML file, the environment, secret files, `--set` on the command line.

`gather` merges them into one tree and remembers for every value where it was written. The order of precedence is
`--set`, environment, file; whatever none of them names keeps its default. Mistakes are collected, not raised, so that
the operator sees all of them at once. Whether values are right is not decided here (`check.py`).

Environment: `MAILFLOW_RELAY__HOST` is `relay.host`, `MAILFLOW_LISTENER__0__BIND` is `listener[0].bind`; with `_FILE` behind
the name, the value is read from the file named (for secrets). `MAILFLOW_CONFIG` names the configuration file itself.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mailflow.config.positions import KeyPath, format_key, positions
from mailflow.config.raw import PREFIX, RESERVED, SECRET, parse_key, parse_variable, read_file
from mailflow.config.suggest import nearest, setting_paths, suggest
from mailflow.config.texts import annotation_at, read_text
from mailflow.errors import ConfigProblem

INDEX_LIMIT = 1000  # elements of a list that are named one by one

_PLACE = re.compile(r"^(.*) \(at (?:line (\d+), column \d+|end of document)\)$")
_TWICE = re.compile(r"overwrite|twice|Cannot mutate|already exists", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written."""

    file: str
    """The file's name as it was given, or "environment variable X", or "command line"."""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(slots=True)
class Sources:
    """All that was written, merged, not yet checked."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)
    unreadable: bool = False
    """Whether the file could not be read, so that checking the rest would only add false alarms."""

    def origin(self, path: KeyPath) -> Origin | None:
        """Where the value at a path, or the nearest table or list around it, was written; None for a default."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return None

    def put(self, path: KeyPath, value: object, origin: Origin) -> None:
        """Sets one value over what is there. Raises ValueError when the path leads through something else."""
        place: Any = self.tree
        for part, following in itertools.pairwise(path):
            place = _enter(place, part, [] if isinstance(following, int) else {})
        _enter(place, path[-1], None)
        place[path[-1]] = value
        for known in [p for p in self.origins if p[: len(path)] == path]:
            del self.origins[known]
        self.origins[path] = origin

    def complain(self, message: str, origin: Origin | None, key: str = "") -> None:
        """Notes a mistake; an "(accepted: …)" at the end of the message is taken as such."""
        text, _, accepted = message.removesuffix(")").partition(" (accepted: ")
        if not accepted:
            text = message
        file, line = (origin.file, origin.line) if origin else ("", 0)
        self.problems.append(ConfigProblem(text, file=file, line=line, key=key, accepted=accepted))


def _enter(place: Any, part: str | int, missing: Any) -> Any:
    """The value at one step of a path; made when missing."""
    if isinstance(part, str) and isinstance(place, dict):
        return place.setdefault(part, missing)
    if isinstance(part, int) and isinstance(place, list) and part <= len(place) < INDEX_LIMIT:
        if part == len(place):
            place.append(missing)
        return place[part]
    raise ValueError("does not fit what is set already (indices count from 0 without gaps)")


def gather(
    model: type[BaseModel],
    file: Path | None,
    environment: Mapping[str, str],
    overrides: Sequence[str],
) -> Sources:
    """Reads all sources. `overrides` are texts "key=value"; `model` tells the types."""
    sources = Sources()
    if file is not None:
        _read_toml(sources, file)
    for name in sorted(environment, key=lambda n: (n.count("__"), n)):  # whole lists before their elements
        if name.startswith(PREFIX) and name not in RESERVED:
            _read_variable(sources, model, name, environment)
    for text in overrides:
        _read_override(sources, model, text)
    return sources


def _read_toml(sources: Sources, file: Path) -> None:
    name, text = str(file), ""
    try:
        text = read_file(file)
        tree = tomllib.loads(text)
    except ValueError as error:
        sources.unreadable = True
        match = _PLACE.match(str(error))
        last = text.rstrip().count("\n") + 1
        message, line = (match[1], int(match[2] or last)) if match else (str(error), 0)
        if _TWICE.search(message):
            message = "the same key or table is given twice"
        sources.problems.append(ConfigProblem(message, file=name, line=line))
    except OSError as error:
        sources.unreadable = True
        sources.problems.append(ConfigProblem(f"cannot be read: {error.strerror}", file=name))
    else:
        sources.tree = tree
        sources.origins = {path: Origin(name, line) for path, line in positions(text).items()}


def _read_variable(sources: Sources, model: type[BaseModel], name: str, environment: Mapping[str, str]) -> None:
    origin = Origin(f"environment variable {name}")
    text = environment[name]
    path = parse_variable(name)
    annotation = _find(model, path)
    if annotation is None and name.endswith(SECRET):
        path = parse_variable(name.removesuffix(SECRET))
        annotation = _find(model, path)
        if annotation is not None:
            if name.removesuffix(SECRET) in environment:
                sources.complain(f"is given twice, also by {name.removesuffix('_FILE')}", origin, format_key(path))
                return
            try:
                text = read_file(Path(text)).rstrip("\r\n")
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                sources.complain(f"the file {text} cannot be read: {reason}", origin, format_key(path))
                return
    if annotation is None:
        sources.complain(f"no such setting{_suggest_variable(model, name)}", origin)
        return
    _put_text(sources, path, annotation[0], text, origin)


def _read_override(sources: Sources, model: type[BaseModel], text: str) -> None:
    key, equals, value = text.partition("=")
    origin = Origin("command line")
    path = parse_key(key)
    if not equals:
        sources.complain(f"--set {text}: no value given (accepted: --set key=value)", origin)
        return
    annotation = _find(model, path)
    if annotation is None:
        sources.complain(f"no such setting{suggest(model, path)}", origin, key)
        return
    _put_text(sources, path, annotation[0], value.strip(), origin)


def _put_text(sources: Sources, path: KeyPath, annotation: Any, text: str, origin: Origin) -> None:
    try:
        sources.put(path, read_text(annotation, text), origin)
    except ValueError as error:
        sources.complain(str(error), origin, format_key(path))


def _find(model: type[BaseModel], path: KeyPath) -> tuple[Any] | None:
    """The setting's type, in a tuple because None is a type too; None when there is no such setting."""
    try:
        return (annotation_at(model, path),)
    except KeyError:
        return None


def _suggest_variable(model: type[BaseModel], name: str) -> str:
    known = {PREFIX + "__".join(map(str, path)).upper() for path in setting_paths(model)} | set(RESERVED)
    return nearest(name, known)
