"""The protocol core against a small model of a session: any order of commands, split anywhere, answers that come late.

The model knows one reply code for each command and nothing of bytes. While an answer is pending the client sends on, resets,
asks for TLS, logs in, or leaves; what it hears must be what the model says, in order, once.
"""

from __future__ import annotations

import base64

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mailflow.smtp import replies
from mailflow.smtp.profile import Offers
from mailflow.smtp.server import ServerCore
from tests.smtp_server.fakes import Recorder, profile

QUESTIONS = ("connect", "hello", "mail", "rcpt", "data", "end", "said", "auth", "starttls", "xclient", "vrfy")
ALL = Offers(mechanisms=("PLAIN",), binarymime=True, requiretls=True, deliver_by=1, hold=True, etrn=True, vrfy="known")
GENEROUS = 10**9
BODY = b"Subject: x\r\n\r\n..dots\r\n"


def b64(text: bytes) -> bytes:
    return base64.b64encode(text)


class Model:
    """Where the session stands, by the RFCs; `say` gives the codes that a command is answered with."""

    def __init__(self, *, lmtp: bool) -> None:
        self.lmtp = lmtp
        self.state = "start"
        self.extended = self.login = self.tls = self.upgrading = self.closed = self.challenged = False
        self.accepted = 0
        self.messages = 0
        self.binary = False

    def forget(self) -> None:
        if self.state not in ("start", "data"):
            self.state = "ready"

    def restart(self) -> None:
        self.state, self.extended, self.login = "start", False, False

    def say(self, command: str) -> list[int]:
        if self.closed or self.upgrading:
            return []
        return getattr(self, f"_{command}")()

    def _ehlo(self) -> list[int]:
        return self._hello("EHLO")

    def _helo(self) -> list[int]:
        return self._hello("HELO")

    def _lhlo(self) -> list[int]:
        return self._hello("LHLO")

    def _hello(self, verb: str) -> list[int]:
        if (verb == "LHLO") is not self.lmtp:
            return [500]
        self.state, self.extended = "ready", verb != "HELO"
        return [250]

    def _mail(self) -> list[int]:
        if self.state != "ready":
            return [503]
        self.state, self.accepted, self.binary = "mail", 0, False
        return [250]

    def _mail_binary(self) -> list[int]:
        codes = self._mail()
        self.binary = codes == [250] or self.binary
        return codes

    def _mail_bad(self) -> list[int]:
        if self.state == "ready":
            self.binary = False
        return [503 if self.state != "ready" else 550]

    def _rcpt(self) -> list[int]:
        if self.state not in ("mail", "rcpt"):
            return [503]
        self.state = "rcpt"
        self.accepted += 1
        return [250]

    def _rcpt_nobody(self) -> list[int]:
        return [550 if self.state in ("mail", "rcpt") else 503]

    def _data(self) -> list[int]:
        if self.state != "rcpt":
            return [503 if self.state != "mail" or self.lmtp else 554]
        if self.binary:
            return [503]
        self.state = "data"
        return [354]

    def _body(self) -> list[int]:
        return self._end()

    def _end(self) -> list[int]:
        self.state = "ready"
        self.messages += 1
        return [250] * (self.accepted if self.lmtp else 1)

    def _chunk(self, *, last: bool = False) -> list[int]:
        if self.state not in ("rcpt", "chunks"):
            return [503 if self.state != "mail" or self.lmtp else 554]
        self.state = "chunks"
        return self._end() if last else [250]

    def _chunk_last(self) -> list[int]:
        return self._chunk(last=True)

    def _rset(self) -> list[int]:
        self.forget()
        return [250]

    def _noop(self) -> list[int]:
        return [250]

    def _rubbish(self) -> list[int]:
        return [500]

    def _quit(self) -> list[int]:
        self.closed = True
        return [221]

    def _starttls(self) -> list[int]:
        if self.tls:
            return [503]
        if self.state != "ready":
            return [503]
        self.upgrading = True
        return [220]

    def _why_no_auth(self) -> int:
        if self.login:
            return 503
        return 0 if self.state == "ready" and self.extended else 503

    def _auth(self) -> list[int]:
        if why := self._why_no_auth():
            return [why]
        self.login = True
        return [235]

    def _auth_wrong(self) -> list[int]:
        return [self._why_no_auth() or 535]

    def _auth_ask(self) -> list[int]:
        if why := self._why_no_auth():
            return [why]
        self.challenged = True
        return [334]

    def _response(self) -> list[int]:
        self.challenged, self.login = False, True
        return [235]

    def _response_more(self) -> list[int]:
        return [334]

    def _response_wrong(self) -> list[int]:
        self.challenged = False
        return [535]

    def _response_star(self) -> list[int]:
        self.challenged = False
        return [501]

    _response_garbage = _response_star

    def _xclient(self) -> list[int]:
        if self.state not in ("ready", "start"):
            return [503]
        self.restart()
        return [220]

    def _xforward(self) -> list[int]:
        return [250 if self.state in ("ready", "start") else 503]

    def _etrn(self) -> list[int]:
        if self.lmtp:
            return [502]
        return [250 if self.state == "ready" else 503]

    def _vrfy(self) -> list[int]:
        return [503 if self.state == "start" else 250]

    def secured(self) -> None:
        self.restart()
        self.upgrading, self.tls = False, True


