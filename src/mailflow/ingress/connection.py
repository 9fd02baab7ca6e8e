"""One TCP connection of an SMTP client: it only moves bytes between the transport and the protocol core.

Below it may be TLS (`net.tls_layer`), and before everything else a balancer's header (`net.proxy`): while either
is due the connection has a `Front`, and no session yet or a deaf one. Nothing that came before TLS is heard after it.

Callbacks only: no task, no timer, no future for a connection. What comes in goes to `ServerCore.feed`, what that
answers leaves in one write, and the writes of all connections leave together when the loop comes round (`net.turn`). Reading stops while the client does not fetch its replies, while a large message waits
for the disk, and while much input waits behind a pending answer; so memory is bounded for every client.

Invariants: `connection_lost` gives back whatever the session holds. An exception from the core or the session is
logged in full, told to the client as 421 4.3.0 without a word of it, and ends this connection only.
`data_received` is defined on the class: uvloop does not see one that is set on an instance.
"""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mailflow.ingress.abuse.pace import Pace, Unfinished
from mailflow.ingress.limits import Handshakes, SessionCounts
from mailflow.ingress.session import Desk, Session
from mailflow.net.proxy import ProxyError, parse_proxy
from mailflow.net.tls_layer import TlsLayer
from mailflow.net.turn import Turn
from mailflow.smtp import replies
from mailflow.smtp.handler import State
from mailflow.smtp.profile import Profile
from mailflow.smtp.reply import Reply
from mailflow.smtp.server import ServerCore

WAITING_INPUT_BYTES = 4096
"""Input kept behind a pending answer before reading stops (one read may come on top)."""

# Why reading has stopped, as bits.
_UNREAD_REPLIES = 1
_FULL_INTAKE = 2
_PENDING_ANSWER = 4
_SLOWED = 8

# Who is about to end the session, as bits.
_CLIENT = 1
"""It has closed its side."""
_SERVER = 2
"""It is shutting down: the session ends with its transaction."""
_TLS = 4
"""Not the end: STARTTLS was granted, and TLS begins when 220 has been written."""


