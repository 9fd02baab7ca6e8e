"""SMTP client, without I/O: one connection's conversation, from the greeting to QUIT (RFC 5321 §3, §4.1.4).

The shell calls `feed` with what arrived, then reads `finished` (transactions that have all their answers) and writes
`take()`, everything that is to be sent, in one go: one write a flight. It may `begin` a transaction whenever
`room` is true: at once on a connection that is READY, or behind the one under way where the host pipelines
(RFC 2920 §3.1 lets MAIL, RCPT and DATA follow a body in the same group). A content that the shell streams is asked for
by `wants_body`; it comes by `body` and `end_body`.

What nearly every flight is answered with (250, 250, 354, and one 250 for the dot) is recognised as a whole by
`_ordinary`; `_any` takes replies one by one and is complete without it.

Invariants: replies are matched to commands by one queue, `_expected`; a transaction in `finished` has one
answer for each recipient; once CLOSED nothing is sent any more and every unfinished transaction has been
returned. The core knows no clock, no address and no policy: what an answer means is decided elsewhere.

    GREETING ─► HELLO ─► READY ⇄ BUSY ─► QUITTING ─► CLOSED        (421, garbage, loss: from anywhere to CLOSED)
                    └ TLS will have its place here, between EHLO and the first MAIL
"""

from __future__ import annotations

from collections.abc import Callable

from mailflow.smtp.dots import OWN_BUFFER, DotStuffer, joined, wire_form
from mailflow.smtp.reply import Reply
from mailflow.smtp.reply_parser import ReplyError, ReplyParser
from mailflow.smtp.transaction import (
    Answer,
    End,
    Extensions,
    State,
    Step,
    Transaction,
    envelope,
    mail_command,
    obstacle,
    parse_extensions,
    plain_envelope,
    rcpt_command,
)

MAX_ACCEPTED = 1024
"""Bytes of a host's three replies to an ordinary envelope that are remembered, to recognise them."""

# A global is found faster than an enum's member.
_CLOSED, _READY, _BUSY = State.CLOSED, State.READY, State.BUSY
_MAIL, _RCPT, _DATA, _DOT = Step.MAIL, Step.RCPT, Step.DATA, Step.DOT

# What is expected in an ordinary conversation: an envelope with one recipient, the dot, or both.
_ENVELOPE = (_MAIL, _RCPT, _DATA)
_END = (_DOT,)
_END_AND_ENVELOPE = (_DOT, _MAIL, _RCPT, _DATA)

TakesReply = Callable[["Client", Reply], None]
TakesAnswer = Callable[["Client", Transaction, Reply], None]


