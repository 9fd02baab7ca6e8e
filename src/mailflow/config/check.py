"""Are the settings right? One `ConfigProblem` for every mistake, in the operator's words.

`check` gives the merged tree to the settings class and translates what pydantic says: where the value was
written, the key as TOML has it, what is wrong and what would be accepted; for unknown keys the nearest known one.
Values are taken strictly: `"5"` is no number and `true` is no 1. What takes more than one setting to judge is
asked of the settings class itself (`mistakes`), which this module does not know.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mailflow.config.positions import KeyPath, format_key
from mailflow.config.sources import Sources
from mailflow.config.suggest import suggest
from mailflow.config.texts import annotation_at, fit, is_section, plain

M = TypeVar("M", bound=BaseModel)

_KINDS = {
    "int_type": "a whole number, such as 10",
    "int_parsing": "a whole number, such as 10",
    "int_from_float": "a whole number, such as 10",
    "float_type": "a number, such as 0.5",
    "float_parsing": "a number, such as 0.5",
    "string_type": 'text in quotes, such as "text"',
    "is_instance_of": 'a path in quotes, such as "var/spool"',
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": 'a list, such as ["one", "two"]',
    "tuple_type": 'a list, such as ["one", "two"]',
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "{} or more"),
    "less_than_equal": ("le", "{} or less"),
    "greater_than": ("gt", "more than {}"),
    "less_than": ("lt", "less than {}"),
}


def check(model: type[M], sources: Sources) -> M | None:
    """The settings, or None when `sources.problems` says why not."""
    try:
        return model.model_validate(fit(model, sources.tree), strict=True)
    except ValidationError as errors:
        for error in errors.errors(include_url=False):
            _complain(model, sources, error)
        return None


def _complain(model: type[BaseModel], sources: Sources, error: Any) -> None:
    path = _real_path(model, error["loc"])
    origin = sources.origin(path)
    key = format_key(path)
    if error["type"] == "extra_forbidden":
        sources.complain(f"unknown key{suggest(model, path)}", origin, key)
    else:
        sources.complain(_words(error), origin, key)


def _words(error: Any) -> str:
    """What is wrong, with the accepted form in brackets behind it."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is required"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{_show(error['input'])} is out of range (accepted: {words.format(context[name])})"
    if kind == "literal_error":
        return f"{_show(error['input'])} is not one of the choices (accepted: {context['expected'].replace(chr(39), chr(34))})"
    if kind == "string_too_short":
        return "is empty (accepted: any text)"
    if kind in _KINDS:
        return f"{_show(error['input'])} has the wrong type (accepted: {_KINDS[kind]})"
    return str(error["msg"])


def _show(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _real_path(model: type[BaseModel], location: tuple[str | int, ...]) -> KeyPath:
    """The path without what pydantic adds for unions and dictionary keys."""
    path: KeyPath = ()
    for i, part in enumerate(location):
        last = i == len(location) - 1
        try:
            annotation_at(model, (*path, part))
        except KeyError:
            if not (last and is_section(plain(annotation_at(model, path)))):
                continue
        path += (part,)
    return path
