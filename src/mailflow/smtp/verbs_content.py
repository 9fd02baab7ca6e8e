"""DATA (RFC 5321 §4.1.1.4), and how a message's bytes are taken in.

The whole message goes to the handler in pieces, and is answered for once, at its end. One that comes in one piece, as
small ones do, takes the short way past the scanner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from mailflow.smtp import replies
from mailflow.smtp.conversation import Conversation
from mailflow.smtp.data import DataScanner
from mailflow.smtp.handler import PENDING, State
from mailflow.smtp.replies import wire
from mailflow.smtp.reply import Reply

# A global is found faster than an enum's member, and every message asks.
_START, _READY, _MAIL, _RCPT, _DATA = State
_START_DATA, _START_DATA_BYTES = replies.START_DATA, replies.START_DATA.encode()
_OUT_OF_ORDER = {_START: replies.HELO_FIRST, _READY: replies.MAIL_FIRST, _MAIL: replies.RCPT_FIRST}


class ContentVerbs(Conversation):
    """DATA."""

    __slots__ = ()

    def _data(self, rest: str) -> None:
        if rest and rest.strip(" "):
            self._say(replies.NO_PARAMETERS)
            return
        if self.state is not _RCPT:
            self._say(_OUT_OF_ORDER[self.state])
            return
        answer = self._handler.data()
        if answer is _START_DATA:
            self.state, self._scanner, self._taker = _DATA, None, RECEIVE
            self.out.append(_START_DATA_BYTES)
        elif answer is PENDING:
            self._then = ContentVerbs._data_allowed
        else:
            self._data_allowed(answer)

    def _data_allowed(self, answer: Reply) -> None:
        if answer.code == 354:
            self.state, self._scanner, self._taker = _DATA, None, RECEIVE
        self._say(answer)

    def _whole_message(self, data: bytes) -> bool:
        """The short way for a message that comes in one piece; False when it must go the long way."""
        message = self._profile.whole_messages.take(data) if self._scanner is None else None
        if message is None:
            return False
        self._handler.chunk(message)
        self._end()
        return True

    def _receive(self, data: bytes) -> int:
        """Message bytes; gives the index behind the final dot, or -1."""
        scanner = self._scanner
        if scanner is None:
            profile = self._profile
            scanner = DataScanner(profile.message_size, profile.data_line, normalise=profile.normalise)
            self._scanner = scanner
        refused = scanner.trouble
        piece, end = scanner.feed(data)
        if scanner.trouble is not None:
            if refused is None:
                self._handler.reset()  # at once, so that nothing more is kept for it
            if end >= 0:
                self.state, self._taker = _READY, None
                self._say(scanner.trouble)
            return end
        if piece:
            self._handler.chunk(piece)
        if end >= 0:
            self._end()
        return end

    def _end(self) -> None:
        """The message is complete."""
        answer = self._handler.end()
        if answer is PENDING:
            self._then = ContentVerbs._ended
        else:
            self._ended(answer)

    def _ended(self, answer: Reply) -> None:
        self.state, self._taker = _READY, None
        if answer.code >= 400:
            self._say(answer)
        else:
            self.errors = self.junk = 0
            self.out.append(wire(answer))

    VERBS: ClassVar[dict[str, Callable[[Any, str], None]]] = {"DATA": _data}


RECEIVE = ContentVerbs._receive  # noqa: SLF001 - our own
"""Takes the bytes behind 354."""
