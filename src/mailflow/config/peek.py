"""A few keys read alone, without the settings classes: to make those, and pydantic, is most of a short command's time.

`peek` has one answer for whatever is not plain, `Doubt`: then the caller loads the whole configuration (`Root.load`), which
knows the words for every mistake. So nothing is judged here, and no words are made. What `peek` does give out is what
`Root.load` would find for the same key, if it finds nothing wrong elsewhere. A mistake elsewhere is not noticed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mailflow.config.positions import KeyPath
from mailflow.config.raw import PREFIX, RESERVED, SECRET, parse_key, parse_variable, read_file


class Doubt(Exception):
    """Only the whole configuration can tell."""


def peek(
    wanted: Collection[KeyPath],
    values: Collection[str],
    file: Path | None,
    environment: Mapping[str, str],
    overrides: Sequence[str],
) -> dict[KeyPath, Any]:
    """What is written for the keys that are wanted, unchecked; those that have their defaults are left out.

    Args:
        wanted: the paths of the keys.
        values: the names of all settings at the top level that are no tables.
        file, environment, overrides: as for `Root.load`.

    Raises:
        Doubt: a file that cannot be read, a secret file or a whole table where a value is wanted, `--set` of anything else,
            or something that may be a wanted key misspelt or misplaced.
    """
    tree = {} if file is None else _tree(file)
    texts = [*_variables(environment, wanted), *_overrides(overrides, wanted)]
    found: dict[KeyPath, Any] = {}
    for path in wanted:
        value = _value(tree, path)
        for key, text in texts:  # the later wins
            if key == path:
                value = text
            elif _overlap(key, path):
                raise Doubt
        if value is not None:
            found[path] = value
        elif len(path) == 1 and _mistakable(path[0], tree, [key for key, _ in texts], values):
            raise Doubt
    return found


def _tree(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_file(file))
    except (OSError, ValueError, RecursionError):
        raise Doubt from None


def _variables(environment: Mapping[str, str], wanted: Collection[KeyPath]) -> Iterator[tuple[KeyPath, str]]:
    """In the order in which `sources.gather` takes them."""
    for name in sorted(n for n in environment if n.startswith(PREFIX) and n not in RESERVED):
        if name.endswith(SECRET) and any(_overlap(parse_variable(name.removesuffix(SECRET)), path) for path in wanted):
            raise Doubt
        yield parse_variable(name), environment[name]


def _overrides(overrides: Sequence[str], wanted: Collection[KeyPath]) -> Iterator[tuple[KeyPath, str]]:
    """A mistake in what was typed for this very command is told, whatever it is about."""
    for text in overrides:
        key, equals, value = text.partition("=")
        path = parse_key(key)
        if not equals or path not in wanted:
            raise Doubt
        yield path, value.strip()


def _value(tree: dict[str, Any], path: KeyPath) -> Any:
    place: Any = tree
    for part in path:
        if not isinstance(place, dict):
            raise Doubt
        if part not in place:
            return None
        place = place[part]
    return place


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    """Whether the one is the other, or a table around it."""
    return all(a == b for a, b in zip(one, other, strict=False))


def _mistakable(name: str | int, tree: dict[str, Any], keys: Collection[KeyPath], values: Collection[str]) -> bool:
    """Whether something may stand for a setting that is written nowhere: an unknown name, or its own in a wrong place."""
    names = {key for key, value in tree.items() if not isinstance(value, (dict, list))}
    names |= {str(key[0]) for key in keys if len(key) == 1}
    return not names <= set(values) or any(name in key for key in keys) or _inside(name, tree)


def _inside(name: str | int, value: Any) -> bool:
    """Whether a name is a key anywhere."""
    if isinstance(value, dict):
        return name in value or any(_inside(name, inner) for inner in value.values())
    return isinstance(value, list) and any(_inside(name, inner) for inner in value)
