"""`mailflow serve`: the mail server, in the foreground."""

from __future__ import annotations

import click

from mailflow.cli.context import State, common


@click.command("serve")
@common
def command(state: State) -> int:
    """Run the mail server in the foreground until SIGTERM or Ctrl-C.

    One line with the word `ready` and the addresses is logged when every listener accepts; under systemd
    (Type=notify) it is told too.
    """
    settings = state.load()
    from mailflow.serve import serve

    return serve(settings)
