"""The server's side of an SMTP session, without I/O: bytes in, calls to a `Handler`, bytes out.

The shell calls `feed` with what the network gave and writes what `take` returns: one write for each flight, however
many commands it held. The handler decides about addresses and messages; it answers each call with a `Reply`, or with
`PENDING`, and then `resume` is called once with the reply. While an answer is pending nothing behind it is processed;
input waits in here, and the shell stops reading when `input` becomes long. After `closing` has become true the shell
writes what is left and closes; further input is ignored.

Invariants: each command gets exactly one reply, in order. Only CR LF ends a command. The result is the same for every
split of the input. Kept input is bounded by `command_line`, or, while pending, by the shell.

The verbs are in conversation.py and verbs_*.py, one method each; here bytes become commands. What is no command line
(messages, AUTH responses) is handed to whoever a verb has left in `_taker`. This module knows no addresses of ours, no
queue, and no time; who stalls is noticed by the shell (`fail`). After STARTTLS was granted, `upgrading` is true: the
shell writes what is left, does the handshake and calls `secured`.
"""

from __future__ import annotations

from mailflow.smtp import replies
from mailflow.smtp.commands import USUAL_MAIL, USUAL_RCPT, decode_line, usual_path
from mailflow.smtp.conversation import BASIC_VERBS, Conversation
from mailflow.smtp.handler import Offence, State
from mailflow.smtp.reply import Reply
from mailflow.smtp.verbs_content import CONTENT_VERBS, RECEIVE, ContentVerbs
from mailflow.smtp.verbs_proxy import PROXY_VERBS
from mailflow.smtp.verbs_queries import QUERY_VERBS
from mailflow.smtp.verbs_security import SECURITY_VERBS, SecurityVerbs

BEFORE_TLS = frozenset(("EHLO", "HELO", "LHLO", "LHLO", "STARTTLS", "NOOP", "BDAT", "QUIT"))
"""RFC 3207 §4: where TLS is required, anything else is refused before it. (BDAT refuses itself, as it has bytes to
swallow.)"""

# A global is found faster than an enum's member, and every command asks.
_START, _READY, _MAIL = State.START, State.READY, State.MAIL
_RCPT, _DATA, _CHUNKS = State.RCPT, State.DATA, State.CHUNKS

_GROUP_ENDS = frozenset(
    (b"EHLO", b"HELO", b"LHLO", b"DATA", b"NOOP", b"QUIT", b"VRFY", b"EXPN", b"TURN", b"STAR", b"AUTH")
)
"""The first four letters of the commands whose reply must be waited for (RFC 2920 §3.1, RFC 3207 §4, RFC 4954 §4)."""
_VERBS = {**BASIC_VERBS, **SECURITY_VERBS, **CONTENT_VERBS, **QUERY_VERBS, **PROXY_VERBS}
# Our own verbs, read from outside of their classes.
_OPENED = Conversation._opened  # noqa: SLF001
_WAITED_FOR = (
    Conversation._greeted,  # noqa: SLF001
    ContentVerbs._data_allowed,  # noqa: SLF001
    SecurityVerbs._tls_granted,  # noqa: SLF001
    SecurityVerbs._auth_answered,  # noqa: SLF001
)
"""Pending answers that even a client that pipelines has to wait for."""
_SHOWN_BYTES = 256
"""How much of strange input is shown to the handler."""


