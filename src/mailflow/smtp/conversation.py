"""What an SMTP session says: its state, its replies, and one method for each verb, in the order of a conversation.

`ServerCore` (server.py) makes commands of bytes and calls the verbs; nothing here sees a byte of input. A verb asks the
handler and answers in `out`, or, when the handler says PENDING, leaves in `_then` what the answer is to be given to.

Here are the verbs of RFC 5321; those of extensions are in verbs_*.py, each a further part of `ServerCore`.

Invariants: each command gets exactly one reply, and each refusal is counted and told to the handler. Policy and hooks
live in the handler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from mailflow.smtp import replies
from mailflow.smtp.address import AddressError, parse_path
from mailflow.smtp.commands import (
    NO_MAIL_PARAMS,
    NO_RCPT_PARAMS,
    MailParams,
    parse_mail_params,
    parse_rcpt_params,
)
from mailflow.smtp.data import TOO_BIG, BinaryScanner, ChunkScanner, DataScanner
from mailflow.smtp.handler import PENDING, Answer, Handler, Offence, State
from mailflow.smtp.param_values import ParamError
from mailflow.smtp.profile import Profile
from mailflow.smtp.replies import wire
from mailflow.smtp.reply import Reply

# RFC 5321 §4.5.3.1.2
HELO_NAME_OCTETS = 255


# A global is found faster than an enum's member, and every command asks.
_START, _READY, _MAIL = State.START, State.READY, State.MAIL
_RCPT, _CHUNKS = State.RCPT, State.CHUNKS

# What a message without trouble is answered with: a handler gives these very objects, and their bytes are known.
_MAIL_OK, _MAIL_OK_BYTES = replies.MAIL_OK, replies.MAIL_OK.encode()
_RCPT_OK, _RCPT_OK_BYTES = replies.RCPT_OK, replies.RCPT_OK.encode()
_BYE, _BYE_BYTES = replies.BYE, replies.BYE.encode()


NO_CHUNKS = ChunkScanner(0, 0)
"""Stands for none."""

Verb: TypeAlias = Callable[[Any, str], None]
"""The method that deals with a command: the core, and what stands behind the verb."""


class Conversation:
    """One session's side of the talk that is ours. The classes of verbs_*.py each add their verbs to it, one behind the other."""

    __slots__ = (
        "_awaited",
        "_chunks",
        "_copies",
        "_handler",
        "_last",
        "_profile",
        "_scanner",
        "_skipping",
        "_taker",
        "_then",
        "_tls",
        "authenticated",
        "binary",
        "closing",
        "dropped",
        "errors",
        "extended",
        "input",
        "junk",
        "out",
        "state",
        "upgrading",
        "utf8",
    )

    def __init__(self, profile: Profile, handler: Handler, *, tls: bool = False) -> None:
        """`tls`: TLS came first, before any SMTP; `profile` is that of a session under TLS."""
        self._profile = profile
        self._handler = handler
        self._scanner: DataScanner | None = None
        """Made when a message does not come in one piece."""
        self.out: list[bytes] = []
        """The replies of this flight. The shell writes them and empties it, as `take` does."""
        self.input = b""
        """Input that waits: the beginning of a line, or what stands behind a pending answer."""
        self._skipping = False
        """The rest of a line that was too long is being thrown away."""
        self._then: Callable[[Any, Reply], None] | None = None
        """What to do with the pending answer."""
        self._taker: Callable[[Any, bytes, int], int] | None = None
        """Who takes the input, from an index on, when it is no command line; gives the index behind it, -1 for all."""
        self._chunks: ChunkScanner | BinaryScanner = NO_CHUNKS
        """The message that comes with BDAT."""
        self._awaited = 0
        """Bytes of a chunk that are still to come."""
        self._last = False
        """It is the last chunk."""
        self._copies = 1
        """How often the end of the message is answered."""
        self.state = _START
        self.closing = False
        self.errors = 0
        """Refusals since the last accepted message."""
        self.junk = 0
        """Commands that lead nowhere since the last accepted message."""
        self.extended = False
        """EHLO, not HELO, was said last."""
        self.utf8 = False
        """MAIL asked for SMTPUTF8."""
        self.binary = False
        """MAIL announced BODY=BINARYMIME."""
        self.authenticated = False
        """AUTH has succeeded."""
        self.upgrading = False
        """STARTTLS was granted: the shell writes what is left, does the handshake, and calls `secured`."""
        self.dropped = 0
        """Bytes that came in the clear behind STARTTLS, and were dropped."""
        self._tls = tls
        """The session is under TLS, from its beginning or by STARTTLS."""
        answer = handler.connect()
        if answer is PENDING:
            self._then = Conversation._opened
        else:
            self._opened(answer)

    # Replies

    def _say(self, answer: Reply) -> None:
        """Puts a reply into the flight; every reply to a command passes here."""
        if answer.code >= 400:
            answer = self._refused(answer)
        self.out.append(wire(answer))

    def _refused(self, answer: Reply) -> Reply:
        """Counts a refusal; the last one that is tolerated becomes a 421."""
        if replies.blames_client(answer):
            if self.errors and not self.out and answer in replies.OUT_OF_ORDER:
                # It has heard an error, and goes on as if it had not.
                answer = self._handler.offended(Offence.DEAF, b"") or answer
            self.errors += 1
            if self.errors >= self._handler.tolerates(self._profile.errors):
                answer = replies.TOO_MANY_ERRORS
        if self._profile.soft:
            answer = replies.softened(answer)
        if self._handler.refused(answer) or answer.code == 421:
            self.abandon()
        return answer

    def fail(self, answer: Reply) -> None:
        """Ends the session for a reason of the server's: the client hears `answer` (a 421) and nothing more."""
        if not self.closing:
            self.out.append(wire(answer))
            self.abandon()

    def abandon(self) -> None:
        """Ends the session without a word: the client is gone. A transaction under way is forgotten."""
        if not self.closing:
            self._close()
            self._handler.reset()

    def _close(self) -> None:
        self.closing = True
        self.input = b""
        self._then = None

    def _hear(self, answer: Answer, then: Callable[[Any, Reply], None]) -> None:
        """Gives the handler's answer to `then`, at once or when it comes."""
        if answer is PENDING:
            self._then = then
        else:
            then(self, answer)

    def _restart(self) -> None:
        """The session begins anew; the client is forgotten, but not its errors."""
        self._forget()
        self.state = _START
        self.extended = self.authenticated = False

    # The verbs, in the order of a conversation

    def _opened(self, answer: Reply) -> None:
        if answer.code == 220:
            self.out.append(self._profile.greeting)
        else:
            self._say(answer)
            self.abandon()

    def _ehlo(self, rest: str) -> None:
        self._hello("EHLO", rest)

    def _helo(self, rest: str) -> None:
        self._hello("HELO", rest)

    def _lhlo(self, rest: str) -> None:
        self._hello("LHLO", rest)

    def _hello(self, verb: str, rest: str) -> None:
        if self._profile.lmtp is not (verb == "LHLO"):  # RFC 2033 §4.1: instead of HELO and EHLO
            self._say(replies.UNKNOWN_COMMAND)
            return
        name = rest.strip(" ")
        if not name or " " in name or not name.isascii() or len(name) > HELO_NAME_OCTETS:
            self._say(replies.SAY_HELO)
            return
        if self._is_junk():
            return
        self._forget()  # RFC 5321 §4.1.4: EHLO in mid-session acts as RSET
        self.extended = verb != "HELO"
        answer = self._handler.hello(verb, name)
        if answer is PENDING:
            self._then = Conversation._greeted
        else:
            self._greeted(answer)

    def _greeted(self, answer: Reply) -> None:
        if answer.code == 250:
            self.state = self._profile.greeted
            self.out.append(self.hello_reply() if answer is replies.HELLO else wire(answer))
        else:
            self._say(answer)

    def hello_reply(self) -> bytes:
        """What EHLO or HELO, whichever came last, is answered with when nobody minds."""
        profile = self._profile
        if not self.extended:
            return profile.helo
        return profile.personal(self._handler.offers()) if profile.offers.personal else profile.ehlo

    def _mail(self, rest: str) -> None:
        if rest[:5].upper() == "FROM:":
            self._mail_from(rest[5:])
        else:
            self._say(replies.MAIL_SYNTAX)

    def _mail_from(self, path: str) -> None:
        if self.state is not _READY:
            self._say(replies.HELO_FIRST if self.state is _START else replies.NESTED_MAIL)
            return
        try:
            sender, words = parse_path(path)
        except AddressError as error:
            self._malformed(error, "5.1.7", "Bad sender address")
        else:
            self._sender(sender, words)

    def _sender(self, sender: str, words: str) -> None:
        """MAIL in its place, its address well formed; `words` are the parameters."""
        self.utf8 = self.binary = False
        params = self._mail_params(sender, words) if words or not sender.isascii() else NO_MAIL_PARAMS
        if params is None:
            return
        answer = self._handler.mail(sender, params)
        if answer is _MAIL_OK:
            self.state = _MAIL
            self.out.append(_MAIL_OK_BYTES)
        elif answer is PENDING:
            self._then = Conversation._mailed
        else:
            self._mailed(answer)

    def _mail_params(self, sender: str, words: str) -> MailParams | None:
        """The parameters of MAIL; None when they were refused."""
        try:
            params = parse_mail_params(words, self._profile.mail_words)
        except ParamError as error:
            self._say(error.reply)
            return None
        if not sender.isascii() and not params.smtputf8:
            self._say(replies.SENDER_NOT_ASCII)
            return None
        if params.size is not None and params.size > self._profile.message_size:
            self._say(TOO_BIG)  # RFC 1870 §6.1
            return None
        self.utf8, self.binary = params.smtputf8, params.body == "BINARYMIME"
        return params

    def _mailed(self, answer: Reply) -> None:
        if answer.code == 250:
            self.state = _MAIL
        self._say(answer)

    def _rcpt(self, rest: str) -> None:
        if rest[:3].upper() == "TO:":
            self._rcpt_to(rest[3:])
        else:
            self._say(replies.RCPT_SYNTAX)

    def _rcpt_to(self, path: str) -> None:
        if self.state is not _MAIL and self.state is not _RCPT:
            out_of_order = {_START: replies.HELO_FIRST, _READY: replies.MAIL_FIRST}
            self._say(out_of_order.get(self.state, replies.BDAT_BEGUN))
            return
        try:
            recipient, words = parse_path(path)
        except AddressError as error:
            self._malformed(error, "5.1.3", "Bad recipient address")
        else:
            self._recipient(recipient, words)

    def _recipient(self, recipient: str, words: str) -> None:
        """RCPT in its place, its address well formed; `words` are the parameters."""
        params = NO_RCPT_PARAMS
        if words:
            try:
                params = parse_rcpt_params(words)
            except ParamError as error:
                self._say(error.reply)
                return
        if not recipient:
            self._say(replies.RCPT_SYNTAX)
            return
        if not self.utf8 and not (recipient.isascii() and words.isascii()):
            self._say(replies.RECIPIENT_NOT_ASCII)
            return
        answer = self._handler.rcpt(recipient, params)
        if answer is _RCPT_OK:
            self.state = _RCPT
            self.out.append(_RCPT_OK_BYTES)
        elif answer is PENDING:
            self._then = Conversation._recipient_given
        else:
            self._recipient_given(answer)

    def _recipient_given(self, answer: Reply) -> None:
        if answer.code // 10 == 25:
            self.state = _RCPT
        self._say(answer)

    def _rset(self, rest: str) -> None:
        if rest.strip(" "):
            self._say(replies.NO_PARAMETERS)
        elif not self._is_junk():
            self._forget()
            self._courtesy("RSET", "", replies.RESET_OK)

    def _quit(self, rest: str) -> None:
        if rest.strip(" "):
            self._say(replies.NO_PARAMETERS)
            return
        self._hear(self._handler.said("QUIT", "", replies.BYE), Conversation._left)

    def _left(self, answer: Reply) -> None:
        if answer is _BYE:
            self.out.append(_BYE_BYTES)
        else:
            self._say(answer)
        self.abandon()

    # Helpers of the verbs

    def _courtesy(self, verb: str, text: str, usual: Reply) -> None:
        """Answers a command that changes nothing, in the handler's words."""
        self._hear(self._handler.said(verb, text, usual), Conversation._say)

    def _malformed(self, error: AddressError, status: str, what: str) -> None:
        self._say(Reply(501, status, (f"{what}: {error}",)))

    def _forget(self) -> None:
        if self.state is _MAIL or self.state is _RCPT or self.state is _CHUNKS:
            self.state = _READY
            self._handler.reset()

    def _is_junk(self) -> bool:
        """Counts a command that leads nowhere; too many are refused, and so become errors."""
        self.junk += 1
        if self.junk <= self._handler.tolerates(self._profile.junk_commands):
            return False
        self._say(replies.TOO_MUCH_JUNK)
        return True


# Behind the class, whose body knows no methods by name where it is compiled (docs/compiled.md).
BASIC_VERBS: dict[str, Verb] = {
    "EHLO": Conversation._ehlo,
    "HELO": Conversation._helo,
    "LHLO": Conversation._lhlo,
    "MAIL": Conversation._mail,
    "RCPT": Conversation._rcpt,
    "RSET": Conversation._rset,
    "QUIT": Conversation._quit,
}
