"""Mailflow in a Python program: a mail server with a durable queue inside your event loop.

    settings = Settings(hostname="app.example", spool="var/spool", relay={"host": "[192.0.2.1]:25"})
    async with Mailflow(settings) as mta:
        receipt = await mta.send(message, recipients=["joe@example.org"])   # durable when this returns
        report = await receipt.wait(timeout=60)

It runs in any asyncio loop (uvloop too), installs no signal handlers, starts no process, and several instances with
different spools may live in one process. Listeners are started when the settings name some; `hooks` and `handler` then
take part in their sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from email.message import EmailMessage
from email.message import Message as EmailBase
from types import TracebackType
from typing import Any, Self

from mailflow.envelope import Options, Peer
from mailflow.hooks.program import HandlerMode, Programs
from mailflow.ingress.auth.program import Authenticate
from mailflow.operator import Operator
from mailflow.receipt import Receipt
from mailflow.server import Server
from mailflow.settings import Settings
from mailflow.submission import message_bytes, message_recipients, message_sender

API_PEER = Peer(protocol="API")


class Mailflow:
    """One mail server. An async context manager: entering starts it, leaving stops it cleanly."""

    def __init__(
        self,
        settings: Settings,
        *,
        deliver: bool = True,
        hooks: object | None = None,
        handler: object | None = None,
        handler_mode: HandlerMode = "take",
        authenticator: Callable[..., Any] | None = None,
        authenticate: Authenticate | None = None,
        check_token: Authenticate | None = None,
    ) -> None:
        """Makes a server; nothing is opened before it is started. docs/embedding.md is the guide to the program's part.

        Args:
            settings: the configuration.
            deliver: False: messages are only stored, for a server that is started later on the same spool.
            hooks: an object with methods of `mailflow.hooks.Hooks`: typed events and decisions.
            handler: an aiosmtpd handler, instead of hooks; needs the extra "aiosmtpd".
            handler_mode: "take": the handler takes each message it answers with 250, nothing is queued (as aiosmtpd has
                it). "filter": what it answers with 250 is queued.
            authenticator: aiosmtpd's, instead of `authenticate`; only with `handler`.
            authenticate: `async (login, password) -> True, the login as it is to be known, or None`: who may log in with
                AUTH. Raising means a temporary failure. It runs in the event loop, so it must not block.
            check_token: the same for bearer tokens (OAUTHBEARER, XOAUTH2): `async (claimed login or "", token)`.

        Raises:
            ValueError: two of these do not go together.
        """
        if hooks is not None and handler is not None:
            raise ValueError("give hooks or a handler, not both")
        if authenticator is not None and (handler is None or authenticate is not None):
            raise ValueError("an authenticator goes with a handler, and instead of authenticate")
        if handler_mode not in ("take", "filter"):
            raise ValueError(f'handler_mode is {handler_mode!r}, not "take" or "filter"')
        programs = Programs(hooks, handler, handler_mode, authenticator, authenticate, check_token)
        self._server = Server(settings, deliver=deliver, programs=programs)

    @property
    def server(self) -> Server:
        """The parts: queue, flow, log."""
        return self._server

    @property
    def addresses(self) -> list[str]:
        """Where it listens, "127.0.0.1:2525"."""
        return [str(a) for a in self._server.addresses]

    async def start(self) -> None:
        """Opens the queue, starts listeners and deliveries. Raises QueueLocked, QueueError, ConfigError or OSError."""
        await self._server.start()

    async def stop(self) -> None:
        """Stops accepting, lets sessions and deliveries end for at most `shutdown_grace`, closes the queue."""
        await self._server.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def status(self) -> dict[str, Any]:
        """What `mailflow status --json` prints."""
        return Operator(self._server).status()

    async def send(
        self,
        message: EmailMessage | EmailBase | bytes,
        *,
        sender: str | None = None,
        recipients: Iterable[str] | None = None,
        options: Options | None = None,
        peer: Peer = API_PEER,
    ) -> Receipt:
        """Puts a message into the queue; returns when it is durable, that is, after the commit reached the disk.

        Args:
            message: an email message, or its bytes (any line ends). A Bcc: header is removed from an email message.
            sender: envelope sender, "" for the null sender; default: the address in Sender: or From:.
            recipients: envelope recipients; default: the addresses in To:, Cc: and Bcc:.
            options: what the envelope asks for besides (BODY, SMTPUTF8, RET, ENVID); default: found from the content.
            peer: who posted it, for Received: and the log.

        Returns:
            A receipt; `await receipt.wait(timeout)` waits for the outcome.

        Raises:
            SendError: a recipient or the message was refused; nothing has been queued. `reply` says what an SMTP
                client would have heard.
            ValueError: there is no sender or recipient.
        """
        content = message_bytes(message)
        addresses = list(recipients) if recipients is not None else message_recipients(message)
        if not addresses:
            raise ValueError("no recipients: none given, and none in To:, Cc: and Bcc:")
        from_ = message_sender(message) if sender is None else sender
        return await self._server.send(content, from_, addresses, peer=peer, options=options)
