"""How a connection begins, is secured, and ends: what stands before the talk of SMTP.

A connection is counted, and told by a balancer whose it is (`net.proxy`), and secured where TLS comes first
(`net.tls_layer`); then it is greeted. With STARTTLS it is secured later. While a header or a handshake is due it has a `Front`,
and no session yet or a deaf one. `Connection` (connection.py) is the rest of it.

Invariants: what was counted is given back once, in `connection_lost`. Nothing that came in the clear is heard after TLS has begun: from
the writing of the 220 on every byte goes to the TLS layer, and the core is deaf until `secured`.
"""

from __future__ import annotations

import asyncio
import traceback

from mailflow.ingress.hall import Hall
from mailflow.ingress.session import Session
from mailflow.net.proxy import ProxyError, parse_proxy
from mailflow.net.tls_layer import TlsLayer
from mailflow.net.turn import Party
from mailflow.smtp import replies
from mailflow.smtp.reply import Reply
from mailflow.smtp.server import ServerCore

_MAPPED = "::ffff:"
"""Before an IPv4 address on a socket for both families (RFC 4291 §2.5.5.2), as systemd hands over."""

UPGRADING = 4
"""A bit of `_leaving`, though not the end: STARTTLS was granted, and TLS begins when 220 has been written."""


class Front:
    """What a connection needs until SMTP can begin or go on."""

    __slots__ = ("address", "header", "port", "shaking", "via")

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.via = ""
        self.header: bytes | None = None
        """The beginning of a balancer's header, while that is due."""
        self.shaking = False
        """A TLS handshake is counted for it."""


