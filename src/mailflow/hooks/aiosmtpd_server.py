"""What an aiosmtpd handler is given and gives back: the `server` argument, and status lines as replies.

`HandlerServer` stands where aiosmtpd passes its `SMTP` object, with the attributes that handlers use of it. It is a view
of one session and holds no state. `Host` is what all sessions with a handler share. Importing this module needs aiosmtpd.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import AuthResult, Envelope
from aiosmtpd.smtp import Session as SmtpSession

from mailflow.hooks.program import HandlerMode
from mailflow.hooks.running import Runner
from mailflow.ingress.auth.backend import Pool
from mailflow.ingress.ports import Recipients
from mailflow.smtp.commands import MailParams, RcptParams
from mailflow.smtp.reply import Reply

if TYPE_CHECKING:
    from mailflow.hooks.aiosmtpd_identity import IdentifiedSession

STATUS_LINES = 100
"""Lines of a status that a handler may give."""
AUTHENTICATOR_THREADS = 4
AUTHENTICATOR_WAITING = 100
"""Logins that wait for one of the threads; further ones hear 454."""
NULL_SENDER = "<>"
"""How aiosmtpd writes it in `mail_from`."""

_STATUS_LINE = re.compile(r"([2-5]\d\d)(?:[ -](.*))?\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3}) (.+)\Z")


class Host:
    """One handler, and what its sessions need."""

    def __init__(
        self,
        handler: object,
        mode: HandlerMode,
        runner: Runner,
        recipients: Recipients,
        *,
        authenticator: Callable[..., Any] | None,
        hostname: str,
        message_size: int,
    ) -> None:
        """Raises TypeError for a handler that aiosmtpd would not take either."""
        self.handler = handler
        self.filters = mode == "filter"
        """Whether mailflow queues what the handler accepts."""
        self.runner = runner
        self.recipients = recipients
        self.authenticator = authenticator or refuse
        """aiosmtpd's; called in a thread."""
        self.pool = Pool("authenticator", AUTHENTICATOR_THREADS, AUTHENTICATOR_WAITING)
        self.hostname = hostname
        self.message_size = message_size
        self.loop = asyncio.get_running_loop()
        names = [name for name in dir(handler) if name.startswith("handle_")]
        self.hooks: dict[str, Callable[..., Any]] = {name[7:]: getattr(handler, name) for name in names}
        self.lists_ehlo = False
        """Whether handle_EHLO takes and returns the list of responses (the form with five arguments)."""
        if "EHLO" in self.hooks:
            count = len(inspect.signature(self.hooks["EHLO"]).parameters)
            if count not in (4, 5):
                raise TypeError(f"handle_EHLO takes {count} arguments, not 4 or 5")
            self.lists_ehlo = count == 5

    def __repr__(self) -> str:
        return f"<Host {type(self.handler).__name__} {'filter' if self.filters else 'take'}>"


class HandlerServer:
    """The `server` argument of a handler's methods."""

    __ident__ = "mailflow"
    enable_SMTPUTF8 = True  # noqa: N815 - aiosmtpd's name

    def __init__(self, host: Host, session: IdentifiedSession) -> None:
        self._host = host
        self._session = session

    def __repr__(self) -> str:
        return f"<HandlerServer {self._session!r}>"

    @property
    def hostname(self) -> str:
        """Our name, as EHLO is answered."""
        return self._host.hostname

    @property
    def event_handler(self) -> object:
        """The handler itself."""
        return self._host.handler

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        return self._host.loop

    @property
    def data_size_limit(self) -> int:
        """`limits.message_size`."""
        return self._host.message_size

    @property
    def session(self) -> SmtpSession:
        """aiosmtpd's session object of this connection."""
        return self._session.smtp

    @property
    def envelope(self) -> Envelope:
        """aiosmtpd's envelope of this transaction."""
        return self._session.letter

    @property
    def transport(self) -> HandlerTransport:
        """For `get_extra_info`; a handler closes a session with a reply of 421."""
        return HandlerTransport(self._session)

    async def push(self, status: str | bytes) -> None:
        """Says a line to the client before the reply of the running hook. Raises ValueError for more than one line."""
        line = status.encode() if isinstance(status, str) else status
        if b"\r" in line or b"\n" in line:
            raise ValueError("push takes one line without its line end")
        self._session.push(line + b"\r\n")


class HandlerTransport:
    """What a handler may ask of the connection."""

    def __init__(self, session: IdentifiedSession) -> None:
        self._session = session

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's transports have it."""
        found = self._session.get_extra_info(name)
        return default if found is None else found


def refuse(*_: object) -> AuthResult:
    """The authenticator of a handler that has none; AUTH is not offered then."""
    return AuthResult(success=False)


def reply_of(status: object) -> Reply:
    r"""A handler's status as a reply: "250 OK", or lines joined by "\r\n". Raises ValueError for what is no status."""
    if isinstance(status, bytes):
        status = status.decode()
    if not isinstance(status, str):
        raise ValueError(f"not a status line: {status!r}")  # noqa: TRY004 - one error for all that is wrong
    return reply_of_lines(re.split("\r?\n", status))


def reply_of_lines(lines: Iterable[str]) -> Reply:
    """The same for a list of lines; the last one's code counts."""
    found = []
    for line in lines:
        match = _STATUS_LINE.match(line)
        if match is None or _CONTROL.search(line):
            raise ValueError(f"not a status line: {line!r}")
        found.append(match.groups(""))
    if not 0 < len(found) <= STATUS_LINES:
        raise ValueError(f"a status of {len(found)} lines")
    code = int(found[-1][0])
    enhanced = _ENHANCED.match(found[0][1]) if len(found) == 1 else None
    if enhanced is not None:
        return Reply(code, enhanced[1], (enhanced[2],))
    return Reply(code, "", tuple(text for _, text in found))


def mail_options(params: MailParams) -> list[str]:
    """The parameters of MAIL as aiosmtpd lists them: "SIZE=1000", "SMTPUTF8"."""
    given: dict[str, object] = params._asdict()
    if params.by is not None:
        given["by"] = f"{params.by[0]};{params.by[1]}"
    given["holdfor"], until = given.pop("hold_for"), given.pop("hold_until")
    given["holduntil"] = datetime.fromtimestamp(params.hold_until, UTC).isoformat() if until else None
    return [_option(name, value) for name, value in given.items() if value]


def rcpt_options(params: RcptParams) -> list[str]:
    """The parameters of RCPT, the same way. aiosmtpd itself takes none."""
    return [_option(name, value) for name, value in params._asdict().items() if value]


def _option(name: str, value: object) -> str:
    return name.upper() if value is True else f"{name.upper()}={value}"
