"""`mailflow user …`: logins and passwords in the file `auth.file`. Needs no server; a running one notices changes within a second.

A password is asked for on the terminal, or is the first line of standard input; it is never a word of the command line, where
others on the machine could see it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mailflow.cli.context import State, common
from mailflow.errors import ConfigError, ConfigProblem

if TYPE_CHECKING:
    from mailflow.ingress.auth.password_edit import Editing
    from mailflow.ingress.auth.password_file import Entry

FILE = click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="The password file; default: auth.file of the configuration.",
)
SCHEME = click.option("--scheme", metavar="SCHEME", help="ARGON2ID (the default), SCRAM-SHA-256 or SHA512-CRYPT.")


@click.group("user")
@common
def command(state: State) -> None:
    """Add, change and list logins of the password file."""


@command.command("add")
@click.argument("login")
@FILE
@SCHEME
@common
def add(state: State, login: str, file: Path | None, scheme: str | None) -> None:
    """Add a login. Makes the file when there is none. Exit code 1 when the login is there already."""
    from mailflow.ingress.auth.password_edit import check_login, put

    path = _path(state, file)
    with _in_words():
        check_login(login)
    stored = _new_password(scheme)
    with _edit(path, create=True) as edit:
        if login.lower() in edit.entries:
            raise click.ClickException(f"{login} is in {path} already (mailflow user passwd changes the password)")
        edit.save(put(edit.text, login, stored))
    state.say(f"added {login} to {path}")


@command.command("passwd")
@click.argument("login")
@FILE
@SCHEME
@common
def passwd(state: State, login: str, file: Path | None, scheme: str | None) -> None:
    """Change the password of a login. Exit code 1 when there is no such login."""
    from mailflow.ingress.auth.password_edit import put

    path = _path(state, file)
    stored = _new_password(scheme)
    with _edit(path) as edit:
        _there(edit, login)
        edit.save(put(edit.text, login, stored))
    state.say(f"changed the password of {login} in {path}")


@command.command("delete")
@click.argument("login")
@FILE
@common
def delete(state: State, login: str, file: Path | None) -> None:
    """Delete a login. Exit code 1 when there is no such login."""
    from mailflow.ingress.auth.password_edit import without

    path = _path(state, file)
    with _edit(path) as edit:
        _there(edit, login)
        edit.save(without(edit.text, login))
    state.say(f"deleted {login} from {path}")


@command.command("list")
@FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: login, scheme.")
@common
def list_(state: State, file: Path | None, as_json: bool) -> None:
    """List the logins and how their passwords are stored."""
    for entry in _read(_path(state, file)).values():
        scheme = entry.stored.partition("}")[0].lstrip("{")
        print(json.dumps({"login": entry.login, "scheme": scheme}) if as_json else f"{entry.login}  {scheme}")


@command.command("verify")
@click.argument("login")
@FILE
@common
def verify(state: State, login: str, file: Path | None) -> int:
    """Tell whether a password is right: exit code 0 if it is, 1 if not or if there is no such login."""
    from mailflow.ingress.auth import hashes

    entry = _read(_path(state, file)).get(login.lower())
    password = _password(confirm=False)
    right = entry is not None and hashes.verify(entry.stored, password)
    state.say("right" if right else "wrong" if entry else f"there is no login {login}")
    return 0 if right else 1


def _path(state: State, file: Path | None) -> Path:
    if file is not None:
        return file
    named = state.load().auth.file
    if named is None:
        raise ConfigError([ConfigProblem("no password file", key="auth.file", accepted="a path, or the option --file")])
    return named


def _read(path: Path) -> dict[str, Entry]:
    from mailflow.ingress.auth.password_file import read

    with _in_words():
        return read(path)


@contextlib.contextmanager
def _edit(path: Path, *, create: bool = False) -> Iterator[Editing]:
    from mailflow.ingress.auth.password_edit import editing

    with _in_words(), editing(path, create=create) as edit:
        yield edit


def _new_password(scheme: str | None) -> str:
    """A password read and in stored form."""
    from mailflow.ingress.auth import hashes

    scheme = (scheme or hashes.MADE[0]).upper()
    if scheme not in hashes.MADE:
        raise click.UsageError(f"no scheme {scheme} (accepted: {', '.join(hashes.MADE)})")
    with _in_words():
        return hashes.make(scheme, _password(confirm=True))


def _password(*, confirm: bool) -> str:
    """From the terminal, or the first line of standard input."""
    from mailflow.smtp.sasl import PASSWORD_OCTETS

    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=confirm)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password or len(password.encode()) > PASSWORD_OCTETS:
        raise click.ClickException(f"no password, or one longer than {PASSWORD_OCTETS} bytes")
    return password


def _there(edit: Editing, login: str) -> None:
    if login.lower() not in edit.entries:
        raise click.ClickException(f"there is no login {login} in {edit.path}")


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """A wrong file, login or password is the operator's to mend: words, not a traceback."""
    try:
        yield
    except ValueError as error:
        raise click.ClickException(str(error)) from None
