"""One TCP connection of an SMTP client: it only moves bytes between the transport and the protocol core.

How it begins, is secured and ends is in front.py; here is the talk.

Callbacks only: no task, no timer, no future for a connection. What comes in goes to `ServerCore.feed`, what that
answers leaves in one write, and both happen for all connections together when the loop comes round (`net.turn`); only a
second read in the same turn, and a large one, is dealt with at once. Reading stops while the client does not fetch its
replies, while a large message waits for the disk, and while much input waits behind a pending answer; so memory is
bounded for every client.

Invariants: `connection_lost` gives back whatever the session holds. An exception from the core or the session is
logged in full, told to the client as 421 4.3.0 without a word of it, and ends this connection only.
`data_received` is defined on the class: uvloop does not see one that is set on an instance.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from mailflow.ingress.abuse.pace import Pace, Unfinished
from mailflow.ingress.front import UPGRADING, Fronted
from mailflow.ingress.hall import Hall
from mailflow.net.tls_layer import TlsLayer
from mailflow.smtp import replies
from mailflow.smtp.reply import Reply
from mailflow.smtp.server import ServerCore

WAITING_INPUT_BYTES = 4096
"""Input kept behind a pending answer before reading stops (one read may come on top)."""
LARGE_READ_BYTES = 16 * 1024
"""Input that does not wait for the loop to come round: it is work enough by itself, and would fill memory."""

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


class Connection(Fronted):
    """The asyncio protocol of one client; also its session's `Wire` and `timers.Timed`. It is no subclass of asyncio's, which the
    loop does not ask for: compiled code (docs/compiled.md) is quick with what has no parent that is not compiled."""

    __slots__ = ("_held", "_input", "pace")

    def __init__(self, hall: Hall) -> None:
        super().__init__(hall)
        self._held = 0
        self._input: bytes | None = None
        """What came in this turn of the loop."""
        self.pace: Pace | None = None

    def __repr__(self) -> str:
        return f"<Connection {self._session} {self._core} held={self._held} closing={self.closing}>"

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        """What the client sent is dealt with when the loop comes round."""
        if self._input is None and self._core is not None and len(data) < LARGE_READ_BYTES:
            self._input = data
            self._hall.turn.read(self)
        else:
            self._read_at_once(data)

    def _read_at_once(self, data: bytes) -> None:
        """A header, much, or the second read of a turn."""
        before = self._transport
        if self.take():
            self.flush()
        if self._core is None:
            self._read_header(data)
        elif self._transport is before:
            self._input = data
            if self.take():
                self.flush()
        elif isinstance(self._transport, TlsLayer):  # STARTTLS came first: from there on everything is TLS
            self._transport.data_received(data)

    def take(self) -> bool:
        """Deals with what came, if that has not happened already; whether there is something for `flush` to do."""
        data, core = self._input, self._core
        if data is None or core is None:
            return False
        self._input = None
        self.quiet = 0
        try:
            core.feed(data)
        except Exception:  # noqa: BLE001 - one session's mishap must not harm the others
            self._crashed(core)
        return bool(core.out or core.closing or core.input or self._leaving)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone. What came before that still counts: it may end a message."""
        self._transport = None
        self.take()
        super().connection_lost(exc)

    def eof_received(self) -> bool:
        """The client has closed its side; True keeps ours open until what is pending has been answered."""
        if self.take():
            self.flush()
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
        if core.closing:  # at once, as in `_greet`
            self.flush()
        else:
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
        """What the client is sending (`ServerCore.unfinished`); None while it waits for us."""
        core = self._core
        if core is None or self._front or self._held or core.pending or self.closing:
            return None
        return core.unfinished

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
            self.flush()

    def flush(self) -> None:
        """Writes the replies that wait in one go, and sees to what follows from them."""
        core, transport = self._core, self._transport
        if core is None or transport is None:
            return
        out = core.out
        if out and not transport.is_closing():
            transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        if core.closing or core.input or self._leaving:
            self._follow_up(core)

    # Helpers

    def _follow_up(self, core: ServerCore) -> None:
        if core.closing:
            self._close()
        elif self._leaving & UPGRADING and core.upgrading:
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
            self.flush()

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
