"""`mailflow queue check` and `mailflow queue compact`: looking after the queue's files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import click

from mailflow.cli.context import State, common, control_client
from mailflow.cli.listing import format_bytes, plural

_CANNOT = 2
_WAITING = ("envelope", "content", "quarantined")
"""What waits for the operator, mended or not."""


@click.command("check")
@click.option(
    "--full",
    is_flag=True,
    help="Compare the database's indexes with its tables too; takes longer. --repair does so always.",
)
@click.option("--repair", is_flag=True, help="Mend what is wrong; the server has to be stopped.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each finding; nothing when all is well.")
@common
def _check(state: State, full: bool, repair: bool, as_json: bool) -> int:
    """Check the queue's database, contents, counters, and what belongs to no message.

    Without --repair nothing is changed, and the server may run. Repairing never deletes mail: a message whose envelope
    or content is damaged is put on hold, and what there is of it is kept below `damaged` in the spool, as is what belongs to no
    message; counters and indexes are made anew. Then delete such a message, or release it to try nevertheless.

    Exit code 0: the queue is whole, or everything was mended and nothing waits for you. 1: something is wrong. 2: it
    could not be checked.

    JSON fields: kind (database, counter, envelope, content, quarantined, aside, empty, orphan), id (null for the database), text, and
    with --repair done (what was done; "" when it waits for you).
    """
    from mailflow.errors import QueueError

    left = total = 0
    try:
        for kind, number, text, done in _findings(state, full=full, repair=repair):
            total, left = total + 1, left + (not done or kind in _WAITING)
            if as_json:
                entry = {"kind": kind, "id": number, "text": text}
                print(json.dumps(entry | {"done": done} if repair else entry, ensure_ascii=False))
            else:
                where = f"message {number}" if number else "database"
                print(f"{where}: {text}{f': {done}' if done else ''}")
    except QueueError as error:
        print(f"mailflow: cannot check the queue: {error}", file=sys.stderr)
        return _CANNOT
    if not as_json:
        print(_sum(total, left, repair=repair))
    return 1 if left else 0


def _findings(state: State, *, full: bool, repair: bool) -> Iterator[tuple[str, str | None, str, str]]:
    """Kind, queue id, what is wrong, what was done."""
    from mailflow.ids import format_id

    if repair:
        from mailflow.store.repair import repair as mend_all

        settings = state.load()
        for mended in mend_all(settings.spool, settings.queue):
            found = mended.finding
            yield found.kind.value, format_id(found.id) if found.id else None, found.text, mended.done
    else:
        from mailflow.store.check import check

        for finding in check(state.place().spool, full=full):
            yield finding.kind.value, format_id(finding.id) if finding.id else None, finding.text, ""


def _sum(total: int, left: int, *, repair: bool) -> str:
    if not total:
        return "The queue is whole"
    mended = f", {total - left} mended" if repair else ""
    return f"-- {plural(total, 'finding')}{mended}"


@click.command("compact")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: bytes, given back to the disk.")
@common
def _compact(state: State, as_json: bool) -> None:
    """Give disk space back that the queue does not use any more. The server may run; it is not held up."""
    given = sum(_steps(state))
    print(json.dumps({"bytes": given}) if as_json else f"{format_bytes(given)} given back to the disk")


def _steps(state: State) -> Iterator[int]:
    from mailflow.control.client import NoServer

    client = control_client(state.place())
    if client is not None:
        try:
            for entry in client.compact():
                yield entry["bytes"]
        except NoServer:
            pass
        else:
            return
    settings = state.load()
    from mailflow.store.offline import open_offline

    with open_offline(settings.spool, settings.queue) as queue:
        yield from queue.compact()


COMMANDS = (_check, _compact)
