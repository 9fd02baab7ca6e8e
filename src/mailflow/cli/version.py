"""`mailflow version`: nothing else needs to be there, not even a configuration (wish 84)."""

from __future__ import annotations

import click

from mailflow.cli.context import State, common


def version() -> str:
    """The version of the installed package."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("mailflow")
    except PackageNotFoundError:  # run from a source tree
        return "0+source"


def print_version() -> None:
    """Prints one line."""
    print(f"mailflow {version()}")


@click.command("version")
@common
def command(state: State) -> None:
    """Print the version."""
    print_version()
    if state.verbosity > 0:
        import platform
        import sqlite3

        print(f"python {platform.python_version()}\nsqlite {sqlite3.sqlite_version}")
