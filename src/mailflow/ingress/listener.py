"""The SMTP server: sockets that accept, and the beginning and end of all sessions.

The composition root makes one `Listener` for all `[[listener]]` entries: `start` binds and accepts; `stop` accepts no
more; `drain` lets transactions under way end; `close` cuts off what is left. Each entry has a `Hall` of its own with what its
connections share (limits, policy, TLS); how many sessions there are in all and for each client is counted in common.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import cast

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.ingress.abuse.conduct import Conduct
from mailflow.ingress.asking import Panel
from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.connection import Connection
from mailflow.ingress.desk import Desk
from mailflow.ingress.hall import Hall
from mailflow.ingress.limits import Handshakes, NetworkLimit, SessionCounts
from mailflow.ingress.policy import RelayControl
from mailflow.ingress.ports import Events, Intake, Recipients, Sites
from mailflow.ingress.profiles import PLAIN_PROTOCOL, make_profile, tls_use
from mailflow.ingress.services import NoSites, Services
from mailflow.ingress.settings import LimitsSettings, ListenerSettings, ProtocolSettings
from mailflow.ingress.timers import SessionTimer
from mailflow.net.listen import inherited_sockets, remove_socket, tcp_socket, unix_socket
from mailflow.net.tls import Certificates, Variant
from mailflow.net.tls_settings import TlsSettings
from mailflow.setting import Endpoint, Inherited, Network, UnixPath

ACCEPTED_IN_A_TURN = 8
"""Connections that are taken from one socket in a turn of the event loop. uvloop takes one from each handle, and a turn for each client
costs more than what the client wants; so there are as many handles of the same socket. Figures are in docs/performance.md."""


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
        panel: Callable[[ListenerSettings], Panel] = lambda _listener: Panel(),
        auth: Authenticator | None = None,
        tls: TlsSettings | None = None,
        conduct: Conduct | None = None,
        protocol: ProtocolSettings = PLAIN_PROTOCOL,
        etrn_domains: Collection[str] = (),
        sites: Sites | None = None,
    ) -> None:
        """`networks` are the clients that may send anywhere (`relay.networks`); `panel` gives a listener's guards;
        `auth`: who knows logins, where AUTH is offered; `conduct`: abuse control; `etrn_domains`: whose mail anybody may
        ask for, at `sites`.

        Reads the certificates of `tls`. Raises ConfigError.
        """
        self._listeners = listeners
        self._networks = tuple(networks)
        self._tls = tls or TlsSettings()
        self._certificates = self._read_certificates(log)
        self._handshakes = Handshakes(self._tls.handshakes)
        self._conduct = conduct
        counts = self._make_counts(limits)
        self.halls: list[Hall] = []
        self._timers: list[SessionTimer] = []
        self._protocol, self._etrn = protocol, bool(etrn_domains)
        services = Services(
            recipients,
            {"XCLIENT": RelayControl(protocol.xclient), "XFORWARD": RelayControl(protocol.xforward)},
            etrn_domains,
            sites or NoSites(),
            protocol.future_release,
        )
        for settings in listeners:
            own = settings.limits.of(limits)
            relay = RelayControl(self._networks, everyone=settings.trusted)
            desk = Desk(
                recipients,
                intake,
                relay,
                log,
                own.recipients,
                panel=panel(settings),
                service=settings.service,
                auth=auth if settings.auth else None,
                services=replace(services, submission=settings.protocol in ("submission", "submissions")),
                message_limit=own.messages,
            )
            hall = self._make_hall(settings, own, desk, settings.hostname or hostname, counts)
            self.halls.append(hall)
            self._timers.append(self._make_timer(hall, own))
        self._servers: list[asyncio.Server] = []
        self._paths: dict[str, tuple[int, int]] = {}
        """UNIX sockets of ours, with device and inode."""
        self.addresses: list[Endpoint] = []
        """What is bound over IP, ports filled in."""
        self.places: list[str] = []
        """What is bound, of every kind, as text."""

    def _read_certificates(self, log: Events) -> Certificates | None:
        if not self._tls.certificate:
            return None
        variants = [_variant(settings, self._tls) for settings in self._listeners]

        def event(name: str, level: int, **fields: object) -> None:
            log.event(name, level=level, **fields)

        return Certificates(self._tls, variants, log=event)

    def _make_counts(self, limits: LimitsSettings) -> SessionCounts:
        conduct = self._conduct
        return SessionCounts(
            limits.sessions,
            limits.sessions_per_client,
            RelayControl(self._networks).trusts,
            network=NetworkLimit(limits.sessions_per_network, conduct.network) if conduct else None,
            stress=conduct.stress if conduct else None,
        )

    def _make_timer(self, hall: Hall, limits: LimitsSettings) -> SessionTimer:
        idle, total, opening = limits.idle_timeout, limits.session_timeout, self._tls.handshake_timeout
        stress, paces = (self._conduct.stress, self._conduct.paces) if self._conduct else (None, None)
        return SessionTimer(hall.connections, idle, total, opening, stress=stress, paces=paces)

    def _make_hall(
        self, settings: ListenerSettings, limits: LimitsSettings, desk: Desk, hostname: str, counts: SessionCounts
    ) -> Hall:
        use = tls_use(settings, certificates=self._certificates is not None)
        auth, protocol = desk.auth, self._protocol
        if settings.banner is not None:
            protocol = protocol.model_copy(update={"banner": settings.banner})
        form = partial(
            make_profile,
            hostname,
            limits,
            tls=use,
            auth=auth,
            protocol=protocol,
            lmtp=settings.protocol == "lmtp",
            service=settings.service,
            etrn=self._etrn,
        )
        hall = Hall(form(trusted=False), form(trusted=True), desk, counts)
        desk.profile = hall.profile_for
        hall.sessions, hall.sessions_per_client = limits.sessions, limits.sessions_per_client
        if auth is not None and auth.settings.allow_plaintext:
            hall.may_log_in_clear = RelayControl(auth.settings.allow_plaintext).trusts
            hall.clear_profiles = (form(trusted=False, clear=True), form(trusted=True, clear=True))
        if self._certificates is not None and use != "no":
            hall.context = partial(self._certificates.context, _variant(settings, self._tls))
            hall.tls_first = use == "implicit"
        hall.handshakes = self._handshakes
        if settings.proxy_networks:
            hall.is_balancer = RelayControl(settings.proxy_networks).trusts
        return hall

    def __repr__(self) -> str:
        return f"<Listener {' '.join(map(str, self.addresses))} sessions={self.sessions}>"

    @property
    def sessions(self) -> int:
        """Sessions open now."""
        return sum(len(hall.connections) for hall in self.halls)

    @property
    def stress(self) -> bool:
        """Whether nearly all sessions are taken, so that strangers have shorter limits."""
        return self._conduct is not None and self._conduct.stress.on

    @property
    def handshakes(self) -> int:
        """TLS handshakes under way."""
        return self._handshakes.total

    async def start(self) -> list[Endpoint]:
        """Binds and accepts. Returns the bound IP addresses. Raises ConfigError, with nothing left open."""
        try:
            for number, (settings, hall) in enumerate(zip(self._listeners, self.halls, strict=True)):
                await self._listen(settings, hall, f"listener[{number}].bind")
        except ConfigError:
            self.stop()
            raise
        for timer in self._timers:
            timer.start()
        if self._certificates is not None:
            self._certificates.start()
        return self.addresses

    def look_at_certificates(self) -> None:
        """Has new certificates taken into use now, if the files have changed."""
        if self._certificates is not None:
            self._certificates.look()

    def stop(self) -> None:
        """Accepts no more; sessions go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        while self._paths:
            remove_socket(*self._paths.popitem())

    async def drain(self, grace: float) -> bool:
        """Ends sessions as their transactions end, waiting at most `grace` seconds. True when none is left."""
        self.stop()
        for hall in self.halls:
            hall.leaving = True
            for connection in list(hall.connections):
                connection.leave()
        try:
            async with asyncio.timeout(grace):
                await self._until_empty()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Cuts off every session that is left."""
        self.stop()
        for timer in self._timers:
            timer.stop()
        if self._certificates is not None:
            self._certificates.stop()
        for hall in self.halls:
            hall.leaving = True
            for connection in list(hall.connections):
                connection.cut()
        await self._until_empty()

    async def _until_empty(self) -> None:
        for hall in self.halls:
            hall.empty.clear()
            if hall.connections:
                await hall.empty.wait()

    async def _listen(self, settings: ListenerSettings, hall: Hall, key: str) -> None:
        try:
            for sock in await self._bind(settings):
                await self._accept_on(sock, hall, settings.backlog)
                if sock.family == socket.AF_UNIX:
                    self.places.append(str(settings.bind))
                else:
                    self.addresses.append(Endpoint(*sock.getsockname()[:2]))
                    self.places.append(str(self.addresses[-1]))
        except OSError as error:
            problem = ConfigProblem(f"cannot listen on {settings.bind}: {error.strerror or error}", key=key)
            raise ConfigError([problem]) from error

    async def _accept_on(self, sock: socket.socket, hall: Hall, backlog: int) -> None:
        loop = asyncio.get_running_loop()
        serve = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        for same in chain((sock,), (sock.dup() for _ in range(ACCEPTED_IN_A_TURN - 1))):
            factory = cast("Callable[[], asyncio.Protocol]", partial(Connection, hall))
            self._servers.append(await serve(factory, sock=same, backlog=backlog))

    async def _bind(self, settings: ListenerSettings) -> list[socket.socket]:
        """The sockets that an entry stands for. Raises OSError, with none of them left open."""
        bind = settings.bind
        if isinstance(bind, Inherited):
            return inherited_sockets(bind.name, os.environ)
        if isinstance(bind, UnixPath):
            mode, owner = int(settings.socket_mode, 8), settings.socket_owner
            sock, identity = unix_socket(bind.path, mode=mode, owner=owner, backlog=settings.backlog)
            self._paths[bind.path] = identity
            return [sock]
        loop = asyncio.get_running_loop()
        flags = socket.AI_PASSIVE
        found_addresses = await loop.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM, flags=flags)
        sockets: list[socket.socket] = []
        try:
            for family, _kind, _proto, _name, address in dict.fromkeys(found_addresses):
                sockets.append(tcp_socket(family, address))
        except OSError:
            for sock in sockets:
                sock.close()
            raise
        return sockets


def _variant(settings: ListenerSettings, tls: TlsSettings) -> Variant:
    return Variant(settings.tls_level or tls.level, settings.client_certificates or tls.client_certificates)
