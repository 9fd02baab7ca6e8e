"""`mailflow config …`: the configuration checked, shown, explained (wishes 3, 70, 84). Needs no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mailflow.cli.context import State, common
from mailflow.errors import ConfigError, ConfigProblem

FILE = click.Path(path_type=Path)


@click.group("config")
@common
def command(state: State) -> None:
    """Check and show the configuration."""


@command.command("check")
@click.option("--file", type=FILE, help="Check this file.")
@common
def check(state: State, file: Path | None) -> None:
    """Check the configuration. Exit code 2 when it cannot be used; every mistake is told."""
    settings = state.load(file)
    for problem in settings.examine():
        state.say(f"warning: {problem}", -1)
    name = file or state.file()
    state.say(f"{name or 'environment and defaults'}: configuration is good")
    source = settings.origin("hostname")
    state.say(f"host name is {settings.hostname}{f' ({source})' if source else ''}")


@command.command("show")
@click.option("--file", type=FILE, help="Show this file.")
@click.option("--diff", is_flag=True, help="Only what is not a default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@common
def show(state: State, file: Path | None, diff: bool, as_json: bool) -> None:
    """Show the configuration as it is in effect, as TOML.

    Behind a value that is not a default stands where it was written. JSON fields: key, value, default, source
    (file and line, environment variable, command line; "" for a default).
    """
    settings = state.load(file)
    from mailflow.config.show import differs, entries, to_toml

    if not as_json:
        print(to_toml(settings, diff=diff), end="")
        return
    for entry in entries(settings):
        if not diff or differs(entry):
            fields = {"key": entry.key, "value": entry.value, "default": entry.default, "source": entry.source}
            print(json.dumps(fields, ensure_ascii=False))


@command.command("get")
@click.argument("key")
@common
def get(state: State, key: str) -> None:
    """Print one value: text as it is, lists and tables as JSON. `version` prints the version."""
    if key == "version":
        from mailflow.cli.version import version

        print(version())
        return
    settings = state.load()
    value = _value(settings, key)
    print(value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False))


def _value(settings: Any, key: str) -> Any:
    from mailflow.config.raw import parse_key
    from mailflow.config.suggest import suggest

    value = settings.model_dump(mode="json")
    path = parse_key(key)
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            raise ConfigError([ConfigProblem(f"no such setting{suggest(type(settings), path)}", key=key)]) from None
    return value


@command.command("schema")
@common
def schema(state: State) -> None:  # noqa: ARG001 - takes the shared options as every command does
    """Print a JSON schema of the configuration, for editors."""
    from mailflow.settings import Settings

    print(json.dumps(Settings.model_json_schema(), indent=2, ensure_ascii=False))


@command.command("reference")
@common
def reference(state: State) -> None:  # noqa: ARG001 - takes the shared options as every command does
    """Print the reference of all settings (docs/settings.md)."""
    from mailflow.cli.reference import reference_text

    print(reference_text(), end="")
