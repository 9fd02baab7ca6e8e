"""`mailflow send`: a message from standard input into the queue; durable when the command ends with 0.

It goes through the control socket of the running server. When none runs the message is put into the queue on disk, for the
server that is started next. Exit code 75 (EX_TEMPFAIL) means: not accepted now, try again.
"""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

import click

from mailflow.cli.context import State, common, control_client

if TYPE_CHECKING:
    from mailflow.settings import Settings

EXIT_TEMPORARY = 75


@click.command("send")
@click.argument("recipients", metavar="RECIPIENT...", nargs=-1)
@click.option("-f", "--from", "sender", metavar="ADDRESS", help='Envelope sender; "" or "<>" for the null sender.')
@click.option("-t", "from_header", is_flag=True, help="Recipients from To:, Cc: and Bcc: (which is removed) too.")
@common
def command(state: State, recipients: tuple[str, ...], sender: str | None, from_header: bool) -> int:
    """Send the message on standard input.

    Without -f the sender is the address in Sender: or From:, else the user who sends. Prints the queue id.
    """
    if not recipients and not from_header:
        raise click.UsageError("no recipients (give addresses, or -t to take them from the header)")
    settings = state.load()
    from mailflow.cleanup import without_bcc
    from mailflow.submission import message_bytes, message_recipients

    limit = settings.limits.message_size
    content = sys.stdin.buffer.read(limit + 1)
    if len(content) > limit:
        raise click.ClickException(f"the message is larger than limits.message_size ({limit} bytes)")
    content = message_bytes(content)
    addresses = list(recipients)
    if from_header:
        addresses += message_recipients(content)
        content = without_bcc(content)
    if not addresses:
        raise click.UsageError("no recipients: there are none in To:, Cc: and Bcc:")
    envelope_sender = (
        _sender(content, settings) if sender is None else sender.strip().removeprefix("<").removesuffix(">")
    )
    return _send(state, settings, envelope_sender, list(dict.fromkeys(addresses)), content)


def _sender(content: bytes, settings: Settings) -> str:
    """The address in the header, else that of the user."""
    from mailflow.submission import message_sender

    try:
        return message_sender(content)
    except ValueError:
        return f"{_login()}@{settings.hostname}"


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return "unknown"


def _send(state: State, settings: Settings, sender: str, recipients: list[str], content: bytes) -> int:
    from mailflow.control.client import ControlError, NoServer
    from mailflow.errors import QueueError

    client = control_client(state.place())
    try:
        try:
            if client is None:
                raise NoServer("no control socket")  # noqa: TRY301 - the same as nobody listening
            queue_id = str(client.send(sender, recipients, content)["id"])
        except NoServer:
            queue_id = _store(settings, sender, recipients, content)
    except ControlError as error:
        print(f"mailflow: {error}", file=sys.stderr)
        temporary = error.reply[0] < 500 if error.reply else error.status in (0, 503)
        return EXIT_TEMPORARY if temporary else 1
    except QueueError as error:
        print(f"mailflow: {error}", file=sys.stderr)
        return EXIT_TEMPORARY
    if state.verbosity >= 0:
        print(queue_id)
    return 0


def _store(settings: Settings, sender: str, recipients: list[str], content: bytes) -> str:
    """Puts the message into the queue on disk; the queue id. Raises QueueError, SendError."""
    import asyncio

    from mailflow.api import Mailflow
    from mailflow.envelope import Peer

    log = settings.log
    if log.to in ("stderr", "stdout"):  # those are the user's here, not the server's
        log = log.model_copy(update={"to": "none"})
    quiet = settings.model_copy(update={"listener": [], "log": log})

    async def store() -> str:
        async with Mailflow(quiet, deliver=False) as mta:
            peer = Peer(protocol="local", login=_login())
            receipt = await mta.send(content, sender=sender, recipients=recipients, peer=peer)
            return receipt.queue_id

    return asyncio.run(store())