class Client:
    """The conversation with one host."""

    __slots__ = (
        "_accepted",
        "_expected",
        "_held",
        "_helo",
        "_is_large",
        "_name",
        "_needs_reset",
        "_next",
        "_out",
        "_parser",
        "_pipelining",
        "_stuffer",
        "_unsent_rcpts",
        "current",
        "end",
        "ended_at",
        "extensions",
        "finished",
        "greeting",
        "last",
        "mark",
        "state",
        "wants_body",
    )

    def __init__(self, name: str, *, esmtp: bool = True) -> None:
        """`name` is what we introduce ourselves by; `esmtp` False begins with HELO (for hosts that hang up at EHLO)."""
        self._name = name
        self._helo = not esmtp
        self._parser = ReplyParser()
        self._expected: tuple[Step, ...] = (Step.GREETING,)
        self._accepted = b""
        self._out: list[bytes] = []
        self._next: Transaction | None = None
        self._held: tuple[bytes, tuple[Step, ...]] | None = None
        self._needs_reset = False
        self._pipelining = False
        self._is_large = False
        self._unsent_rcpts = 0
        self._stuffer = DotStuffer()
        self.state = State.GREETING
        self.end: End | None = None
        """Why the conversation ended, once `state` is CLOSED."""
        self.ended_at: Step | None = None
        """What was awaited when it ended."""
        self.current: Transaction | None = None
        """The transaction whose answers are coming in."""
        self.finished: list[Transaction] = []
        """Transactions that have all their answers; the shell takes them out."""
        self.greeting: Reply | None = None
        self.last: Reply | None = None
        """The reply that ended the conversation."""
        self.extensions = Extensions({})
        self.mark = 0
        """Changes with every reply and flight: the shell measures time limits from its last change."""
        self.wants_body = False
        """The shell shall stream the current transaction's content now."""

    def __repr__(self) -> str:
        return f"<Client {self.state.name} waiting={self.waiting!r} current={self.current} next={self._next}>"

    # What the shell asks

    @property
    def waiting(self) -> Step | None:
        """The step whose reply is awaited, BODY while a content is being streamed; None when nothing is."""
        if self.wants_body:
            return Step.BODY
        return self._expected[0] if self._expected else None

    @property
    def room(self) -> bool:
        """Whether `begin` may be called now."""
        if self.state is _READY:
            return True
        return self.state is _BUSY and self._pipelining and self._next is None

    def take(self) -> list[bytes]:
        """What is to be written now: few buffers, in order; a large content is one of its own, uncopied."""
        out = self._out
        if not out:
            return out
        self._out = []
        if self._is_large:
            self._is_large = False
            return joined(out)
        return [b"".join(out)] if len(out) > 1 else out

    # What the shell tells

    def begin(self, transaction: Transaction) -> None:
        """Starts a transaction, or puts it behind the one under way. Only when `room` is true.

        One that the host cannot take (SIZE, 8BITMIME, SMTPUTF8) goes to `finished` unsent.
        """
        steps: tuple[Step, ...] = _ENVELOPE
        flight = plain_envelope(transaction, self.extensions)
        if not flight:
            if (reason := obstacle(transaction, self.extensions)) is not None:
                transaction.conclude((_MAIL, None, reason))
                self.finished.append(transaction)
                return
            flight, steps = self._envelope(transaction)
        if self.current is None:
            self.state = _BUSY
            self.current = transaction
            self._send(flight, steps)
            return
        self._next = transaction
        if self._expected == _END:  # behind a body that has left already, the envelope may go at once
            self._send(flight, steps)
        else:
            self._held = flight, steps

    def feed(self, data: bytes) -> None:
        """Takes bytes from the host; afterwards look at `finished`, `state`, `wants_body` and `take()`."""
        if not self._ordinary(data):
            self._any(data)

    def _ordinary(self, data: bytes) -> bool:
        """Takes the whole of an ordinary answer, or nothing: without a look at each reply, and with the same result.

        Nearly all replies come so: those to an envelope word for word as last time, to the dot one line with 250.
        """
        expected, accepted, current = self._expected, self._accepted, self.current
        if current is None or not self._parser.empty:
            return False
        if expected != _ENVELOPE:
            line = data
            if expected == _END_AND_ENVELOPE and accepted and data.endswith(accepted):
                line = data[: -len(accepted)]
            elif expected != _END:
                return False
            reply = self._parser.success(line)
            if reply is None:
                return False
            current.conclude((_DOT, reply, None))
            self._finish(current)
            current = self.current
        elif data != accepted:
            return False
        self.mark += 1
        self._expected = ()
        if current is not None:
            current.answers.append(None)
            self._send_content(current)
        return True

    def _any(self, data: bytes) -> None:
        """Takes replies one by one."""
        is_envelope = self._parser.empty and self._expected == _ENVELOPE
        garbage = False
        try:
            replies = self._parser.feed(data)
        except ReplyError as error:
            replies, garbage = error.replies, True
        self.mark += len(replies)
        for reply in replies:
            self._take_reply(reply)
        if garbage:
            self.fail(End.GARBAGE)
        elif is_envelope and self._parser.empty and [r.code for r in replies] == [250, 250, 354]:
            self._accepted = data if len(data) <= MAX_ACCEPTED else b""

    def _take_reply(self, reply: Reply) -> None:
        expected = self._expected
        if self.wants_body or not expected:
            self._unasked(reply)
            return
        step = expected[0]
        self._expected = expected[1:]
        if step is _MAIL and self._pipelining and reply.code == 250:
            return  # what counts comes with RCPT
        if reply.code == 421:  # RFC 5321 §3.8: the host closes, whatever it was asked
            self._close(step, reply)
        elif _MAIL <= step <= _DOT and self.current is not None:
            _MESSAGE[step](self, self.current, reply)
        else:
            _SESSION[step](self, reply)

    def body(self, piece: bytes) -> list[bytes]:
        """The wire form of a streamed content's next piece, to be written as it is."""
        self.mark += 1
        return self._stuffer.feed(piece)

    def end_body(self) -> None:
        """The streamed content is complete: the final dot goes out, and behind it the next envelope."""
        self._out.append(self._stuffer.end())
        self.wants_body = False
        self._expect_dot()

    def quit(self) -> None:
        """Says QUIT. Only when no transaction is under way."""
        self.state = State.QUITTING
        self._send(b"QUIT\r\n", (Step.QUIT,))

    def fail(self, end: End) -> None:
        """The connection is of no more use: what is under way ends with `end`; what waits behind it was NOT_BEGUN."""
        if self.state is State.CLOSED:
            return
        step = self.waiting
        if self.current is not None:
            self._conclude(self.current, (Step.MAIL if step is None else step, None, end))
        if self._next is not None:
            self._conclude(self._next, (Step.MAIL, None, End.NOT_BEGUN))
            self._next = self._held = None
        self.state = State.CLOSED
        self.end = end
        self.ended_at = step
        self.wants_body = False
        self._out.clear()
        self._expected = ()

    # Replies, in the order of the conversation

    def _on_greeting(self, reply: Reply) -> None:
        if reply.code // 100 != 2:
            self._close(Step.GREETING, reply)
            return
        self.greeting = reply
        self.state = State.HELLO
        self._hello(Step.HELO if self._helo else Step.EHLO)

    def _on_ehlo(self, reply: Reply) -> None:
        if reply.code // 100 == 2:
            self.extensions = parse_extensions(reply)
            self._pipelining = self.extensions.pipelining
            self.state = State.READY
        elif reply.code >= 500:  # RFC 5321 §3.2: a client falls back to HELO
            self._hello(Step.HELO)
        else:
            self._close(Step.EHLO, reply)

    def _on_helo(self, reply: Reply) -> None:
        if reply.code // 100 == 2:
            self.state = State.READY
        else:
            self._close(Step.HELO, reply)

    def _on_mail(self, transaction: Transaction, reply: Reply) -> None:
        kind = reply.code // 100
        if kind == 2:
            if not self._pipelining:
                self._send_rcpt(transaction)
        elif kind == 3:
            self._close(_MAIL, reply)
        else:
            transaction.conclude((_MAIL, reply, None))
            if not self._pipelining:
                self._finish(transaction)

    def _on_rcpt(self, transaction: Transaction, reply: Reply) -> None:
        kind = reply.code // 100
        answers = transaction.answers
        if kind == 3:
            self._close(_RCPT, reply)
            return
        if len(answers) < len(transaction.recipients):  # else MAIL was refused, and that is everybody's answer
            answers.append(None if kind == 2 else (_RCPT, reply, None))
        if not self._pipelining:
            self._send_rcpt(transaction)

    def _on_data(self, transaction: Transaction, reply: Reply) -> None:
        if reply.code < 400 and reply.code != 354:
            self._close(Step.DATA, reply)
        elif reply.code != 354:
            self._needs_reset = True  # MAIL may stand, with some recipients or none (RFC 5321 §4.1.4)
            transaction.conclude((Step.DATA, reply, None))
            self._finish(transaction)
        elif None not in transaction.answers:
            self._out.append(b".\r\n")  # RFC 2920 §3.1: nobody to send it to, end the message at once
            self._expect_dot()
        else:
            self._send_content(transaction)

    def _on_dot(self, transaction: Transaction, reply: Reply) -> None:
        if reply.code // 100 == 3:
            self._close(Step.DOT, reply)
        else:
            transaction.conclude((_DOT, reply, None))
            self._finish(transaction)

    def _on_rset(self, _reply: Reply) -> None:
        """Nothing depends on it: a host that refuses RSET will refuse the MAIL behind it."""

    def _on_quit(self, _reply: Reply) -> None:
        self.fail(End.REPLY)

    def _never(self, *_: object) -> None:
        """Nothing waits for a reply to this step."""
        self.fail(End.GARBAGE)

    def _unasked(self, reply: Reply) -> None:
        """A reply to nothing: the host gives up in the middle of the message, or closes an idle connection (421)."""
        if self.state is _CLOSED:
            return
        if reply.code < 400:
            self.fail(End.GARBAGE)
        else:
            self._close(Step.BODY, reply)

    def _close(self, step: Step, reply: Reply) -> None:
        """This reply is the last: everybody who still waits for an answer has it."""
        self.last = reply
        if self.current is not None:
            self._conclude(self.current, (step, reply, None))
        self.fail(End.REPLY)
        self.ended_at = step

    # Sending

    def _hello(self, step: Step) -> None:
        self._send(f"{step.name} {self._name}\r\n".encode(), (step,))

    def _send(self, flight: bytes, steps: tuple[Step, ...]) -> None:
        """Commands, and the steps that their replies will answer."""
        self.mark += 1
        if self._needs_reset and steps[0] is _MAIL:
            self._needs_reset = False
            flight, steps = b"RSET\r\n" + flight, (Step.RSET, *steps)
        self._out.append(flight)
        self._expected += steps

    def _envelope(self, transaction: Transaction) -> tuple[bytes, tuple[Step, ...]]:
        """A flight and its steps: the whole envelope where the host pipelines, else its first command."""
        count = len(transaction.recipients)
        if self._pipelining:
            return envelope(transaction, self.extensions), (_MAIL, *[_RCPT] * count, _DATA)
        self._unsent_rcpts = count
        return mail_command(transaction, self.extensions).encode(), (_MAIL,)

    def _send_rcpt(self, transaction: Transaction) -> None:
        """One command at a time: the next RCPT, or DATA when somebody was accepted."""
        if self._unsent_rcpts:
            index = len(transaction.recipients) - self._unsent_rcpts
            self._unsent_rcpts -= 1
            self._send(rcpt_command(transaction, index, self.extensions).encode(), (_RCPT,))
        elif None in transaction.answers:
            self._send(b"DATA\r\n", (_DATA,))
        else:
            self._needs_reset = True
            self._finish(transaction)

    def _send_content(self, transaction: Transaction) -> None:
        content = transaction.content
        if content is None:
            self._stuffer = DotStuffer()
            self.wants_body = True
            return
        self._out += wire_form(content)
        if len(content) >= OWN_BUFFER:
            self._is_large = True
        self._expect_dot()

    def _expect_dot(self) -> None:
        """The final dot is out; behind it the envelope that was held back for it."""
        self._expected += _END
        self.mark += 1
        if self._held is not None:
            held, self._held = self._held, None
            self._send(*held)

    # Ends

    def _conclude(self, transaction: Transaction, answer: Answer) -> None:
        transaction.conclude(answer)
        self.finished.append(transaction)
        if transaction is self.current:
            self.current = None

    def _finish(self, transaction: Transaction) -> None:
        """The current transaction has all its answers; the next becomes current: its envelope has left, or leaves now."""
        self.finished.append(transaction)
        following = self.current = self._next
        self._next = None
        if following is None:
            self.state = _READY
        elif self._held is not None:
            held, self._held = self._held, None
            self._send(*held)


# The conversation as two tables, by step: which function takes the reply. Not in the class, whose body knows no
# methods by name where it is compiled (docs/compiled.md).
_C = Client
_SESSION: list[TakesReply] = [_C._on_greeting, _C._on_ehlo, _C._on_helo, *[_C._never] * 5, _C._on_rset, _C._on_quit]  # noqa: SLF001
_MESSAGE: list[TakesAnswer] = [*[_C._never] * 3, _C._on_mail, _C._on_rcpt, _C._on_data, _C._never, _C._on_dot]  # noqa: SLF001