class ServerCore(SecurityVerbs):
    """One session."""

    __slots__ = ()

    def __repr__(self) -> str:
        pending = " pending" if self._then else ""
        closing = " closing" if self.closing else ""
        return f"<ServerCore {self.state.value}{pending}{closing} waiting={len(self.input)} errors={self.errors}>"

    # What the shell calls

    def feed(self, data: bytes) -> None:
        """Takes bytes from the client, in pieces of any size."""
        if self.closing:
            return
        if self._then is not None:
            self._wait(data)
            return
        if self.input:
            data = self.input + data
            self.input = b""
        if self._taker is None:
            line, newline, rest = data.partition(b"\r\n")
            if newline and not rest:  # one command and no more, as of a client that waits for each reply
                self._line(line)
            else:
                self._run(data)
        elif self._taker is not RECEIVE or not self._whole_message(data):
            self._run(data)

    def resume(self, answer: Reply) -> None:
        """Gives the answer that was pending and goes on with the input that has waited. Ignored when none is pending."""
        then = self._then
        if then is None or self.closing:
            return
        self._then = None
        then(self, answer)
        data = self.input
        if data and not self.pending:  # an answer may lead to the next question, which may have to wait, too
            self.input = b""
            self._run(data)

    def take(self) -> bytes:
        """All replies since the last call, b"" when there are none."""
        out = self.out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        return data

    @property
    def pending(self) -> bool:
        """Whether the client waits for us, not we for it."""
        return self._then is not None

    @property
    def between(self) -> bool:
        """Whether the session can be ended without breaking a transaction."""
        return self._then is None and self._taker is None and (self.state is _READY or self.state is _START)

    @property
    def unfinished(self) -> int | bytes | None:
        """What the client is in the middle of: a message, as a number that grows with each byte of it; or a line, as its
        beginning, b"" where that is not kept. None when nothing is under way."""
        if self.state is _DATA:
            return self._scanner.size if self._scanner is not None else 0
        if self.state is _CHUNKS and self._chunks.trouble is None:
            return self._chunks.size
        if self._awaited and self._taker is not None:
            return -self._awaited  # a chunk that was refused
        if self._skipping or self._taker is not None:
            return b""
        return self.input or None

    # From bytes to commands

    def _run(self, data: bytes) -> None:
        if self.state is _START and self._taker is None and self._is_strange(data):
            return
        size = len(data)
        start = 0
        while start < size:
            taker = self._taker
            if taker is not None:
                start = taker(self, data, start)
                if start < 0:
                    return
            else:
                end = data.find(b"\r\n", start)
                if end < 0:
                    self._keep(data[start:])
                    return
                line = data[start:end]
                start = end + 2
                if start < size and (line[:4].upper() in _GROUP_ENDS or not self.extended):
                    self._offend(Offence.AHEAD, line[:4])
                    if self.closing:
                        return
                self._line(line)
            if self._then is not None:
                self.input = data[start:]
                return
            if self.closing:
                return

    def _wait(self, data: bytes) -> None:
        """Input while an answer is pending: it waits, too."""
        if not self.input:
            then = self._then
            if then is _OPENED:
                self._offend(Offence.EARLY, data)
            elif then in _WAITED_FOR or not self.extended:
                self._offend(Offence.AHEAD, b"")
        if not self.closing:
            self.input += data

    def _offend(self, offence: Offence, data: bytes) -> None:
        """Tells the handler what the client does; its 421 ends the session."""
        answer = self._handler.offended(offence, data[:_SHOWN_BYTES])
        if answer is not None:
            self.fail(answer)

    def _is_strange(self, data: bytes) -> bool:
        """Asks the handler about what may be another protocol; True when the session is over."""
        self._offend(Offence.STRANGE, data)
        return self.closing

    def _keep(self, data: bytes) -> None:
        """The beginning of a line: kept, or thrown away when it is too long already."""
        if data[:1] < b" " and self.state is not _START and self._is_strange(data):
            return
        ended = data.endswith(b"\r")
        if not self._skipping and len(data) - ended > self._profile.command_line:
            self._skipping = True
            self._say(replies.LINE_TOO_LONG)
        self.input = data if not self._skipping else b"\r" if ended else b""

    def _line(self, line: bytes) -> None:
        """One command line, without its CR LF."""
        if self._skipping:
            self._skipping = False
            return
        # What nearly every client sends, in its place, is read in one step; the rest takes the long way.
        state = self.state
        if state is _READY:
            if line == b"QUIT":
                self._quit("")
                return
            if usual := usual_path(USUAL_MAIL, line):
                self._sender(usual[0], usual[1])
                return
        elif state is _RCPT or state is _MAIL:
            if line == b"DATA":
                self._data("")
                return
            if usual := usual_path(USUAL_RCPT, line):
                self._recipient(usual[0], usual[1])
                return
        self._command(line)

    def _command(self, line: bytes) -> None:
        if len(line) > self._profile.command_line:
            self._say(replies.LINE_TOO_LONG)
            return
        text = decode_line(line)
        if text is None:
            if not self._is_strange(line + b"\r\n"):
                self._say(replies.BAD_CHARACTERS)
            return
        verb, _, rest = text.partition(" ")
        verb = verb.upper()
        method = _VERBS.get(verb)
        if method is None and self._is_strange(line + b"\r\n"):
            return
        if self._profile.tls_first and verb not in BEFORE_TLS:
            self._say(replies.STARTTLS_FIRST)
        elif method is None:
            self._say(replies.FOREIGN.get(verb, replies.UNKNOWN_COMMAND))
        else:
            method(self, rest)
