"""The command line: `mailflow COMMAND`. One small module for each command or group of commands.

Start-up time counts, for scripts call these commands often: modules here import the rest of mailflow inside their functions,
and a command's module is imported when it is the one that was called (`app.py`). Commands about the queue do without the
settings where they can (`place.py`). Exit codes: 0 done, 1 not possible or
not found, 2 wrong usage or configuration, 75 try again later (`send`, EX_TEMPFAIL), 70 a fault of mailflow's.
"""


def main() -> None:
    """The program `mailflow`."""
    import os
    import sys

    from mailflow.cli.app import run

    # Before pydantic is imported, which else goes through all installed packages for plugins: a tenth of a command's start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

    sys.exit(run(sys.argv[1:]))
