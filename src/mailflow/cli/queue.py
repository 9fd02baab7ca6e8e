"""`mailflow queue …`: what is in the queue, and changing it. Here: list, show, count.

Reading takes the queue on disk, whether the server runs, is stopped or was killed (wish 51). The commands that change
something are in `queue_change.py`, those that look after the files in `queue_care.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mailflow.cli.context import State, common, spool_to_read
from mailflow.cli.listing import count_lines, message_fields, message_lines, plural, total_line
from mailflow.cli.selecting import parse_ids, selecting, selection
from mailflow.ids import format_id

if TYPE_CHECKING:
    from mailflow.store.search import Count
    from mailflow.store.values import QueuedMessage, Selection

BY = ("destination", "recipient-domain", "sender", "sender-domain", "client", "reason", "state")


_ELSEWHERE = {
    "hold": "queue_change",
    "release": "queue_change",
    "delete": "queue_change",
    "flush": "queue_change",
    "check": "queue_care",
    "compact": "queue_care",
}


class _Commands(click.Group):
    """Those of other modules are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        commands: tuple[click.Command, ...] = import_module(f"mailflow.cli.{_ELSEWHERE[cmd_name]}").COMMANDS
        return next(each for each in commands if each.name == cmd_name)


@click.group("queue", cls=_Commands)
@common
def command(state: State) -> None:
    """List, show, count and change the mail in the queue."""


@command.command("list")
@click.argument("ids", metavar="[ID]...", nargs=-1, callback=parse_ids)
@selecting
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; nothing for an empty queue.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many messages.")
@common
def list_command(state: State, ids: tuple[int, ...], where: dict[str, Any], as_json: bool, limit: int | None) -> None:
    """List messages in the queue, oldest first: all, or those for which all that is given holds.

    With conditions, only the recipients are shown for which they hold: what a command with the same
    conditions would change.

    JSON fields: id; sender ("" = null sender); size in bytes; arrived, seconds since 1970; client; remaining, the
    number of recipients in the queue; recipients (the first 1,000), each with address, original (the address that the
    client gave, where it differs), destination, state (queued, deferred, held, or aside: done with, in a damaged queue that does
    not let it go), due (next attempt, seconds since 1970; null when held or aside), attempts and reason (why the last attempt failed).
    """
    chosen = selection(state, where, ids)
    messages = recipients = size = 0
    for message in _found(spool_to_read(state), chosen, limit):
        messages, size = messages + 1, size + message.size
        recipients += message.remaining if chosen.everything else len(message.recipients)
        if as_json:
            print(json.dumps(message_fields(message), ensure_ascii=False))
        else:
            print("\n".join(message_lines(message)))
    if not as_json:
        print(total_line(messages, recipients, size, everything=chosen.everything))


def _found(spool: Path, chosen: Selection, limit: int | None) -> Iterator[QueuedMessage]:
    from mailflow.store.aside import marked

    if chosen.everything:
        from mailflow.store.reader import list_messages

        return marked(spool, list_messages(spool, limit=limit))
    from mailflow.store.search import find_messages

    return marked(spool, find_messages(spool, chosen, time.time(), limit))


@command.command("count")
@selecting
@click.option("--by", type=click.Choice(BY), help="Count apart what differs in this, most recipients first.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="With --by: at most so many lines.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with --by one for each line.")
@common
def count(state: State, where: dict[str, Any], by: str | None, limit: int | None, as_json: bool) -> None:
    """Count the mail in the queue: all, or that for which all that is given holds.

    JSON fields: messages, recipients, and with --by the value counted and oldest, when the first of the messages
    arrived (seconds since 1970); without it queued, deferred and held, the recipients in these states.
    """
    chosen, now = selection(state, where), time.time()
    spool = spool_to_read(state)
    from mailflow.store.search import count_by, totals

    if by is None:
        found = totals(spool, chosen, now)
        if as_json:
            print(json.dumps(found._asdict()))
        else:
            states = f"{found.queued} queued, {found.deferred} deferred, {found.held} held"
            print(f"{plural(found.messages, 'message')}, {plural(found.recipients, 'recipient')}: {states}")
        return
    counts = count_by(spool, chosen, by, now)[:limit]
    if as_json:
        for c in counts:
            print(json.dumps({by: c.value, **_fields(c)}, ensure_ascii=False))
    else:
        print("\n".join(count_lines(counts, by, now)))


def _fields(count: Count) -> dict[str, Any]:
    return {"messages": count.messages, "recipients": count.recipients, "oldest": count.oldest}


@command.command("show")
@click.argument("ids", metavar="ID", nargs=1, callback=lambda c, p, v: parse_ids(c, p, (v,)))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the fields of `queue list`.")
@click.option("--content", is_flag=True, help="Print the message itself, header and body, as it is.")
@common
def show(state: State, ids: tuple[int, ...], as_json: bool, content: bool) -> None:
    """Show one message. Exit code 1 when it is not in the queue."""
    spool = spool_to_read(state)
    from mailflow.store.aside import marked
    from mailflow.store.reader import list_messages, read_content

    message = next(marked(spool, list_messages(spool, ids)), None)
    if message is None:
        raise click.ClickException(f"{format_id(ids[0])}: not in the queue")
    if content:
        sys.stdout.flush()
        sys.stdout.buffer.write(read_content(spool, ids[0]))
        sys.stdout.buffer.flush()
    elif as_json:
        print(json.dumps(message_fields(message), ensure_ascii=False))
    else:
        print("\n".join(message_lines(message, details=True)))
