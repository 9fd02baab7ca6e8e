"""DATA (RFC 5321 §4.1.1.4) and BDAT (RFC 3030): how a message's bytes are taken in, and what is said at its end.

The whole message goes to the handler in pieces, and is answered for once, at its end; with LMTP once for each of its
recipients (RFC 2033 §4.2). One that comes with DATA in one piece, as small ones do, takes the short way past the scanner.

Decisions about BDAT. What is announced is read, wanted or not: a chunk that is refused is answered at once and its bytes
are swallowed. A command whose length cannot be read gets 521 and the end of the session, because what follows might
be message bytes and would be taken for commands. After a refused chunk the transaction is over, and the chunks behind it
get 503 (RFC 3030 §2). Bytes that are not announced as BINARYMIME are held to the same rules as those of DATA.
"""

from __future__ import annotations

import re

from mailflow.smtp import replies
from mailflow.smtp.conversation import Conversation, Verb
from mailflow.smtp.data import TOO_BIG, BinaryScanner, ChunkScanner, DataScanner
from mailflow.smtp.handler import PENDING, State
from mailflow.smtp.replies import wire
from mailflow.smtp.reply import Reply

# A global is found faster than an enum's member, and every message asks.
_START, _READY, _MAIL = State.START, State.READY, State.MAIL
_RCPT, _DATA, _CHUNKS = State.RCPT, State.DATA, State.CHUNKS
_START_DATA, _START_DATA_BYTES = replies.START_DATA, replies.START_DATA.encode()
_OUT_OF_ORDER = {
    _START: replies.HELO_FIRST,
    _READY: replies.MAIL_FIRST,
    _MAIL: replies.RCPT_FIRST,
    _CHUNKS: replies.BDAT_BEGUN,
}
FREE_CHUNKS = 1000
"""Chunks that one message may have, however small they are."""
MEAN_CHUNK_OCTETS = 1024
"""How large the further ones must be on average: a chunk costs as much as a command, and a command may be made of 9 bytes."""
_CHUNK = re.compile(r" *([0-9]{1,20})(?: +(LAST))? *\Z", re.IGNORECASE)  # RFC 3030 §2


