"""Who the client is, in aiosmtpd's words: its `Session` object, filled from the client's record as that changes.

`handle_STARTTLS` is asked when TLS has begun, `handle_PROXY` when a balancer has told who the client is, and an
`authenticator` when AUTH has a login and a password. The TLS, PROXY and AUTH themselves are the listener's, with its rules.

Invariants: the session object lives as long as the connection, but for STARTTLS, which begins anew (RFC 3207 §4.2). An
authenticator runs in a thread, as it may take its time, while its session waits.
"""

from __future__ import annotations

import ssl
from contextvars import ContextVar
from functools import partial
from typing import Any

from aiosmtpd.proxy_protocol import ProxyData
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from aiosmtpd.smtp import Session as SmtpSession

from mailflow.hooks.aiosmtpd_server import HandlerServer, Host
from mailflow.hooks.running import log_failure
from mailflow.ingress.desk import Desk, Wire
from mailflow.ingress.session import Session
from mailflow.smtp import replies
from mailflow.smtp.handler import Answer
from mailflow.smtp.reply import reply

UNWELCOME = reply(554, "5.7.1", "Connection refused")
"""handle_PROXY said no."""
INSECURE = reply(554, "5.7.0", "Command refused due to lack of security")
"""handle_STARTTLS said no (RFC 3207 §4.1)."""

_current: ContextVar[IdentifiedSession] = ContextVar("session")


class IdentifiedSession(Session):
    """The part of a handler's session that knows the client."""

    __slots__ = ("_auth_data", "_begun", "_host", "_insecure", "_mechanism", "_server", "letter", "smtp")

    def __init__(self, host: Host, desk: Desk, wire: Wire, address: str, port: int) -> None:
        super().__init__(desk, wire, address, port)
        self._host = host
        self._begun = False
        """The client has been greeted."""
        self._insecure = False
        self._mechanism = ""
        self._auth_data: Any = None
        self._server = HandlerServer(host, self)
        self.smtp = SmtpSession(host.loop)
        """aiosmtpd's session object."""
        self.smtp.peer = (address, port)  # type: ignore[assignment] # annotated as text there, and always a pair
        self.letter = Envelope()
        """aiosmtpd's envelope."""

    def push(self, lines: bytes) -> None:
        """Says something before the reply of the running method."""
        if self._wire is not None:
            self._wire.push(lines)

    def get_extra_info(self, name: str) -> Any:
        """The transport's `get_extra_info`."""
        return self._wire.get_extra_info(name) if self._wire is not None else None

    def connect(self) -> Answer:
        """A balancer's client is let in when `handle_PROXY` says so, or is not there."""
        self._begun = True
        answer = super().connect()
        return self._welcome() if answer is replies.WELCOME and not self._panel.connect else answer

    def identify(self, **changes: Any) -> None:
        """Tells the handler's session object, too."""
        super().identify(**changes)
        if "address" in changes:
            self.smtp.peer = (self.address, self.peer.port)  # type: ignore[assignment] # as in __init__
        if changes.get("helo") == "":
            self.smtp.host_name = None
        if changes.get("tls"):
            self._secured()
        if changes.get("via"):
            data: Any = ProxyData(version=None)
            data.src_addr, data.src_port = self.address, self.peer.port
            self.smtp.proxy_data = data
        if changes.get("login"):
            smtp: Any = self.smtp  # its annotations leave out what these hold
            smtp.authenticated = True
            smtp._login_data = login = self.peer.login.encode()  # noqa: SLF001 - the public setter logs a warning
            smtp.auth_data = self._auth_data or LoginPassword(login, b"")

    def _secured(self) -> None:
        if self._begun:
            fresh: Any = SmtpSession(self._host.loop)  # as above
            before: Any = self.smtp
            fresh.peer, fresh.proxy_data = before.peer, before.proxy_data
            self.smtp, self.letter = fresh, Envelope()
        self.smtp.ssl = _tls_facts(self.get_extra_info("ssl_object"))
        hook = self._host.hooks.get("STARTTLS")
        if hook is None or not self._begun:
            return
        try:
            self._insecure = not hook(self._server, self.smtp, self.letter)
        except Exception:  # noqa: BLE001 - a hook that fails has not found the connection secure
            log_failure(self, "handle_STARTTLS")
            self._insecure = True

    # AUTH

    def auth(self, mechanism: str, initial: bytes | None) -> Answer:
        """An exchange begins; an authenticator is told which mechanism it is."""
        if self._insecure:
            return INSECURE
        self._mechanism, self._auth_data = mechanism, None
        _current.set(self)
        return super().auth(mechanism, initial)

    def auth_response(self, data: bytes) -> Answer:
        """The exchange goes on."""
        _current.set(self)
        return super().auth_response(data)

    async def authenticate(self, login: str, password: str) -> bool:
        """Asks aiosmtpd's authenticator."""
        host, secret = self._host, LoginPassword(login.encode(), password.encode())
        ask = partial(host.authenticator, self._server, self.smtp, self.letter, self._mechanism, secret)
        result = await host.runner.run(host.pool.run(ask))
        if not isinstance(result, AuthResult):
            raise TypeError(f"the authenticator returned {type(result).__name__}, not AuthResult")
        self._auth_data = result.auth_data
        return bool(result.success)

    def hello(self, verb: str, name: str) -> Answer:
        """Nothing begins on a connection that the handler finds insecure."""
        return INSECURE if self._insecure else super().hello(verb, name)


def _tls_facts(tls: ssl.SSLObject | None) -> dict[str, Any]:
    """What asyncio's TLS transports know, under the same names."""
    if tls is None:
        return {}
    return {
        "peercert": tls.getpeercert(),
        "cipher": tls.cipher(),
        "compression": tls.compression(),
        "sslcontext": tls.context,
        "ssl_object": tls,
    }


async def authenticate(login: str, password: str) -> bool:
    """The `authenticate` function of a server whose handler comes with an authenticator."""
    return await _current.get().authenticate(login, password)
