"""The effective configuration written down: as TOML that can be loaded again, or as entries for JSON.

Every value that is not a default has a remark where it was written. `entries` is the one walk over all settings, and
the generated reference (`cli/reference.py`) uses the same knowledge of defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from mailflow.config.positions import KeyPath, format_key
from mailflow.config.root import Root
from mailflow.config.texts import is_section, plain


class Entry(NamedTuple):
    """One setting with its effective value; both values are ready for JSON."""

    path: KeyPath
    value: Any
    default: Any
    """None also where a value is required."""
    source: str
    """"mailflow.toml:12", "environment variable X", "command line"; "" for a default."""

    @property
    def key(self) -> str:
        return format_key(self.path)


def default_of(info: FieldInfo) -> Any:
    """A setting's default, in the form in which it is written; None when it must be given."""
    if info.is_required():
        return None
    annotation: Any = info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[(annotation, *info.metadata)] if info.metadata else annotation)
    value = info.get_default(call_default_factory=True, validated_data={})
    return adapter.dump_python(adapter.validate_python(value), mode="json")


@cache
def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    return {name: default_of(info) for name, info in model.model_fields.items()}


def entries(settings: Root) -> Iterator[Entry]:
    """All settings in the order of the reference: the values of a table before its tables."""
    return _walk(settings, type(settings), settings.model_dump(mode="json"), ())


def _walk(settings: Root, model: type[BaseModel], values: dict[str, Any], path: KeyPath) -> Iterator[Entry]:
    tables: list[tuple[type[BaseModel], dict[str, Any], KeyPath]] = []
    for name, info in model.model_fields.items():
        here = (*path, name)
        tables += (inner := list(_inner(plain(info.annotation), values[name], here)))
        if not inner and not is_section(_element(plain(info.annotation))):
            yield Entry(here, values[name], _defaults(model)[name], settings.written(here))
    for kind, table, place in tables:
        yield from _walk(settings, kind, table, place)


def _element(kind: Any) -> Any:
    """The type inside a list or table of named entries."""
    return plain(get_args(kind)[-1]) if get_origin(kind) in (list, dict) else None


def _inner(kind: Any, value: Any, path: KeyPath) -> Iterator[tuple[type[BaseModel], dict[str, Any], KeyPath]]:
    """The tables that a setting stands for: itself, or those in its list or table."""
    if is_section(kind):
        yield kind, value, path
    elif is_section(_element(kind)):
        named = enumerate(value) if isinstance(value, list) else value.items()
        for key, table in named:
            yield _element(kind), table, (*path, key)


def to_toml(settings: Root, *, diff: bool = False) -> str:
    """TOML text with a remark behind what is not a default; with `diff`, only that."""
    lines: list[str] = []
    table: KeyPath = ()
    for entry in entries(settings):
        if diff and not differs(entry):
            continue
        if entry.path[:-1] != table:
            table = entry.path[:-1]
            lines += [*([""] if lines else []), _header(table)]
        lines.append(_line(entry))
    return "".join(line + "\n" for line in lines)


def differs(entry: Entry) -> bool:
    """Whether somebody has written this value and it is not the default."""
    return bool(entry.source) and entry.value != entry.default


def _header(table: KeyPath) -> str:
    name = ".".join(format_key((part,)) for part in table if isinstance(part, str))
    return f"[[{name}]]" if isinstance(table[-1], int) else f"[{name}]"


def _line(entry: Entry) -> str:
    name = format_key(entry.path[-1:])
    if entry.value is None:
        return f"# {name} is not set"
    remark = f"  # {entry.source}" if entry.source else ""
    return f"{name} = {toml_value(entry.value)}{remark}"


def toml_value(value: Any) -> str:
    """A value as TOML writes it. Tables become inline tables."""
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{format_key((k,))} = {toml_value(v)}" for k, v in value.items() if v is not None) + " }"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
