"""The SMTP server: sockets that accept, and the beginning and end of all sessions.

The composition root makes one `Listener` for all `[[listener]]` entries: `start` binds and accepts; `stop` accepts no
more; `drain` lets transactions under way end; `close` cuts off what is left. TLS contexts and per-listener policy
will be further parts of a `Hall`, one for each kind of listener.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from functools import partial

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.ingress.asking import Panel
from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.connection import Connection, Hall
from mailflow.ingress.limits import SessionCounts
from mailflow.ingress.policy import RelayControl
from mailflow.ingress.ports import Events, Intake, Recipients
from mailflow.ingress.session import Desk
from mailflow.ingress.settings import LimitsSettings, ListenerSettings
from mailflow.ingress.timers import SessionTimer
from mailflow.setting import Endpoint, Network
from mailflow.smtp.profile import Offers, Profile


class Listener:
    """All SMTP listeners of one server."""

    def __init__(
        self,
        listeners: Sequence[ListenerSettings],
        limits: LimitsSettings,
        *,
        hostname: str,
        networks: Iterable[Network],
        recipients: Recipients,
        intake: Intake,
        log: Events,
        panel: Panel | None = None,
        auth: Authenticator | None = None,
    ) -> None:
        """`networks` are the clients that may send anywhere (`relay.networks`); `panel`: the guards that are asked;
        `auth`: who knows logins, where AUTH is offered."""
        self._listeners = listeners
        control = RelayControl(networks)
        desk = Desk(recipients, intake, control, log, limits.recipients, panel=panel, auth=auth)
        stranger, trusted = (make_profile(hostname, limits, trusted=trusted, auth=auth) for trusted in (False, True))
        counts = SessionCounts(limits.sessions, limits.sessions_per_client, control.trusts)
        self._hall = Hall(stranger, trusted, desk, counts)
        if auth is not None and auth.settings.allow_plaintext:
            self._hall.may_log_in_clear = RelayControl(auth.settings.allow_plaintext).trusts
            self._hall.clear_profiles = (
                make_profile(hostname, limits, trusted=False, auth=auth, clear=True),
                make_profile(hostname, limits, trusted=True, auth=auth, clear=True),
            )
        self._timer = SessionTimer(self._hall.connections, limits.idle_timeout, limits.session_timeout)
        self._servers: list[asyncio.Server] = []
        self.addresses: list[Endpoint] = []
        """What is bound, ports filled in."""

    def __repr__(self) -> str:
        return f"<Listener {' '.join(map(str, self.addresses))} sessions={self.sessions}>"

    @property
    def sessions(self) -> int:
        """Sessions open now."""
        return len(self._hall.connections)

    async def start(self) -> list[Endpoint]:
        """Binds and accepts. Returns the bound addresses. Raises ConfigError, with nothing left open."""
        try:
            for number, settings in enumerate(self._listeners):
                await self._listen(settings, f"listener[{number}].bind")
        except ConfigError:
            self.stop()
            raise
        self._timer.start()
        return self.addresses

    def stop(self) -> None:
        """Accepts no more; sessions go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def drain(self, grace: float) -> bool:
        """Ends sessions as their transactions end, waiting at most `grace` seconds. True when none is left."""
        self.stop()
        hall = self._hall
        hall.leaving = True
        hall.empty.clear()
        for connection in list(hall.connections):
            connection.leave()
        if hall.connections:
            try:
                async with asyncio.timeout(grace):
                    await hall.empty.wait()
            except TimeoutError:
                return False
        return True

    async def close(self) -> None:
        """Cuts off every session that is left."""
        self.stop()
        self._timer.stop()
        hall = self._hall
        hall.empty.clear()
        for connection in list(hall.connections):
            connection.cut()
        if hall.connections:
            await hall.empty.wait()

    async def _listen(self, settings: ListenerSettings, key: str) -> None:
        loop = asyncio.get_running_loop()
        host, port, _ = settings.bind
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _kind, _proto, _name, address in dict.fromkeys(found):
                sock = _bound_socket(family, address)
                server = await loop.create_server(partial(Connection, self._hall), sock=sock, backlog=settings.backlog)
                self._servers.append(server)
                self.addresses.append(Endpoint(*sock.getsockname()[:2]))
        except OSError as error:
            problem = ConfigProblem(f"cannot listen on {settings.bind}: {error.strerror or error}", key=key)
            raise ConfigError([problem]) from error


def make_profile(
    hostname: str,
    limits: LimitsSettings,
    *,
    trusted: bool,
    auth: Authenticator | None = None,
    clear: bool = False,
) -> Profile:
    """What the protocol core has to know of the settings, for clients that may send anywhere or for strangers.

    `clear`: for clients that may log in without TLS.
    """
    mechanisms: tuple[str, ...] = ()
    if auth is not None:
        mechanisms = auth.plaintext_mechanisms if clear else auth.clear_mechanisms
    return Profile(
        hostname,
        message_size=limits.message_size,
        command_line=limits.command_line,
        data_line=limits.data_line,
        errors=limits.errors,
        junk_commands=limits.junk_commands,
        offers=Offers(mechanisms),
        normalise=limits.bare_newlines == "normalise" or (trusted and limits.bare_newlines == "normalise_trusted"),
    )


def _bound_socket(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "[::]" and "0.0.0.0" may then be bound both, and IPv4 clients are seen as what they are.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)  # noqa: FBT003
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