COMMANDS = {
    "ehlo": b"EHLO me.test",
    "helo": b"helo me.test",
    "lhlo": b"LHLO me.test",
    "mail": b"MAIL FROM:<a@x.test>",
    "mail_binary": b"MAIL FROM:<a@x.test> BODY=BINARYMIME",
    "mail_bad": b"MAIL FROM:<bad@x>",
    "rcpt": b"RCPT TO:<alice@y.test>",
    "rcpt_nobody": b"RCPT TO:<nobody@y.test>",
    "data": b"DATA",
    "chunk": b"BDAT 6\r\na\r\nb\r\n",
    "chunk_last": b"BDAT 4 last\r\nQUIT",
    "rset": b"RSET",
    "noop": b"NOOP",
    "rubbish": b"HELLO",
    "starttls": b"STARTTLS",
    "auth": b"AUTH PLAIN " + b64(b"me"),
    "auth_wrong": b"AUTH PLAIN " + b64(b"you"),
    "auth_ask": b"AUTH PLAIN",
    "xclient": b"XCLIENT ADDR=192.0.2.7",
    "xforward": b"XFORWARD NAME=spike.test",
    "etrn": b"ETRN y.test",
    "vrfy": b"VRFY <alice@y.test>",
}
RESPONSES = {
    "response": b64(b"me"),
    "response_more": b64(b"more"),
    "response_wrong": b64(b"you"),
    "response_star": b"*",
    "response_garbage": b"?",
}
UNENDED = frozenset(("chunk_last",))
"""What follows is not a line end."""


class Talk(RuleBasedStateMachine):
    lmtp = False

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(lmtp=self.lmtp)
        self.handler = Recorder(QUESTIONS)
        self.late = False
        self.handler._answer = self.answer  # type: ignore[method-assign]
        secured = profile(lmtp=self.lmtp, offers=ALL, errors=GENEROUS, junk_commands=GENEROUS)
        clear = profile(lmtp=self.lmtp, offers=ALL, errors=GENEROUS, junk_commands=GENEROUS, secured=secured)
        self.core = ServerCore(clear, self.handler)
        self.heard = self.core.take()
        self.expected = [220]

    def answer(self, verb, answer):
        return Recorder._answer(self.handler, verb, answer) if self.late else answer

    def send(self, data: bytes, splits: int) -> None:
        for start in range(0, len(data), splits):
            self.core.feed(data[start : start + splits])
            self.heard += self.core.take()

    def say(self, name: str, data: bytes, splits: int, late: bool) -> None:
        self.late = late
        self.expected += self.model.say(name)
        self.send(data, splits)

    @precondition(lambda self: self.model.state != "data" and not self.model.challenged)
    @rule(name=st.sampled_from(sorted(COMMANDS)), splits=st.sampled_from([1, 3, 1000]), late=st.booleans())
    def command(self, name, splits, late):
        self.say(name, COMMANDS[name] + (b"" if name in UNENDED or name == "chunk" else b"\r\n"), splits, late)

    @precondition(lambda self: self.model.state == "data")
    @rule(splits=st.sampled_from([1, 3, 1000]), late=st.booleans())
    def body(self, splits, late):
        self.say("body", BODY + b".\r\n", splits, late)

    @precondition(lambda self: self.model.challenged)
    @rule(name=st.sampled_from(sorted(RESPONSES)), splits=st.sampled_from([1, 3, 1000]), late=st.booleans())
    def response(self, name, splits, late):
        self.say(name, RESPONSES[name] + b"\r\n", splits, late)

    @rule(late=st.booleans())
    @precondition(lambda self: self.core.pending)
    def bring(self, late):
        self.late = late
        held, self.handler.held = self.handler.held, None
        self.core.resume(held)
        self.heard += self.core.take()

    @precondition(lambda self: self.core.upgrading)
    @rule()
    def shake_hands(self):
        assert not self.core.pending
        self.core.secured()
        self.model.secured()

    @precondition(lambda self: not self.core.pending and not self.model.closed and not self.model.upgrading)
    @rule()
    def leave(self):
        if self.model.state == "data" or self.model.challenged:
            return
        self.say("quit", b"QUIT\r\n", 1000, late=False)
        assert self.core.closing

    @invariant()
    def hears_what_the_model_says(self):
        lines = self.heard.decode().split("\r\n")
        assert lines.pop() == ""
        codes = [int(line[:3]) for line in lines if line[3] == " "]
        if self.core.pending:
            assert codes == self.expected[: len(codes)]
        else:
            assert codes == self.expected, lines[-3:]
            assert self.core.closing == self.model.closed
            assert self.core.upgrading == self.model.upgrading
            assert len(self.handler.messages) == self.model.messages
            if not self.model.closed:
                assert self.core.authenticated == self.model.login
                assert self.core.state.value == self.model.state

    def teardown(self) -> None:
        """The client goes; nobody is asked any more."""
        self.core.abandon()
        self.core.take()
        assert not self.handler._open
        before = len(self.handler.events)
        self.core.feed(b"EHLO x\r\n")
        self.core.resume(self.handler.held or replies.RESET_OK)
        assert len(self.handler.events) == before
        assert self.core.take() == b""


class LmtpTalk(Talk):
    lmtp = True


SETTINGS = settings(max_examples=150, stateful_step_count=40, deadline=None)
Talk.TestCase.settings = LmtpTalk.TestCase.settings = SETTINGS
TestTalk, TestLmtpTalk = Talk.TestCase, LmtpTalk.TestCase


def test_the_model_has_a_word_for_each_command():
    model = Model(lmtp=False)
    for name in [*COMMANDS, *RESPONSES]:
        assert callable(getattr(model, f"_{name}")), name
    with pytest.raises(AttributeError):
        model.say("turn")
