"""The command tree, and what happens when a command fails: plain words on standard error and an exit code.

Commands raise; nothing but `run` turns errors into exit codes.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from mailflow.cli.context import State, common
from mailflow.errors import ConfigError, MailflowError, SendError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOFTWARE = 70  # EX_SOFTWARE of sysexits.h
EXIT_TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h
EXIT_INTERRUPTED = 130

_COMMANDS = {
    "serve": "Run the mail server in the foreground.",
    "status": "Show how the running server is doing.",
    "queue": "List, show and change the mail in the queue.",
    "send": "Send a message from standard input.",
    "resolve": "Show where mail for an address goes, and why.",
    "user": "Add, change and list logins of the password file.",
    "policy": "Show the rules for incoming mail, and what they would do.",
    "config": "Check and show the configuration.",
    "version": "Print the version.",
}


class _Commands(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"mailflow.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, 1)
            ctx.fail(f"there is no command {args[0]!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from mailflow.cli.version import print_version

        print_version()
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
@common
def cli(state: State) -> None:
    """mailflow: a mail server."""


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; the exit code."""
    state = State()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # addresses and replies hold what a terminal may not know
    try:
        result = cli.main(list(arguments), prog_name="mailflow", standalone_mode=False, obj=state)
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.UsageError as error:
        message = error.format_message()
        if not message.startswith("Usage:"):  # what a group says when no command is given
            message = f"{error.ctx.get_usage() if error.ctx else ''}\nmailflow: {message}".lstrip()
        print(message, file=sys.stderr)
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone ("| head"). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - an operator gets words, not a traceback
        return _explain(error, state)
    return result if isinstance(result, int) else 0


def _explain(error: Exception, state: State) -> int:
    if isinstance(error, ConfigError):
        for problem in error.problems:
            if not problem.file and state.settings is not None:  # found when the settings were put to use
                problem.file = state.settings.origin(problem.key)
            print(f"mailflow: {problem}", file=sys.stderr)
        return EXIT_USAGE
    if isinstance(error, click.ClickException):
        print(f"mailflow: {error.format_message()}", file=sys.stderr)
        return EXIT_FAILED
    if isinstance(error, SendError):
        print(f"mailflow: {error}", file=sys.stderr)
        return EXIT_TEMPORARY if error.reply[0] < 500 else EXIT_FAILED
    if isinstance(error, MailflowError):
        print(f"mailflow: {error}", file=sys.stderr)
        return EXIT_FAILED
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        print(f"mailflow: {where}{error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    if state.verbosity > 0:
        import traceback

        traceback.print_exception(error)
    print(f"mailflow: internal error: {type(error).__name__}: {error} (-v shows more)", file=sys.stderr)
    return EXIT_SOFTWARE
