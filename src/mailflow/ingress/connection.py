"""One TCP connection of an SMTP client: it only moves bytes between the transport and the protocol core.

Callbacks only: no task, no timer, no future for a connection. What comes in goes to `ServerCore.feed`, what that
answers leaves in one write, and the writes of all connections leave together when the loop comes round (`net.turn`). Reading stops while the client does not fetch its replies, while a large message waits
for the disk, and while much input waits behind a pending answer; so memory is bounded for every client.

Invariants: `connection_lost` gives back whatever the session holds. An exception from the core or the session is
logged in full, told to the client as 421 4.3.0 without a word of it, and ends this connection only.
`data_received` is defined on the class: uvloop does not see one that is set on an instance.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mailflow.ingress.limits import SessionCounts
from mailflow.ingress.session import Desk, Session
from mailflow.net.turn import Turn
from mailflow.smtp import replies
from mailflow.smtp.profile import Profile
from mailflow.smtp.reply import Reply
from mailflow.smtp.server import ServerCore

WAITING_INPUT_BYTES = 4096
"""Input kept behind a pending answer before reading stops (one read may come on top)."""

# Why reading has stopped, as bits.
_UNREAD_REPLIES = 1
_FULL_INTAKE = 2
_PENDING_ANSWER = 4

# Who is about to end the session, as bits.
_CLIENT = 1
"""It has closed its side."""
_SERVER = 2
"""It is shutting down: the session ends with its transaction."""


@dataclass(slots=True)
class Hall:
    """What all connections of a listener share."""

    profile: Profile
    trusted_profile: Profile
    """For clients that may send anywhere."""
    desk: Desk
    counts: SessionCounts
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


class Connection(asyncio.Protocol):
    """The asyncio protocol of one client; also its session's `Wire` and `timers.Timed`."""

    __slots__ = ("_core", "_hall", "_held", "_leaving", "_session", "_transport", "age", "closing", "quiet")

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._transport: asyncio.Transport | None = None
        self._core: ServerCore | None = None
        self._session: Session | None = None
        self._held = 0
        self._leaving = 0
        self.closing = False
        self.quiet = 0
        self.age = 0

    def __repr__(self) -> str:
        return f"<Connection {self._session} {self._core} held={self._held} closing={self.closing}>"

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the client, or turns it away."""
        self._transport = transport  # type: ignore[assignment] # the loop gives stream protocols nothing else
        name = transport.get_extra_info("peername")
        address, port = (name[0], name[1]) if name else ("", 0)  # None: it is gone already
        hall = self._hall
        if hall.leaving:
            self._turn_away(replies.SHUTTING_DOWN)
            return
        if not hall.counts.admit(address):
            hall.desk.log.event("reject", client=f"unknown[{address}]", reason=replies.TOO_MANY_SESSIONS.text)
            self._turn_away(replies.TOO_MANY_SESSIONS)
            return
        hall.connections.add(self)
        self._session = session = hall.desk.open(hall.desk, self, address, port)
        self._core = core = ServerCore(hall.profile_for(session), session)
        hall.desk.log.event("connect", level=10, client=session.client)
        self._flush(core)

    def data_received(self, data: bytes) -> None:
        """Takes what the client sent."""
        core = self._core
        if core is None:
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
        if core is None or session is None:
            return
        core.abandon()
        session.closed()
        self._transport = self._core = self._session = None  # no cycles: freed at once
        self.closing = True
        hall.connections.discard(self)
        hall.counts.release(session.address)
        hall.desk.log.event("disconnect", client=session.client, helo=session.peer.helo, messages=session.messages)
        if not hall.connections:
            hall.empty.set()

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

    def push(self, lines: bytes) -> None:
        """Says something before the pending answer."""
        if self._core is not None:
            self._core.out.append(lines)
            self._hall.turn.add(self)

    def hello_reply(self) -> bytes:
        """What EHLO or HELO is answered with when nobody minds."""
        return self._core.hello_reply() if self._core is not None else b""

    def extra(self, name: str) -> Any:
        """The transport's `get_extra_info`."""
        return self._transport.get_extra_info(name) if self._transport is not None else None

    # What the timer and the listener call

    @property
    def patient(self) -> bool:
        """Whether the client waits for us."""
        core = self._core
        return not self.closing and bool(self._held & _FULL_INTAKE or (core is not None and core.pending))

    def expire(self) -> None:
        """Time is up."""
        self._end(replies.TIMED_OUT)

    def leave(self) -> None:
        """The server shuts down: now if no transaction is under way, or else when it is over."""
        self._leaving |= _SERVER
        if self._core is not None:
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
