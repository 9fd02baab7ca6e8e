"""Text to value, for settings that come as text: environment, command line, secret files.

TOML has types, an environment variable has none, so the setting's own type decides: numbers and truth values are read
as such, lists are JSON or separated by commas, tables are JSON. Text that does not fit is handed on as it is, and the
check of the settings says what is wrong with it. Pure.
"""

from __future__ import annotations

import json
import re
import types
from pathlib import Path
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel

from mailflow.config.positions import KeyPath
from mailflow.setting import Section

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_LISTS = (list, tuple, set, frozenset)


def plain(annotation: Any) -> Any:
    """The type without `Annotated` and without `| None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation):
            rest = [a for a in get_args(annotation) if a is not type(None)]
            if len(rest) > 1:
                return Union[tuple(rest)]  # noqa: UP007 - made at run time
            annotation = rest[0]
        else:
            return annotation


def optional(annotation: Any) -> bool:
    """Whether None is among the values."""
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    """Whether the type is a settings section."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def annotation_at(model: type[BaseModel], path: KeyPath) -> Any:
    """The type of the setting at a path. Raises KeyError when there is no such setting."""
    current: Any = model
    for part in path:
        kind = plain(current)
        if isinstance(part, str) and is_section(kind):
            current = kind.model_fields[part].annotation
        elif isinstance(part, str) and get_origin(kind) is dict:
            current = get_args(kind)[1]
        elif isinstance(part, int) and get_origin(kind) in _LISTS:
            current = get_args(kind)[0]
        else:
            raise KeyError(part)
    return current


def fit(annotation: Any, value: Any) -> Any:
    """The value with a tuple for a list and a path for text where the setting is one: TOML has neither of them."""
    kind = plain(annotation)
    if is_section(kind) and isinstance(value, dict):
        fields = kind.model_fields
        return {k: fit(fields[k].annotation, v) if k in fields else v for k, v in value.items()}
    if get_origin(kind) is dict and isinstance(value, dict):
        return {k: fit(get_args(kind)[1], v) for k, v in value.items()}
    if get_origin(kind) is list and isinstance(value, list):
        return [fit(get_args(kind)[0], v) for v in value]
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(value)
    return Path(value) if kind is Path and isinstance(value, str) else value


def read_text(annotation: Any, text: str) -> object:
    """The value that a text stands for. Raises ValueError when a list or table is not readable."""
    kind = plain(annotation)
    if not text and optional(annotation):
        return None
    if kind is bool:
        return _TRUTH.get(text.lower(), text)
    if kind is int and re.fullmatch(r"-?\d+", text):
        return int(text)
    if kind is float and re.fullmatch(r"-?\d+(\.\d*)?", text):
        return float(text)
    if get_origin(kind) in _LISTS:
        return _read_list(kind, text)
    if get_origin(kind) is dict or is_section(kind):
        return _json(text, 'a table as JSON, such as {"key": "value"}')
    return text


def _read_list(kind: Any, text: str) -> object:
    if text.lstrip().startswith("["):
        return _json(text, 'a list as JSON, such as ["one", "two"]')
    inner = get_args(kind)[0]
    if is_section(plain(inner)):
        return _json(text, 'a list of tables as JSON, such as [{"key": "value"}]')
    return [read_text(inner, part.strip()) for part in text.split(",") if part.strip()]


def _json(text: str, accepted: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"cannot be read (accepted: {accepted})") from None