class ContentVerbs(Conversation):
    """DATA and BDAT."""

    __slots__ = ()

    # DATA

    def _data(self, rest: str) -> None:
        if rest and rest.strip(" "):
            self._say(replies.NO_PARAMETERS)
            return
        if self.state is not _RCPT:
            self._say(self._out_of_order())
            return
        if self.binary:
            self._say(replies.BDAT_ONLY)
            return
        answer = self._handler.data()
        if answer is _START_DATA:
            self.state, self._scanner, self._taker = _DATA, None, RECEIVE
            self.out.append(_START_DATA_BYTES)
        elif answer is PENDING:
            self._then = ContentVerbs._data_allowed
        else:
            self._data_allowed(answer)

    def _out_of_order(self) -> Reply:
        if self._profile.lmtp and self.state is _MAIL:
            return replies.RCPT_FIRST_LMTP
        return _OUT_OF_ORDER[self.state]

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

    def _receive(self, data: bytes, start: int) -> int:
        """Message bytes; gives the index behind the final dot, or -1."""
        scanner = self._scanner
        if scanner is None:
            profile = self._profile
            scanner = DataScanner(profile.message_size, profile.data_line, normalise=profile.normalise)
            self._scanner = scanner
        refused = scanner.trouble
        piece, end = scanner.feed(data[start:] if start else data)
        if scanner.trouble is not None:
            if end >= 0:
                self._copies = self._recipients()
                self._ended(scanner.trouble)
            elif refused is None:
                self._handler.reset()  # at once, so that nothing more is kept for it
        else:
            if piece:
                self._handler.chunk(piece)
            if end >= 0:
                self._end()
        return start + end if end >= 0 else -1

    # BDAT

    def _bdat(self, rest: str) -> None:
        command = _CHUNK.match(rest)
        if command is None:
            self._say(replies.BDAT_SYNTAX)
            self.abandon()
            return
        self._awaited, self._last = int(command[1]), command[2] is not None
        if self._profile.tls_first:
            self._swallow(replies.STARTTLS_FIRST)
        elif not self._profile.offers.chunking:
            self._swallow(replies.NOT_IMPLEMENTED)
        elif self.state is _CHUNKS:
            self._expect_chunk()
        elif self.state is _RCPT:
            self._hear(self._handler.data(), ContentVerbs._chunks_allowed)
        else:
            self._swallow(self._out_of_order())

    def _chunks_allowed(self, answer: Reply) -> None:
        if answer.code != 354:
            self._swallow(answer)
            return
        profile = self._profile
        self.state = _CHUNKS
        if self.binary:
            self._chunks = BinaryScanner(profile.message_size)
        else:
            self._chunks = ChunkScanner(profile.message_size, profile.data_line, normalise=profile.normalise)
        self._expect_chunk()

    def _expect_chunk(self) -> None:
        """A chunk is about to come; one that is too large is known to be so now."""
        chunks = self._chunks
        chunks.pieces += 1
        if chunks.size + self._awaited > self._profile.message_size:
            self._swallow(TOO_BIG)
        elif chunks.pieces > FREE_CHUNKS + chunks.size // MEAN_CHUNK_OCTETS:
            self._swallow(replies.SMALL_CHUNKS)
        elif self._awaited:
            self._taker = ContentVerbs._chunk
        else:
            self._chunk_end()

    def _chunk(self, data: bytes, start: int) -> int:
        """Bytes of a chunk; gives the index behind it, or -1."""
        end = min(start + self._awaited, len(data))
        self._awaited -= end - start
        chunks = self._chunks
        refused = chunks.trouble
        piece = chunks.feed(data[start:end])
        if chunks.trouble is not None:
            if refused is None:
                self._handler.reset()  # at once, so that nothing more is kept for it
        elif piece:
            self._handler.chunk(piece)
        if self._awaited:
            return -1
        self._taker = None
        self._chunk_end()
        return end

    def _chunk_end(self) -> None:
        """A chunk is complete."""
        chunks = self._chunks
        if self._last and chunks.trouble is None:
            piece = chunks.end()
            if piece:
                self._handler.chunk(piece)
        if chunks.trouble is not None:
            self._fail_chunk(chunks.trouble)
        elif self._last:
            self._end()
        else:
            self.out.append(wire(replies.CHUNK_OK))

    def _swallow(self, answer: Reply) -> None:
        """Refuses a chunk, and throws its bytes away."""
        self._fail_chunk(answer)
        if self._awaited and not self.closing:
            self._taker = ContentVerbs._throw_away

    def _throw_away(self, data: bytes, start: int) -> int:
        end = min(start + self._awaited, len(data))
        self._awaited -= end - start
        if self._awaited:
            return -1
        self._taker = None
        return end

    def _fail_chunk(self, answer: Reply) -> None:
        """Refuses a chunk, and with it the transaction, if there is one: a part of the message would be missing."""
        begun = self.state is _CHUNKS or self.state is _RCPT
        self._refuse_all(answer, self._recipients() if begun and self._last else 1)
        if begun:
            self._forget()

    # The end of a message

    def _end(self) -> None:
        """The message is complete."""
        if self._profile.lmtp:
            self._copies = self._recipients()  # before the handler may change them
        answer = self._handler.end()
        if answer is PENDING:
            self._then = ContentVerbs._ended
        else:
            self._ended(answer)

    def _ended(self, answer: Reply) -> None:
        """The message's answer is known."""
        self.state, self._taker = _READY, None
        if answer.code >= 400:
            self._refuse_all(answer, self._copies)
            self._handler.reset()
        else:
            self.errors = self.junk = 0
            self.out.append(wire(answer) * self._copies)

    def _recipients(self) -> int:
        """How many replies the end of this message gets."""
        return self._handler.copies() if self._profile.lmtp else 1

    def _refuse_all(self, answer: Reply, recipients: int) -> None:
        """Says a refusal for each recipient, but counts it once; 421 is said once only."""
        self._say(answer)
        if recipients > 1 and not self.closing:
            self.out.append(self.out[-1] * (recipients - 1))


# Behind the class, whose body knows no methods by name where it is compiled (docs/compiled.md).
CONTENT_VERBS: dict[str, Verb] = {"DATA": ContentVerbs._data, "BDAT": ContentVerbs._bdat}


RECEIVE = ContentVerbs._receive
"""Takes the bytes behind 354."""
