"""`mailflow serve`: the mail server, in the foreground."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mailflow.cli.context import State, common

if TYPE_CHECKING:
    from mailflow.server import Server


@click.command("serve")
@click.option("--hello", is_flag=True, help="When it is ready, print how to send a first mail and look at the queue.")
@common
def command(state: State, *, hello: bool) -> int:
    """Run the mail server in the foreground until SIGTERM or Ctrl-C.

    One line with the word `ready` and the addresses is logged when every listener accepts; under systemd
    (Type=notify) it is told too.
    """
    settings = state.load()
    from mailflow.serve import serve

    return serve(settings, partial(_greet, state.file()) if hello else None)


def _greet(file: Path | None, server: Server) -> None:
    """A few lines for somebody who starts mailflow for the first time; the commands work as they are printed."""
    local = server.settings.local
    mailflow = shlex.quote(sys.argv[0]) + (f" --config {shlex.quote(str(file))}" if file else "")
    lines = [f"mailflow is listening on {' and '.join(server.places) or 'no address'}."]
    if local.domains and local.users:
        address = f"{local.users[0]}@{local.domains[0]}"
        lines += [
            "Send a first mail, from another terminal:",
            f"    printf 'Subject: Hello\\n\\nIt works.\\n' | {mailflow} send {address}",
            f"It is delivered to {local.maildir.replace('{user}', local.users[0])}/new/.",
        ]
    lines += ["Look at the queue, and at the server:", f"    {mailflow} queue list", f"    {mailflow} status"]
    print("\n".join([*lines, "Ctrl-C stops it."]), flush=True)
