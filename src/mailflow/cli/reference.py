"""The settings reference, made from the settings classes: `python -m mailflow.cli.reference > docs/settings.md`.

A test fails when the file in the repository is not what this makes. The only words written here are the frame; all
others stand beside the settings in the code.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from mailflow.config.positions import KeyPath
from mailflow.config.show import default_of, toml_value
from mailflow.config.texts import is_section, plain
from mailflow.setting import Section, parse_endpoint, parse_listen_address, parse_network
from mailflow.settings import Settings
from mailflow.units import parse_duration, parse_size

_KINDS: dict[Any, str] = {
    parse_duration: "duration",
    parse_size: "size",
    parse_endpoint: "host and port",
    parse_listen_address: "address and port, UNIX socket or inherited socket",
    parse_network: "network",
    bool: "true or false",
    int: "whole number",
    float: "number",
}
_BOUNDS = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}

_HEAD = """\
# Settings

*This file is made from the code by `mailflow config reference`; change the settings classes, not this file.*

The configuration is one TOML file. `mailflow serve --config FILE` names it; otherwise `MAILFLOW_CONFIG`, `mailflow.toml`
in the working directory and `/etc/mailflow/mailflow.toml` are tried in this order. Relative paths are relative to the
file's directory. Every setting can also be given

- in the environment: `MAILFLOW_RELAY__HOST` is `host` in `[relay]`; lists are JSON or separated by commas, tables are
  JSON, elements of lists of tables are counted: `MAILFLOW_LISTENER__0__BIND`;
- in a file named by the environment, for secrets: `MAILFLOW_RELAY__HOST_FILE=/run/secrets/relay`;
- on the command line: `--set relay.host=[192.0.2.1]:25`.

The command line wins over the environment, the environment over the file. An unknown key or a value that does not fit
is an error before anything starts. `mailflow config check` tells all mistakes, `mailflow config show --diff` what is
not a default and where it was written.

A *duration* is text with a unit: `"90s"`, `"5m"`, `"1h30m"`, `"5d"` (ms, s, m, h, d, w), or a number of seconds. A *size*
is text with a unit: `"25MiB"`, `"10KB"` (B, KiB, MiB, GiB, KB, MB, GB), or a number of bytes. *Host and port* is
`"mail.example:25"`, `"[192.0.2.1]:25"` or `"[2001:db8::1]:25"`; brackets mean that no MX look-up is made.
"""


def reference_text() -> str:
    """The whole reference as Markdown."""
    return "\n".join([_HEAD, *_section(Settings, (), "Top level", {})])


def _section(
    model: type[Section], path: KeyPath, title: str, described: dict[type[Section], str], about: str = ""
) -> Iterator[str]:
    """`described`: the tables that have been described so far; the same keys are not described again."""
    yield f"## {title}\n"
    if model in described:
        yield _paragraph(f"{about} The keys are those of {described[model]}.".strip())
        return
    described[model] = title
    yield from (_paragraph(text) for text in (model.__doc__, about) if text)
    inner: list[tuple[type[Section], KeyPath, str, str]] = []
    about_fields = model.documentation()
    for name, info in model.model_fields.items():
        table = _table((*path, name), info, about_fields[name])
        if table is None:
            yield _setting((*path, name), info, about_fields[name])
        else:
            inner.append(table)
    for kind, place, name, text in inner:
        yield from _section(kind, place, name, described, text)


def _table(path: KeyPath, info: FieldInfo, about: str) -> tuple[type[Section], KeyPath, str, str] | None:
    """What `_section` needs when the setting is a table, a list of tables or a table of named tables."""
    kind = plain(info.annotation)
    name = ".".join(str(part) for part in path)
    if is_section(kind):
        return kind, path, f"`[{name}]`", about
    element = plain(get_args(kind)[-1]) if get_origin(kind) in (list, dict) else None
    if not is_section(element):
        return None
    if get_origin(kind) is list:
        return element, (*path, 0), f"`[[{name}]]`", about
    built_in = default_of(info)
    more = f" Built in: `{toml_value(_without_none(built_in))}`." if built_in else ""
    return element, (*path, "NAME"), f"`[{name}.NAME]`", about + more


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value


def _setting(path: KeyPath, info: FieldInfo, about: str) -> str:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    facts = [_kind(info.annotation, info.metadata), *_limits(info), _default(info)]
    variable = "MAILFLOW_" + "__".join(str(part).upper() for part in path)
    where = f"Environment: `{variable}`." + (
        f" Postfix: {_code(str(extra['postfix']))}." if extra.get("postfix") else ""
    )
    return f"### `{path[-1]}`\n\n{'; '.join(facts)}. {where}\n\n{_paragraph(about)}"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = default_of(info)
    return "not set by default" if default is None else f"default `{toml_value(default)}`"


def _kind(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """The words for a type."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0], get_args(annotation)[1:])
    for item in metadata:
        if getattr(item, "func", None) in _KINDS:
            return _KINDS[item.func]
    inner = plain(annotation)
    if inner is not annotation:
        return _optional(annotation)
    if get_origin(inner) is Literal:
        return " or ".join(f"`{toml_value(choice)}`" for choice in get_args(inner))
    if get_origin(inner) in (list, tuple):
        return "list of: " + _kind(get_args(inner)[0])
    return _KINDS.get(inner, "path" if getattr(inner, "__name__", "") == "Path" else "text")


def _optional(annotation: Any) -> str:
    return next(_kind(part) for part in get_args(annotation) if part is not type(None))


def _limits(info: FieldInfo) -> list[str]:
    """The bounds of a number."""
    words = []
    for item in info.metadata:
        for name, form in _BOUNDS.items():
            bound = getattr(item, name, None)
            if bound is not None:
                words.append(form.format(f"{bound:,}" if isinstance(bound, int) and bound > 9999 else bound))
    return words


def _code(names: str) -> str:
    return ", ".join(f"`{name.strip()}`" for name in names.split(","))


def _paragraph(text: str) -> str:
    """Flowing text, whatever its line breaks were in the code."""
    return textwrap.fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False) + "\n"


if __name__ == "__main__":
    print(reference_text(), end="")