@dataclass(slots=True)
class Hall:
    """What all connections of a listener share."""

    profile: Profile
    trusted_profile: Profile
    """For clients that may send anywhere."""
    desk: Desk
    counts: SessionCounts
    sessions: int = 0
    """How many sessions this listener may have; 0 = only the limit for all counts."""
    sessions_per_client: int = 0
    """How many of one client; 0 = only the limit for all counts."""
    context: Callable[[], ssl.SSLContext] | None = None
    """The TLS context for a handshake; None where there is no TLS."""
    handshakes: Handshakes = field(default_factory=lambda: Handshakes(1))
    tls_first: bool = False
    """TLS from the first byte."""
    is_balancer: Callable[[str], bool] | None = None
    """Whether the connection comes from a balancer, and so begins with a PROXY header."""
    leaving: bool = False
    """The server is shutting down."""
    connections: set[Connection] = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever the last connection leaves."""
    turn: Turn = field(default_factory=Turn)
    """Replies leave when the loop comes round."""
    may_log_in_clear: Callable[[str], bool] | None = None
    """Tells by its address whether a client may log in without TLS; None: nobody may."""
    clear_profiles: tuple[Profile, Profile] | None = None
    """For these clients: strangers, and those that may send anywhere."""

    def profile_for(self, session: Session) -> Profile:
        """The profile that a new session begins with."""
        if self.may_log_in_clear and self.clear_profiles and self.may_log_in_clear(session.address):
            return self.clear_profiles[session.trusted]
        return self.trusted_profile if session.trusted else self.profile


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


class Connection(asyncio.Protocol):
    """The asyncio protocol of one client; also its session's `Wire`, `timers.Timed` and `tls_layer.Secured`."""

    __slots__ = (
        "_admitted",
        "_core",
        "_front",
        "_hall",
        "_held",
        "_leaving",
        "_session",
        "_transport",
        "age",
        "closing",
        "pace",
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
        self._held = 0
        self._leaving = 0
        self.closing = False
        self.quiet = 0
        self.age = 0
        self.pace: Pace | None = None

    def __repr__(self) -> str:
        return f"<Connection {self._session} {self._core} held={self._held} closing={self.closing}>"

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the client, or turns it away."""
        self._transport = transport  # type: ignore[assignment] # the loop gives stream protocols nothing else
        name = transport.get_extra_info("peername")
        # a UNIX socket has a text, or nothing; None: it is gone already
        address, port = (name[0], name[1]) if isinstance(name, tuple) else ("", 0)
        hall = self._hall
        if hall.is_balancer is not None and hall.is_balancer(address):
            if self._admit(""):
                self._front = front = Front(address, port)
                front.header = b""
        elif self._admit(address):
            self._begin(address, port)

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
        hall.connections.add(self)
        return True

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
        self._session = session = hall.desk.open(hall.desk, self, address, port)
        profile = hall.profile_for(session)
        if via:
            session.identify(via=via)
        if layer is not None:
            session.identify(tls=layer.words, certificate=layer.certificate)
            profile = profile.secured or profile
        self._core = core = ServerCore(profile, session, tls=layer is not None)
        hall.desk.log.event("connect", level=10, client=session.client)
        self._flush(core)

    def data_received(self, data: bytes) -> None:
        """Takes what the client sent."""
        core = self._core
        if core is None:
            self._read_header(data)
            return
        self.quiet = 0
        try:
            core.feed(data)
        except Exception:  # noqa: BLE001 - one session's mishap must not harm the others
            self._crashed(core)
        if core.closing or core.input or self._leaving:
            self._flush(core)
        elif core.out:
            self._hall.turn.add(self)

    def eof_received(self) -> bool:
        """The client has closed its side; True keeps ours open until what is pending has been answered."""
        core = self._core
        if core is None:
            return False
        self._leaving |= _CLIENT
        if core.pending:
            return True
        self.flush()
        core.abandon()
        return False

    def pause_writing(self) -> None:
        """The client does not fetch its replies."""
        self._hold(_UNREAD_REPLIES)

    def resume_writing(self) -> None:
        """It does again."""
        self.quiet = 0
        self._go_on(_UNREAD_REPLIES)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The connection is gone, for whatever reason."""
        core, session, hall = self._core, self._session, self._hall
        if self._admitted is None:
            return
        self._end_handshake()
        if core is not None:
            core.abandon()
        if session is not None:
            session.closed()
            hall.desk.log.event("disconnect", client=session.client, helo=session.peer.helo, messages=session.messages)
        hall.counts.release(self._admitted)
        self._transport = self._core = self._session = self._front = self._admitted = None  # no cycles: freed at once
        self.closing = True
        hall.connections.discard(self)
        if not hall.connections:
            hall.empty.set()

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
        hall, self._front, self.quiet = self._hall, None, 0
        hall.counts.release("")
        hall.connections.discard(self)
        self._admitted = None
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
        session = self._session
        if not self._hall.handshakes.begin():
            return False
        if session is not None:
            self._front = Front(session.address, 0)
            self._leaving |= _TLS
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
        self._leaving &= ~_TLS
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
        self._hall.desk.log.event(event, client=client, reason=reason)

    # What the session calls

    def answer(self, answer: Reply) -> None:
        """Brings the pending answer and goes on with what has waited behind it."""
        core = self._core
        if core is None:
            return
        self.quiet = 0
        try:
            core.resume(answer)
        except Exception:  # noqa: BLE001 - as in data_received
            self._crashed(core)
        if self._held & _PENDING_ANSWER and not (core.pending and len(core.input) > WAITING_INPUT_BYTES):
            self._go_on(_PENDING_ANSWER)
        if core.closing or core.input or self._leaving:
            self._flush(core)
        elif core.out:
            self._hall.turn.add(self)

    def hold(self) -> None:
        """The message cannot be taken in as fast as it comes."""
        self._hold(_FULL_INTAKE)

    def go_on(self) -> None:
        """It can again."""
        self._go_on(_FULL_INTAKE)

    def slow_down(self, seconds: float) -> None:
        """Abuse control has nothing read from the client for so long. The only timer that a connection may have."""
        if not self._held & _SLOWED:
            self._hold(_SLOWED)
            asyncio.get_running_loop().call_later(seconds, self._go_on, _SLOWED)

    def push(self, lines: bytes) -> None:
        """Says something before the pending answer."""
        if self._core is not None:
            self._core.out.append(lines)
            self._hall.turn.add(self)

    def hello_reply(self) -> bytes:
        """What EHLO or HELO is answered with when nobody minds."""
        return self._core.hello_reply() if self._core is not None else b""

    def get_extra_info(self, name: str) -> Any:
        """The transport's `get_extra_info`."""
        return self._transport.get_extra_info(name) if self._transport is not None else None

    # What the timer and the listener call

    @property
    def opening(self) -> bool:
        """Whether a header or a handshake is due."""
        return self._front is not None

    @property
    def patient(self) -> bool:
        """Whether the client waits for us."""
        core = self._core
        if self.closing or self._front is not None:
            return False
        return bool(self._held & (_FULL_INTAKE | _SLOWED) or (core is not None and core.pending))

    @property
    def unfinished(self) -> Unfinished:
        """What the client is sending: the bytes of a message so far, or the beginning of a command line."""
        core, session = self._core, self._session
        if core is None or session is None or self._front or self._held or core.pending or self.closing:
            return None
        return session.received if core.state is State.DATA else core.unfinished

    @property
    def favoured(self) -> bool:
        """Whether the client keeps its usual limits under stress."""
        session, conduct = self._session, self._hall.desk.panel.conduct
        return session is None or conduct is None or session.trusted or conduct.stress.favours(session.address)

    def expire(self) -> None:
        """Time is up."""
        front = self._front
        if front is None:
            self._end(replies.TIMED_OUT)
            return
        if front.header is not None:
            self._log("reject", reason="no PROXY header in time")
        self.insecure("timed out")
        self.cut()

    def give_up(self, why: str) -> None:
        """The client is too slow."""
        session, conduct = self._session, self._hall.desk.panel.conduct
        if session is not None and conduct is not None:
            conduct.slow(session, why)
        self.expire()

    def leave(self) -> None:
        """The server shuts down: now if no transaction is under way, or else when it is over."""
        self._leaving |= _SERVER
        if self._front is not None:
            self.insecure("shutting down")
            self.cut()
        elif self._core is not None:
            self._flush(self._core)

    def cut(self) -> None:
        """Closes without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        """Writes the replies that wait, if the connection is still there and they did not leave otherwise."""
        core, transport = self._core, self._transport
        if core is not None and transport is not None and not transport.is_closing():
            out = core.out
            if len(out) == 1:
                transport.write(out.pop())
            elif out:
                self._flush(core)

    # Helpers

    def _turn_away(self, answer: Reply) -> None:
        if self._transport is not None:
            if not self._hall.tls_first:
                self._transport.write(replies.wire(answer))
            self._close()

    def _flush(self, core: ServerCore) -> None:
        """Writes the replies of this flight in one go, and sees to what follows from them."""
        transport = self._transport
        if transport is None:
            return
        out = core.out
        if out:
            transport.write(b"".join(out))
            out.clear()
        if core.closing or core.input or self._leaving:
            self._follow_up(core)

    def _follow_up(self, core: ServerCore) -> None:
        if core.closing:
            self._close()
        elif self._leaving & _TLS and core.upgrading:
            self._start_tls()
        elif self._leaving & _CLIENT and not core.pending:
            core.abandon()
            self._close()
        elif self._leaving & _SERVER and core.between:
            self._end(replies.SHUTTING_DOWN)
        elif core.pending and len(core.input) > WAITING_INPUT_BYTES:
            self._hold(_PENDING_ANSWER)

    def _end(self, answer: Reply) -> None:
        core = self._core
        if core is not None and not self.closing:
            core.fail(answer)
            self._flush(core)

    def _close(self) -> None:
        if not self.closing and self._transport is not None:
            self.closing = True
            self.quiet = 0
            self._transport.close()

    def _crashed(self, core: ServerCore) -> None:
        session = self._session
        self._hall.desk.log.event(
            "warning", level=40, client=session.client if session else "", reason=traceback.format_exc()
        )
        core.fail(replies.INTERNAL_ERROR)

    def _hold(self, reason: int) -> None:
        if not self._held and self._transport is not None and not self.closing:
            self._transport.pause_reading()
        self._held |= reason

    def _go_on(self, reason: int) -> None:
        if not self._held & reason:
            return
        self._held &= ~reason
        if not self._held and self._transport is not None and not self.closing:
            self._transport.resume_reading()
