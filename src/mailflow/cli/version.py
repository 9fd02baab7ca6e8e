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


def form() -> str:
    """Which form of the program this is (docs/compiled.md): "compiled" or "interpreted"."""
    from importlib.util import find_spec

    found = find_spec("mailflow.settle")
    return "interpreted" if found is None or str(found.origin).endswith(".py") else "compiled"


def print_version() -> None:
    """Prints one line."""
    print(f"mailflow {version()}")


@click.command("version")
@common
def command(state: State) -> None:
    """Print the version; with -v what it stands on, too."""
    print_version()
    if state.verbosity > 0:
        import platform
        import sqlite3

        print(f"form {form()}\npython {platform.python_version()}\nsqlite {sqlite3.sqlite_version}")
