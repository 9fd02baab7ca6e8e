"""`mailflow queue hold|release|delete|flush`: what changes mail in the queue.

The running server is asked through its control socket, and does it in steps beside its other work; when none runs the
queue is locked and changed here. What is to be done to all mail has to be said: --all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mailflow.cli.context import State, common, control_client
from mailflow.cli.listing import plural
from mailflow.cli.selecting import destination_of, parse_ids, selecting, selection
from mailflow.ids import format_id

if TYPE_CHECKING:
    from mailflow.settings import Settings
    from mailflow.store.values import Selection

_DONE = {"hold": "on hold", "release": "released", "delete": "deleted"}


def _changing(name: str, about: str) -> click.Command:
    """One of hold, release and delete: they differ in what the queue does only."""

    @click.command(
        name,
        help=f"{about}\n\nGive queue ids, or conditions, or --all. With conditions only the recipients for which all of them hold are meant; `queue list` with the same ones shows them.",
    )
    @click.argument("ids", metavar="[ID]...", nargs=-1, callback=parse_ids)
    @selecting
    @click.option("--all", "everything", is_flag=True, help="All messages in the queue.")
    @click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many messages, the oldest.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object for each message changed: id, recipients.")
    @common
    def change(
        state: State,
        ids: tuple[int, ...],
        where: dict[str, Any],
        everything: bool,
        limit: int | None,
        as_json: bool,
    ) -> int:
        _check_choice(ids, where, everything)
        chosen = selection(state, where, ids, limit)
        each = as_json or bool(ids)
        seen, messages, recipients = set(), 0, 0
        for entry in _act(state, name, chosen):
            messages, recipients = messages + 1, recipients + entry["recipients"]
            if ids:
                seen.add(entry["id"])
            if each:
                print(json.dumps(entry) if as_json else f"{entry['id']}  {_DONE[name]}")
        if not each:
            print(f"{plural(recipients, 'recipient')} in {plural(messages, 'message')} {_DONE[name]}")
        return _missing(name, ids, seen)

    return change


def _check_choice(ids: tuple[int, ...], where: dict[str, Any], everything: bool) -> None:
    if bool(ids or where) == everything:
        raise click.UsageError("give either queue ids or --all, or conditions such as --sender")


def _missing(name: str, ids: tuple[int, ...], seen: set[str]) -> int:
    """Says which of the messages that were named have not been changed; the exit code."""
    missing = [number for number in map(format_id, ids) if number not in seen]
    for number in missing:
        print(f"mailflow: {number}: not in the queue, or nothing to {name}", file=sys.stderr)
    return 1 if missing else 0


@click.command("flush")
@click.argument("site", metavar="[DESTINATION]", required=False)
@selecting
@click.option("--id", "ids", metavar="ID", multiple=True, callback=parse_ids, help="This message; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="All mail; the same as to give nothing.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many messages, the oldest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: messages, recipients.")
@common
def _flush(
    state: State,
    site: str | None,
    where: dict[str, Any],
    ids: tuple[int, ...],
    everything: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Try deferred mail now: all, or that for a DESTINATION as `queue list` shows it, or what the options say.

    A domain means the destination that mail for it goes to, which may be a relay host. Sites that were taken for dead
    are tried at once. Held mail stays on hold.
    """
    if everything and (site or where or ids):
        raise click.UsageError("--all goes with nothing else")
    if site and "destination" in where:
        raise click.UsageError("give the destination once")
    if site:
        where["destination"] = site = destination_of(state, site)
    messages = recipients = 0
    for entry in _act(state, "flush", selection(state, where, ids, limit)):
        messages, recipients = messages + 1, recipients + entry["recipients"]
    if as_json:
        print(json.dumps({"messages": messages, "recipients": recipients}))
    else:
        to = f" for {site}" if site else ""
        print(f"{plural(recipients, 'recipient')} in {plural(messages, 'message')}{to} now due")


COMMANDS = (
    _changing("hold", "Hold messages: no attempts until they are released."),
    _changing("release", "Release held messages: they are due now."),
    _changing("delete", "Delete messages. Their senders are not told."),
    _flush,
)


def _act(state: State, name: str, chosen: Selection) -> Iterator[dict[str, Any]]:
    """An entry {"id", "recipients"} for each message changed; one with very many recipients may have several in a row.

    Asks the running server, or does it when none runs. Raises ControlError, QueueError.
    """
    last: dict[str, Any] | None = None
    for entry in _entries(state, name, chosen):
        if last and last["id"] == entry["id"]:
            last["recipients"] += entry["recipients"]
            continue
        if last:
            yield last
        last = entry
    if last:
        yield last


def _entries(state: State, name: str, chosen: Selection) -> Iterator[dict[str, Any]]:
    from mailflow.control.client import NoServer
    from mailflow.store.filters import to_json

    client = control_client(state.place())
    if client is not None:
        try:
            yield from client.change(name, to_json(chosen))
        except NoServer:
            pass
        else:
            return
    yield from _offline(state.load(), name, chosen)


def _offline(settings: Settings, name: str, chosen: Selection) -> Iterator[dict[str, Any]]:
    from mailflow.store.admin import Command
    from mailflow.store.offline import open_offline

    with open_offline(settings.spool, settings.queue) as queue:
        for step in queue.change(Command(name), chosen):
            yield from ({"id": format_id(c.id), "recipients": c.recipients} for c in step)
