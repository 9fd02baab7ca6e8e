"""`mailflow status`: how the running server is doing."""

from __future__ import annotations

import json
from typing import Any

import click

from mailflow.cli.context import State, common, control_client


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, as the control socket gives it.")
@common
def command(state: State, as_json: bool) -> None:
    """Show how the running server is doing. Exit code 1 when none runs."""
    from mailflow.control.client import NoServer

    client = control_client(state.place())
    if client is None:
        raise click.ClickException("the configuration has no control socket (control.enabled = false)")
    try:
        status = client.status()
    except NoServer:
        state.load()  # perhaps a mistake in the configuration is why
        raise
    if as_json:
        print(json.dumps(status, ensure_ascii=False))
    else:
        for line in _lines(status):
            print(line)


def _lines(values: dict[str, Any], indent: str = "") -> list[str]:
    """Aligned `name  value` lines; inner objects are indented below their name."""
    width = max((len(key) for key, value in values.items() if not isinstance(value, dict)), default=0)
    lines: list[str] = []
    for key, value in values.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        elif isinstance(value, list):
            shown = [_lines(v, indent + "  ") if isinstance(v, dict) else [f"{indent}  {v}"] for v in value]
            lines += [f"{indent}{name}{'' if value else '  none'}", *(line for block in shown for line in block)]
        else:
            lines.append(f"{indent}{name:<{width}}  {value}")
    return lines
