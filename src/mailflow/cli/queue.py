"""`mailflow queue …`: what is in the queue, and changing it.

Listing reads the queue on disk, whether the server runs, is stopped or was killed (wish 51). The acting commands ask the running
server through its control socket; when none runs they lock the queue and change it themselves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mailflow.cli.context import State, common, control_client
from mailflow.cli.listing import message_fields, message_lines, plural, total_line
from mailflow.ids import format_id, parse_id

if TYPE_CHECKING:
    from mailflow.control.client import ControlClient
    from mailflow.settings import Settings
    from mailflow.store.values import Changed, Selection

T = TypeVar("T")
_TRANSPORTS = ("smtp:", "local:", "discard:", "error:")
_DONE = {"hold": "on hold", "release": "released", "delete": "deleted"}


@click.group("queue")
@common
def command(state: State) -> None:
    """List, show and change the mail in the queue."""


def _parse(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[int, ...]:
    """Queue ids from text; a usage error for what is none."""
    try:
        return tuple(dict.fromkeys(parse_id(text) for text in texts))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; nothing for an empty queue.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many messages.")
@common
def list_command(state: State, as_json: bool, limit: int | None) -> None:
    """List the messages in the queue, oldest first.

    JSON fields: id; sender ("" = null sender); size in bytes; arrived, seconds since 1970; client; remaining, the
    number of recipients in the queue; recipients (the first 1,000), each with address, original (the address that the
    client gave, where it differs), destination, state (queued, deferred or held), due (next attempt, seconds since
    1970; null while held), attempts and reason (why the last attempt failed).
    """
    settings = state.load()
    from mailflow.store.reader import list_messages

    messages = recipients = size = 0
    for message in list_messages(settings.spool, limit=limit):
        messages, recipients, size = messages + 1, recipients + message.remaining, size + message.size
        if as_json:
            print(json.dumps(message_fields(message), ensure_ascii=False))
        else:
            print("\n".join(message_lines(message)))
    if not as_json:
        print(total_line(messages, recipients, size))


@command.command("show")
@click.argument("ids", metavar="ID", nargs=1, callback=lambda c, p, v: _parse(c, p, (v,)))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the fields of `queue list`.")
@click.option("--content", is_flag=True, help="Print the message itself, header and body, as it is.")
@common
def show(state: State, ids: tuple[int, ...], as_json: bool, content: bool) -> None:
    """Show one message. Exit code 1 when it is not in the queue."""
    settings = state.load()
    from mailflow.store.reader import list_messages, read_content

    message = next(list_messages(settings.spool, ids), None)
    if message is None:
        raise click.ClickException(f"{format_id(ids[0])}: not in the queue")
    if content:
        sys.stdout.flush()
        sys.stdout.buffer.write(read_content(settings.spool, ids[0]))
        sys.stdout.buffer.flush()
    elif as_json:
        print(json.dumps(message_fields(message), ensure_ascii=False))
    else:
        print("\n".join(message_lines(message, details=True)))


@command.command("flush")
@click.argument("destination", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: messages, recipients.")
@common
def flush(state: State, destination: str | None, as_json: bool) -> None:
    """Try deferred mail now: all, or that for a DESTINATION as `queue list` shows it.

    A domain means the destination that mail for it goes to, which may be a relay host.
    """
    from mailflow.store.values import Selection

    settings = state.load()
    if destination and not destination.startswith(_TRANSPORTS):
        destination = _destination(settings, destination)
    selection = Selection(destination=destination) if destination else Selection(everything=True)

    def ask(client: ControlClient) -> dict[str, Any]:
        return client.flush(destination)

    def do(settings: Settings) -> dict[str, Any]:
        changed = _offline(settings, "flush", selection)
        return {"messages": len(changed), "recipients": sum(c.recipients for c in changed)}

    result = _act(settings, ask, do)
    if as_json:
        print(json.dumps(result))
    else:
        recipients, messages = plural(result["recipients"], "recipient"), plural(result["messages"], "message")
        print(f"{recipients} in {messages}{f' for {destination}' if destination else ''} now due")


def _destination(settings: Settings, name: str) -> str:
    """The destination of mail for a domain: "smtp:example.org"; a host in brackets is one itself."""
    from mailflow.envelope import Route
    from mailflow.rewrite import Resolver

    resolver = Resolver(settings.local, settings.relay, settings.route, hostname=settings.hostname)
    route = None if name.startswith("[") else resolver.resolve(f"postmaster@{name}")
    return route.destination if isinstance(route, Route) and route.transport == "smtp" else f"smtp:{name}"


def _changing(name: str, about: str) -> click.Command:
    """One of hold, release and delete: they differ in what the queue does only."""

    @click.command(name, help=about)
    @click.argument("ids", metavar="ID...", nargs=-1, callback=_parse)
    @click.option("--all", "everything", is_flag=True, help="All messages in the queue.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object for each message changed: id, recipients.")
    @common
    def change(state: State, ids: tuple[int, ...], everything: bool, as_json: bool) -> int:
        if bool(ids) == everything:
            raise click.UsageError("give either queue ids or --all")
        from mailflow.store.values import Selection

        names = None if everything else [format_id(i) for i in ids]
        selection = Selection(everything=True) if everything else Selection(ids=ids)

        def ask(client: ControlClient) -> list[dict[str, Any]]:
            return client.change(name, names)

        def do(settings: Settings) -> list[dict[str, Any]]:
            return [{"id": format_id(c.id), "recipients": c.recipients} for c in _offline(settings, name, selection)]

        changed = _act(state.load(), ask, do)
        for entry in changed:
            print(json.dumps(entry) if as_json else f"{entry['id']}  {_DONE[name]}")
        missing = [n for n in names or [] if n not in {entry["id"] for entry in changed}]
        for number in missing:
            print(f"mailflow: {number}: not in the queue, or nothing to {name}", file=sys.stderr)
        return 1 if missing else 0

    return change


for _command in (
    _changing("hold", "Hold messages: no attempts until they are released."),
    _changing("release", "Release held messages: they are due now."),
    _changing("delete", "Delete messages. Their senders are not told."),
):
    command.add_command(_command)


def _act(settings: Settings, ask: Callable[[ControlClient], T], do: Callable[[Settings], T]) -> T:
    """Asks the running server, or does it when none runs. Raises ControlError, QueueError."""
    from mailflow.control.client import NoServer

    client = control_client(settings)
    if client is not None:
        try:
            return ask(client)
        except NoServer:
            pass
    return do(settings)


def _offline(settings: Settings, name: str, selection: Selection) -> list[Changed]:
    from mailflow.store.offline import open_offline

    with open_offline(settings.spool, settings.queue) as queue:
        commands = {"hold": queue.hold, "release": queue.release, "delete": queue.delete, "flush": queue.flush}
        return commands[name](selection)
