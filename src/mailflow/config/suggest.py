"""The names of all settings, and which of them somebody meant who wrote another. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from mailflow.config.positions import KeyPath, format_key
from mailflow.config.texts import annotation_at, is_section, plain

_SIMILARITY = 0.75  # below it, suggestions confuse more than they help


def setting_paths(model: type[BaseModel], path: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths of all settings, with index 0 for lists of tables and NAME for tables with free names."""
    for name, info in model.model_fields.items():
        kind = plain(info.annotation)
        inner: Any = plain(get_args(kind)[-1]) if get_origin(kind) in (list, dict) else None
        if is_section(kind):
            yield from setting_paths(kind, (*path, name))
        elif is_section(inner):
            yield from setting_paths(inner, (*path, name, 0 if get_origin(kind) is list else "NAME"))
        else:
            yield (*path, name)


def suggest(model: type[BaseModel], path: KeyPath) -> str:
    """ ", did you mean …?" for an unknown key, or "": a sibling, the same name elsewhere, or a similar path."""
    known = _known_part(model, path)
    kind = plain(annotation_at(model, path[:known]))
    near = nearest(str(path[known]), list(kind.model_fields)) if is_section(kind) else ""
    if near:
        return near
    elsewhere = [p for p in setting_paths(model) if p[-1] == path[-1] and p != path]
    if elsewhere:
        return f", did you mean {format_key(min(elsewhere, key=len))}?"
    return "" if known == len(path) - 1 else nearest(format_key(path), [format_key(p) for p in setting_paths(model)])


def _known_part(model: type[BaseModel], path: KeyPath) -> int:
    """How many steps of an unknown path exist."""
    for end in range(1, len(path)):
        try:
            annotation_at(model, path[:end])
        except KeyError:
            return end - 1
    return len(path) - 1


def nearest(name: str, known: Collection[str]) -> str:
    """ ", did you mean …?" with the most similar of some names, or ""."""
    close = difflib.get_close_matches(name, known, 1, _SIMILARITY)
    return f", did you mean {close[0]}?" if close else ""
