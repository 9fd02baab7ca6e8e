"""A handler that records what the core asks, and ways to feed the core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mailflow.smtp.commands import MailParams, RcptParams
from mailflow.smtp.handler import PENDING, Answer, Offence
from mailflow.smtp.profile import Profile
from mailflow.smtp.replies import (
    AUTH_FAILED,
    AUTH_OK,
    HELLO,
    MAIL_OK,
    RCPT_OK,
    RESET_OK,
    START_DATA,
    START_TLS,
    WELCOME,
    challenge,
)
from mailflow.smtp.reply import Reply, reply
from mailflow.smtp.server import ServerCore

NO_SUCH_USER = reply(550, "5.1.1", "No such user")
NO_SENDER = reply(550, "5.7.1", "No mail from you")
GREETING = "220 mx.test ESMTP mailflow"
QUEUED = reply(250, "2.0.0", "Ok: queued")


class Recorder:
    """Accepts everything except sender bad@x and recipients nobody@…; chunks of one message are joined."""

    def __init__(self, pending: Iterable[str] = ()) -> None:
        self.pending = frozenset(pending)
        self.events: list[tuple[object, ...]] = []
        self.refusals: list[Reply] = []
        self.offences: list[tuple[Offence, bytes]] = []
        self.sentence: dict[Offence, Reply] = {}
        """What offences are answered with."""
        self.held: Reply | None = None
        self.gateway = True
        self.accepted = 0
        self._body = b""
        self._open = False

    @property
    def messages(self) -> list[bytes]:
        return [event[1] for event in self.events if event[0] == "end"]  # type: ignore[misc]

    def _answer(self, verb: str, answer: Reply) -> Answer:
        if verb in self.pending:
            assert self.held is None, "asked while an answer was pending"
            self.held = answer
            return PENDING
        return answer

    def connect(self) -> Answer:
        return self._answer("connect", WELCOME)

    def hello(self, verb: str, name: str) -> Answer:
        self.events.append(("hello", verb, name))
        return self._answer("hello", HELLO)

    def starttls(self) -> Answer:
        self.events.append(("starttls",))
        return self._answer("starttls", START_TLS)

    def auth(self, mechanism: str, initial: bytes | None) -> Answer:
        self.events.append(("auth", mechanism, initial))
        return self._answer("auth", challenge(b"who?") if initial is None else self._login(initial))

    def auth_response(self, data: bytes) -> Answer:
        self.events.append(("response", data))
        return self._answer("auth", self._login(data))

    def _login(self, data: bytes) -> Reply:
        """`more` is asked on, `me` is let in."""
        return challenge(b"") if data == b"more" else AUTH_OK if data == b"me" else AUTH_FAILED

    def auth_cancelled(self) -> None:
        self.events.append(("cancelled",))

    def mail(self, sender: str, params: MailParams) -> Answer:
        self.events.append(("mail", sender, params))
        self.accepted = 0
        return self._answer("mail", NO_SENDER if sender == "bad@x" else MAIL_OK)

    def rcpt(self, recipient: str, params: RcptParams) -> Answer:
        self.events.append(("rcpt", recipient, params))
        self.accepted += not recipient.startswith("nobody@")
        return self._answer("rcpt", NO_SUCH_USER if recipient.startswith("nobody@") else RCPT_OK)

    def data(self) -> Answer:
        self.events.append(("data",))
        self._open, self._body = True, b""
        return self._answer("data", START_DATA)

    def chunk(self, data: bytes) -> None:
        assert self._open, "bytes for no message"
        assert data, "an empty chunk"
        self._body += data

    def end(self) -> Answer:
        assert self._open, "the end of no message"
        self._open = False
        self.events.append(("end", self._body))
        return self._answer("end", QUEUED)

    def copies(self) -> int:
        return self.accepted

    def offers(self) -> list[str]:
        return ["XTEST"]

    def profile(self, now: Profile) -> Profile:
        return now

    def may_speak_for_others(self, verb: str) -> bool:
        return self.gateway

    def xclient(self, attributes: Mapping[str, str | None]) -> Answer:
        self.events.append(("xclient", dict(attributes)))
        return self._answer("xclient", NO_SENDER if attributes.get("ADDR") is None else WELCOME)

    def xforward(self, attributes: Mapping[str, str | None]) -> Answer:
        self.events.append(("xforward", dict(attributes)))
        return self._answer("xclient", RESET_OK)

    def vrfy(self, address: str) -> Answer:
        return self._answer(
            "vrfy", NO_SUCH_USER if address.startswith("nobody@") else reply(250, "2.1.5", f"<{address}>")
        )

    def etrn(self, node: str) -> Answer:
        self.events.append(("etrn", node))
        return self._answer("vrfy", reply(250, "2.0.0", "started"))

    def said(self, verb: str, text: str, usual: Reply) -> Answer:
        return self._answer("said", usual)

    def reset(self) -> None:
        if self._open:
            self.events.append(("abort",))
        self._open = False

    def offended(self, offence: Offence, data: bytes) -> Reply | None:
        self.offences.append((offence, data))
        return self.sentence.get(offence)

    def tolerates(self, limit: int) -> int:
        return limit

    def refused(self, answer: Reply) -> bool:
        self.refusals.append(answer)
        return False


def profile(**changes: object) -> Profile:
    return Profile("mx.test", **({"message_size": 100_000} | changes))  # type: ignore[arg-type]


def drive(
    pieces: Iterable[bytes], *, pending: Iterable[str] = (), **limits: object
) -> tuple[bytes, Recorder, ServerCore]:
    """Feeds a new core; pending answers are brought after the next piece, or at the end. Returns its output, too."""
    handler = Recorder(pending)
    core = ServerCore(profile(**limits), handler)
    out = core.take()
    for piece in pieces:
        core.feed(piece)
        out += core.take() + bring(core, handler)
    return out, handler, core


def bring(core: ServerCore, handler: Recorder) -> bytes:
    """Brings pending answers until none is pending."""
    out = b""
    while core.pending:
        answer, handler.held = handler.held, None
        assert answer is not None
        core.resume(answer)
        out += core.take()
    return out


def singly(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def three_ways(data: bytes, *, trailing: bytes = b"NOO", **limits: object) -> tuple[list[str], Recorder]:
    """The replies behind the greeting, and the handler; the same whole, byte by byte, with trailing bytes, and pending."""
    out, handler, core = drive([data], **limits)
    for name, (other_out, other, other_core) in {
        "byte by byte": drive(singly(data), **limits),
        "with trailing bytes": drive([data + trailing], **limits),
        "every answer pending": drive([data], pending=("hello", "mail", "rcpt", "data", "end", "said"), **limits),
        "pending, byte by byte": drive(
            singly(data), pending=("hello", "mail", "rcpt", "data", "end", "said"), **limits
        ),
    }.items():
        assert other_out == out, name
        assert other.events == handler.events, name
        assert other.refusals == handler.refusals, name
        assert other_core.closing == core.closing, name
    lines = out.decode().split("\r\n")
    assert lines[0] == GREETING
    assert lines[-1] == ""
    return lines[1:-1], handler