class Fronted(Party):
    """The first half of `Connection`, the asyncio protocol; also `tls_layer.Secured`."""

    __slots__ = (
        "_admitted",
        "_core",
        "_front",
        "_hall",
        "_leaving",
        "_session",
        "_transport",
        "age",
        "closing",
        "quiet",
    )

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._transport: asyncio.Transport | None = None
        self._core: ServerCore | None = None
        self._session: Session | None = None
        self._front: Front | None = None
        self._admitted: str | None = None
        """The address for which a session is counted; None when none is."""
        self._leaving = 0
        self.closing = False
        self.quiet = 0
        self.age = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the client, or turns it away."""
        self._transport = transport  # type: ignore[assignment] # the loop gives stream protocols nothing else
        name = transport.get_extra_info("peername")
        # a UNIX socket has a text, or nothing; None: it is gone already
        address, port = (name[0], name[1]) if isinstance(name, tuple) else ("", 0)
        if "." in address:
            address = address.removeprefix(_MAPPED)
        hall = self._hall
        if hall.is_balancer is not None and hall.is_balancer(address):
            if self._admit(""):
                self._front = front = Front(address, port)
                front.header = b""
        elif self._admit(address):
            try:
                self._begin(address, port)
            except Exception:  # noqa: BLE001 - the loop would go on with a connection that nobody serves
                hall.desk.log.event("warning", level=40, client=address, reason=traceback.format_exc())
                self.cut()

    def _admit(self, address: str) -> bool:
        """Counts the session, or turns the client away."""
        hall = self._hall
        if hall.leaving:
            self._turn_away(replies.SHUTTING_DOWN)
            return False
        full = hall.sessions and len(hall.connections) >= hall.sessions
        if full or not hall.counts.admit(address, hall.sessions_per_client):
            client = f"unknown[{address}]" if address else "unix"
            conduct = hall.desk.panel.conduct
            level = 20 if conduct is None or conduct.is_news("sessions", address) else 10
            hall.desk.log.event("reject", level, client=client, reason=replies.TOO_MANY_SESSIONS.text)
            self._turn_away(replies.TOO_MANY_SESSIONS)
            return False
        self._admitted = address
        hall.connections.add(self)  # type: ignore[arg-type] # nobody makes half a connection
        return True

    def _dismiss(self) -> None:
        """Counts it no more."""
        hall = self._hall
        if self._admitted is not None:
            hall.counts.release(self._admitted)
            self._admitted = None
            hall.connections.discard(self)
            if not hall.connections:
                hall.empty.set()

    def _begin(self, address: str, port: int, via: str = "") -> None:
        """The client is known by its address: TLS, where it comes first, or the greeting."""
        if not self._hall.tls_first:
            self._greet(address, port, via)
            return
        self._front = front = Front(address, port)
        front.via = via
        if self.upgrade():
            self._start_tls()
        else:
            self._log("tls-failed", reason="too many handshakes")
            self._close()

    def _greet(self, address: str, port: int, via: str = "", layer: TlsLayer | None = None) -> None:
        hall = self._hall
        make = hall.desk.panel.session or Session
        self._session = session = make(hall.desk, self, address, port)  # type: ignore[arg-type]
        profile = hall.profile_for(session)
        if via:
            session.identify(via=via)
        if layer is not None:
            session.identify(tls=layer.words, certificate=layer.certificate)
            profile = profile.secured or profile
        self._core = core = ServerCore(profile, session, tls=layer is not None)
        hall.desk.log.event("connect", level=10, client=session.client)
        if (
            core.closing
        ):  # at once: what it says more, and is not read when we close, resets the connection and overtakes this
            self.flush()
        else:
            hall.turn.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The connection is gone, for whatever reason."""
        core, session, hall = self._core, self._session, self._hall
        if self._admitted is None:
            return
        self._end_handshake()
        try:
            if core is not None:
                core.abandon()
            if session is not None:
                session.closed()
                hall.desk.log.event(
                    "disconnect",
                    level=10 if session.unnoticed else 20,
                    client=session.client,
                    helo=session.peer.helo,
                    messages=session.messages,
                )
        finally:  # whatever a part of the session does, it is counted no more
            self._dismiss()
            self._transport = self._core = self._session = self._front = None  # no cycles: freed at once
            self.closing = True

    # A balancer's header

    def _read_header(self, data: bytes) -> None:
        """Reads on, before there is a session, if a header is due."""
        front = self._front
        if front is None or front.header is None or self.closing:
            return
        data = front.header + data
        try:
            header = parse_proxy(data)
        except ProxyError as error:
            self._log("reject", reason=str(error))
            self.cut()
            return
        if header is None:
            front.header = data
            return
        self._front, self.quiet = None, 0
        self._dismiss()
        address, port = (front.address, front.port) if header.local else (header.address, header.port)
        if not self._admit(address):
            return
        self._begin(address, port, front.address)
        rest = data[header.size :]
        if rest and self._transport is not None and not self.closing:
            (self._transport if isinstance(self._transport, TlsLayer) else self).data_received(rest)

    # TLS

    def upgrade(self) -> bool:
        """Makes ready for a handshake; False when there are too many."""
        session, hall = self._session, self._hall
        address = session.address if session is not None else self._front.address if self._front is not None else ""
        conduct = hall.desk.panel.conduct
        if conduct is not None and not conduct.takes_handshake(address, ours=hall.desk.relay.trusts(address)):
            return False
        if not hall.handshakes.begin():
            return False
        if session is not None:
            self._front = Front(session.address, 0)
            self._leaving |= UPGRADING
        if self._front is not None:
            self._front.shaking = True
        return True

    def _start_tls(self) -> None:
        """From here on all input is TLS."""
        transport, context = self._transport, self._hall.context
        begun = isinstance(transport, TlsLayer)
        if transport is not None and context is not None and not begun and not transport.is_closing():
            self.quiet = 0
            self._transport = layer = TlsLayer(transport, self, context())
            layer.start()

    def secured(self) -> None:
        """The handshake is done; the session begins, or begins anew (RFC 3207 §4.2)."""
        front, core, session, layer = self._front, self._core, self._session, self._transport
        self._end_handshake()
        if front is None or not isinstance(layer, TlsLayer):
            return
        self._front, self.quiet = None, 0
        if core is None or session is None:
            self._greet(front.address, front.port, front.via, layer)
            return
        self._leaving &= ~UPGRADING
        if core.dropped:
            session.event("warning", level=30, reason=f"{core.dropped} bytes behind STARTTLS were dropped")
        core.secured()
        session.identify(helo="", protocol="SMTP", login="", tls=layer.words, certificate=layer.certificate)

    def insecure(self, reason: str) -> None:
        """The handshake has failed."""
        if self._front is not None and self._front.shaking:
            self._log("tls-failed", reason=reason)
            self._end_handshake()
            self.closing, self.quiet = True, 0

    def _end_handshake(self) -> None:
        front = self._front
        if front is not None and front.shaking:
            front.shaking = False
            self._hall.handshakes.end()

    def _log(self, event: str, reason: str) -> None:
        front, session = self._front, self._session
        client = session.client if session else f"unknown[{front.address}]" if front and front.address else "unix"
        conduct = self._hall.desk.panel.conduct
        level = 20 if conduct is None or conduct.is_news(event, client) else 10
        self._hall.desk.log.event(event, level, client=client, reason=reason)

    # What the other half does

    def data_received(self, data: bytes) -> None:
        """Takes what the client sent."""
        raise NotImplementedError

    def eof_received(self) -> bool:
        """The client has closed its side; True keeps ours open."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """The client does not fetch its replies."""
        raise NotImplementedError

    def resume_writing(self) -> None:
        """It does again."""
        raise NotImplementedError

    def flush(self) -> None:
        """Writes the replies that wait."""
        raise NotImplementedError

    # Helpers

    def _turn_away(self, answer: Reply) -> None:
        if self._transport is not None:
            if not self._hall.tls_first:
                self._transport.write(replies.wire(answer))
            self._close()

    def cut(self) -> None:
        """Closes without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()

    def _close(self) -> None:
        if not self.closing and self._transport is not None:
            self.closing = True
            self.quiet = 0
            self._transport.close()
