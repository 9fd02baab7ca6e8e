"""aiosmtpd handlers run unchanged: the same conversations with aiosmtpd's own server and with ours, compared.

What the handler is given and what it says must be the same; where it says nothing, the replies' codes must be.
"""

from __future__ import annotations

import asyncio
import io
import mailbox
import re
import smtplib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd import handlers
from aiosmtpd.controller import Controller
from hypothesis import given
from hypothesis import strategies as st

from mailflow.hooks.aiosmtpd_server import mail_options, rcpt_options, reply_of
from mailflow.smtp.commands import MailParams, RcptParams
from tests.hooks.rig import serve
from tests.support.client import Client, mail
from tests.support.sink import Sink
from tests.support.tools import free_port

MESSAGE = b"From: joe@client.test\r\nTo: ann@remote.test\r\nSubject: greetings\r\n\r\nHello.\r\n.dot"


def theirs(handler: object, talk: Callable[[int], Any]) -> Any:
    """A conversation with aiosmtpd's own server."""
    controller = Controller(handler, hostname="127.0.0.1", port=free_port(), server_hostname="mx.example.test")
    controller.start()
    try:
        return talk(controller.port)
    finally:
        controller.stop()


def ours(folder: Path, handler: object, talk: Callable[[int], Any], **more: Any) -> Any:
    return serve(folder, talk, handler=handler, **more).result


def say(*lines: str) -> Callable[[int], list[str]]:
    def talk(port: int) -> list[str]:
        with Client(port) as client:
            return [client.say(line) for line in lines]

    return talk


def codes(replies: list[str]) -> list[str]:
    return [reply[:3] for reply in replies]


class Spy:
    """Has every method, as aiosmtpd's documentation asks for them, notes what it is given, and answers in words of its own."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def note(self, name: str, session: Any, envelope: Any, *more: Any) -> None:
        assert session.peer[0] == "127.0.0.1"
        assert session.ssl is None
        assert session.authenticated is None
        about = (session.host_name, session.extended_smtp, envelope.mail_from, *map(tuple, (envelope.mail_options,)))
        self.seen.append((name, *about, tuple(envelope.rcpt_tos), envelope.smtp_utf8, envelope.content, *more))

    async def handle_HELO(self, server, session, envelope, hostname):
        self.note("HELO", session, envelope, hostname)
        session.host_name = hostname
        return f"250 {server.hostname} at your service"

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        self.note("EHLO", session, envelope, hostname, responses[0], responses[-1])
        session.host_name = hostname
        return [responses[0], "250-XSPY", responses[-1]]

    async def handle_MAIL(self, server, session, envelope, address, mail_options):
        self.note("MAIL", session, envelope, address, tuple(mail_options))
        if address.startswith("bad"):
            return "553 5.7.1 bad sender"
        envelope.mail_from = address
        envelope.mail_options.extend(mail_options)
        return "250 sender noted"

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        await asyncio.sleep(0)
        self.note("RCPT", session, envelope, address, tuple(rcpt_options))
        if address.startswith("no"):
            return "550-not here\r\n550 nor there"
        envelope.rcpt_tos.append(address)
        return "251 5.1.5 it will find its way"

    async def handle_RSET(self, server, session, envelope):
        self.note("RSET", session, envelope)
        return "250 forgotten"

    async def handle_NOOP(self, server, session, envelope, arg):
        self.note("NOOP", session, envelope, arg)
        return "250 nothing done"

    async def handle_VRFY(self, server, session, envelope, address):
        self.note("VRFY", session, envelope, address)
        return "252 who knows"

    async def handle_DATA(self, server, session, envelope):
        self.note("DATA", session, envelope, envelope.original_content)
        return "550 5.6.0 too funny" if b"joke" in envelope.content else "250 2.6.0 taken"

    async def handle_QUIT(self, server, session, envelope):
        self.note("QUIT", session, envelope)
        return "221 so long"


CONVERSATIONS = {
    "a message": [
        "EHLO c.test", "MAIL FROM:<joe@c.test> SIZE=30 BODY=8BITMIME", "RCPT TO:<ann@remote.test>", "RCPT TO:<no@remote.test>",
        'RCPT TO:<"odd one"@[192.0.2.1]>', "DATA", "Subject: x\r\n\r\n..dot\r\n.", "QUIT",
    ],
    "two messages, the first refused": [
        "EHLO c.test", "MAIL FROM:<joe@c.test>", "RCPT TO:<ann@remote.test>", "DATA", "a joke\r\n.",
        "MAIL FROM:<sue@c.test>", "RCPT TO:<bob@remote.test>", "DATA", "earnest\r\n.", "QUIT",
    ],
    "HELO, null sender, courtesies": [
        "HELO c.test", "NOOP", "NOOP some words", "VRFY ann@remote.test", "VRFY <ann@remote.test>", "RSET", "MAIL FROM:<>",
        "RCPT TO:<postmaster>", "RSET", "MAIL FROM:<joe@c.test>", "RSET", "QUIT",
    ],
    "refused sender": ["EHLO c.test", "MAIL FROM:<bad@c.test>", "MAIL FROM:<good@c.test>", "QUIT"],
    "greeted twice": ["HELO one.test", "MAIL FROM:<joe@c.test>", "EHLO two.test", "MAIL FROM:<sue@c.test>", "QUIT"],
}  # fmt: skip


@pytest.mark.parametrize("lines", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_a_handler_sees_and_says_the_same(tmp_path: Path, lines: list[str]) -> None:
    here, there = Spy(), Spy()
    replies = ours(tmp_path, here, say(*lines), trusted=False)
    expected = theirs(there, say(*lines))
    assert [r for r in replies if r[:3] != "354"] == [r for r in expected if r[:3] != "354"]
    assert here.seen == there.seen


class NoRecipients:
    """Says yes and appends nothing."""

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        return "250 OK"


class NoSender:
    async def handle_MAIL(self, server, session, envelope, address, mail_options):
        return "250 OK"


class NoName:
    async def handle_HELO(self, server, session, envelope, hostname):
        return "250 hello"


class OldEhlo:
    """The form with four arguments: it pushes lines of its own and gives the last one."""

    async def handle_EHLO(self, server, session, envelope, hostname):
        session.host_name = hostname
        await server.push("250-XOLD")
        return "250 HELP"


class Refuses:
    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        return ["550 not you"]


@pytest.mark.parametrize(
    ("handler", "lines"),
    [
        (NoRecipients, ["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA"]),
        (NoSender, ["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>"]),
        (NoName, ["HELO c.test", "MAIL FROM:<a@b.test>"]),
        (Refuses, ["EHLO c.test", "MAIL FROM:<a@b.test>"]),
        (
            handlers.Sink,
            ["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA", "x\r\n.", "NOOP", "QUIT"],
        ),
    ],
)
def test_what_a_handler_leaves_out_has_the_same_consequence(tmp_path: Path, handler: Any, lines: list[str]) -> None:
    replies = ours(tmp_path, handler(), say(*lines))
    assert codes(replies) == codes(theirs(handler(), say(*lines)))


@pytest.mark.filterwarnings("ignore:Use the 5-argument:DeprecationWarning")
def test_ehlo_with_four_arguments(tmp_path: Path) -> None:
    lines = ["EHLO c.test", "MAIL FROM:<a@b.test>"]
    [hello, answer] = ours(tmp_path, OldEhlo(), say(*lines))
    [expected, _] = theirs(OldEhlo(), say(*lines))
    assert hello.splitlines()[0] == expected.splitlines()[0] == "250-mx.example.test"
    assert hello.splitlines()[-2:] == expected.splitlines()[-2:] == ["250-XOLD", "250 HELP"]
    assert "250-PIPELINING" in hello
    assert answer.startswith("250")


class WrongEhlo:
    async def handle_EHLO(self, server, session):
        pass


def test_a_handler_that_aiosmtpd_refuses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="handle_EHLO"):
        ours(tmp_path, WrongEhlo(), say())


# aiosmtpd's own example handlers


def post(port: int) -> dict[str, Any]:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test") as client:
        return client.sendmail("joe@client.test", ["ann@remote.test", "bob@remote.test"], MESSAGE, ["BODY=8BITMIME"])


def test_debugging_prints_the_same(tmp_path: Path) -> None:
    here, there = io.StringIO(), io.StringIO()
    assert ours(tmp_path, handlers.Debugging(here), post) == theirs(handlers.Debugging(there), post) == {}

    def port_free(stream: io.StringIO) -> str:
        return re.sub(r"\d{3,5}\)", "PORT)", stream.getvalue())

    assert port_free(here) == port_free(there)
    assert "Subject: greetings" in here.getvalue()


def test_mailbox_keeps_the_same(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    kept = []
    for name, run in (("here", lambda h: ours(tmp_path / "server", h, post)), ("there", lambda h: theirs(h, post))):
        run(handlers.Mailbox(str(tmp_path / name)))
        [message] = mailbox.Maildir(tmp_path / name)
        kept.append([(k, v) for k, v in message.items() if k != "X-Peer"] + [message.get_payload()])
    assert kept[0] == kept[1]
    assert ("X-RcptTo", "ann@remote.test, bob@remote.test") in kept[0]
    assert ("X-MailFrom", "joe@client.test") in kept[0]


class Keeper(handlers.Message):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.kept.append(message)


class AsyncKeeper(handlers.AsyncMessage):
    def __init__(self) -> None:
        super().__init__(loop=asyncio.new_event_loop())
        self.loop.close()
        self.kept: list[Any] = []

    async def handle_message(self, message: Any) -> None:
        await asyncio.sleep(0)
        self.kept.append(message)


@pytest.mark.parametrize("kind", [Keeper, AsyncKeeper])
def test_message_handlers(tmp_path: Path, kind: Any) -> None:
    handler = kind()
    assert ours(tmp_path, handler, post) == {}
    [message] = handler.kept
    assert message["Subject"] == "greetings"
    assert message["X-MailFrom"] == "joe@client.test"


def test_proxy_hands_on(tmp_path: Path) -> None:
    """aiosmtpd's Proxy speaks to the next server with smtplib, in the event loop."""
    with Sink() as sink:
        host, port = sink.next_hop.strip("[]").replace("]", "").split(":")
        assert ours(tmp_path, handlers.Proxy(host, int(port)), post) == {}
        [arrived] = sink.wait(1)
    assert arrived.recipients == ["ann@remote.test", "bob@remote.test"]
    assert b"X-Peer: 127.0.0.1\r\n" in arrived.data


# Failures


class Fails:
    """Fails at one method, in one way."""

    def __init__(self, method: str, how: Callable[[], Any], excuse: Any = None) -> None:
        async def fail(*_: Any) -> Any:
            return await how()

        setattr(self, f"handle_{method}", fail)
        if excuse is not None:
            self.handle_exception = excuse
        if method == "EHLO":
            self.handle_EHLO = lambda server, session, envelope, hostname, responses: fail()


async def hang() -> None:
    await asyncio.Event().wait()


async def blow() -> None:
    raise RuntimeError("swordfish")


async def nothing() -> None:
    pass


async def nonsense() -> str:
    return "OK"


async def injected() -> str:
    return "250 OK\r\nthree blind mice"


DIALOGUE = ["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<alice@example.test>", "DATA", "x\r\n."]
METHODS = {"EHLO": 0, "MAIL": 1, "RCPT": 2, "DATA": 4}


@pytest.mark.parametrize("mode", ["take", "filter"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", [hang, blow, nothing, nonsense, injected])
def test_a_method_that_fails_is_a_451(tmp_path: Path, mode: str, method: str, how: Any) -> None:
    outcome = serve(
        tmp_path,
        say(*DIALOGUE),
        handler=Fails(method, how),
        handler_mode=mode,
        more={"hooks": {"time_limit": "200ms"}},
    )
    assert outcome.result[METHODS[method]] == "451 4.3.0 Local error, try again later"
    assert f"handle_{method} failed" in outcome.log
    assert "swordfish" not in "".join(outcome.result)
    assert outcome.mail("alice") == []


async def excuse(error: Exception) -> str:
    return f"442 so sorry, {type(error).__name__}"


async def bad_excuse(error: Exception) -> str:
    raise KeyError


async def lie(error: Exception) -> str:
    return "250 all is well"


@pytest.mark.parametrize(
    ("given", "reply"),
    [(excuse, "442 so sorry, RuntimeError"), (bad_excuse, "451 4.3.0"), (lie, "451 4.3.0"), (nothing, "451 4.3.0")],
)
def test_handle_exception_finds_the_words(tmp_path: Path, given: Any, reply: str) -> None:
    replies = ours(tmp_path, Fails("DATA", blow, given), say(*DIALOGUE))
    assert replies[-1].startswith(reply)


# What becomes of the message


class Takes:
    async def handle_DATA(self, server, session, envelope):
        return "250 mine"


def test_what_a_handler_takes_is_not_queued(tmp_path: Path) -> None:
    outcome = serve(tmp_path, say(*DIALOGUE), handler=Takes())
    assert outcome.result[-1] == "250 mine"
    assert (outcome.mail("alice"), outcome.queue) == ([], [])
    assert outcome.events("handled")[0]["handler"] == "Takes"


def test_a_handler_without_data_drops_mail_with_a_warning(tmp_path: Path) -> None:
    outcome = serve(tmp_path, say(*DIALOGUE), handler=handlers.Sink())
    assert codes(outcome.result)[-1] == "250"
    assert "Sink has no handle_DATA" in outcome.log


class Asks:
    """Has mailflow queue what is not for itself."""

    async def handle_DATA(self, server, session, envelope):
        from mailflow.hooks import QUEUE

        return QUEUE if b"queue" in envelope.content else "250 kept"


def test_a_handler_may_ask_for_the_queue(tmp_path: Path) -> None:
    outcome = serve(tmp_path, say(*DIALOGUE, *DIALOGUE[1:4], "queue me\r\n."), handler=Asks(), trusted=False)
    assert outcome.result[4] == "250 kept"
    assert outcome.result[-1].startswith("250 2.0.0 Ok: queued as")
    [queued] = outcome.mail("alice")
    assert queued.endswith(b"\nqueue me\n")


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [("else@remote.test", "554 5.7.1 Relay access denied"), ("nobody@example.test", "550 5.1.1")],
)
def test_what_is_queued_is_checked_though_rcpt_was_not(tmp_path: Path, recipient: str, reply: str) -> None:
    lines = ["EHLO c.test", "MAIL FROM:<a@b.test>", f"RCPT TO:<{recipient}>", "DATA", "queue\r\n."]
    outcome = serve(tmp_path, say(*lines), handler=Asks(), trusted=False)
    assert codes(outcome.result[:4]) == ["250", "250", "250", "354"]
    assert outcome.result[-1].startswith(reply)
    assert outcome.queue == []


class Filter:
    """Accepts in its own words, and changes everything about one message."""

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        envelope.rcpt_tos.append(address)
        return "250 noted"

    async def handle_DATA(self, server, session, envelope):
        if b"change" in envelope.original_content:
            envelope.mail_from = "<>"
            envelope.rcpt_tos[:] = ["bob@example.test"]
            envelope.content = "Subject: changed\n\nby the handler\n"
        return "550 spam" if b"spam" in envelope.original_content else "250 ignored"


def test_a_filter_queues_what_it_accepts(tmp_path: Path) -> None:
    again = DIALOGUE[1:4]
    lines = [*DIALOGUE[:4], "plain\r\n.", *again, "change\r\n.", *again, "spam\r\n."]
    outcome = serve(tmp_path, say(*lines), handler=Filter(), handler_mode="filter")
    assert outcome.result[2] == "250 noted"
    assert outcome.result[4].startswith("250 2.0.0 Ok: queued as")
    assert outcome.result[8].startswith("250 2.0.0 Ok: queued as")
    assert outcome.result[-1] == "550 spam"
    [plain], [changed] = outcome.mail("alice"), outcome.mail("bob")
    assert plain.endswith(b"\nplain\n")
    assert changed.startswith(b"Return-Path: <>\n")
    assert changed.endswith(b"\n\nby the handler\n")


def test_a_filter_is_no_open_relay(tmp_path: Path) -> None:
    lines = ["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<else@remote.test>", "RCPT TO:<nobody@example.test>"]
    outcome = serve(tmp_path, say(*lines), handler=Filter(), handler_mode="filter", trusted=False)
    assert [reply[:9] for reply in outcome.result[2:]] == ["554 5.7.1", "550 5.1.1"]


class Rcpt:
    """Only decides about recipients."""

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if address.startswith("bob"):
            return "550 not bob"
        envelope.rcpt_tos.append(address)
        return "250 OK"


def test_a_filter_without_data_streams_to_the_queue(tmp_path: Path) -> None:
    def talk(port: int) -> Any:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test") as client:
            text = mail(text="x" * 70 + "\n", to="alice@example.test").as_bytes()
            return client.sendmail("a@b.test", ["alice@example.test", "bob@example.test"], text)

    more = {"hooks": {"content_memory": 1024}}
    outcome = serve(tmp_path, talk, handler=Rcpt(), handler_mode="filter", more=more)
    assert outcome.result == {"bob@example.test": (550, b"not bob")}
    assert len(outcome.mail("alice")) == 1


def test_pipelined_commands_are_answered_in_order(tmp_path: Path) -> None:
    def talk(port: int) -> list[str]:
        with Client(port) as client:
            client.send("\r\n".join([*DIALOGUE[:4], ""]).encode())
            replies = [client.reply() for _ in range(4)]
            client.send(b"x\r\n.\r\nNOOP\r\nQUIT\r\n")
            return replies + [client.reply() for _ in range(4)]

    spy = Spy()
    replies = ours(tmp_path, spy, talk)
    assert [r.rpartition('\n')[2] for r in replies] == [
        "250 HELP", "250 sender noted", "251 5.1.5 it will find its way", "354 End data with <CR><LF>.<CR><LF>",
        "250 2.6.0 taken", "250 nothing done", "221 so long", "",
    ]  # fmt: skip


def test_hooks_and_handler_do_not_go_together() -> None:
    from mailflow import Mailflow, Settings
    from mailflow.hooks import Hooks

    some = Settings(hostname="mx.example.test")
    with pytest.raises(ValueError, match="not both"):
        Mailflow(some, hooks=Hooks(), handler=Takes())
    with pytest.raises(ValueError, match="authenticator"):
        Mailflow(some, authenticator=print)
    with pytest.raises(ValueError, match="take"):
        Mailflow(some, handler=Takes(), handler_mode="queue")  # type: ignore[arg-type]


def test_every_kind_of_option_is_listed() -> None:
    params = MailParams(
        9, "8BITMIME", smtputf8=True, ret="HDRS", envid="a+2Bb", requiretls=True, auth="<>", by=(120, "RT"), hold_for=60
    )
    assert mail_options(params) == [
        "SIZE=9", "BODY=8BITMIME", "SMTPUTF8", "RET=HDRS", "ENVID=a+2Bb", "REQUIRETLS", "AUTH=<>", "BY=120;RT", "HOLDFOR=60",
    ]  # fmt: skip
    assert mail_options(MailParams(hold_until=1893553445.0)) == ["HOLDUNTIL=2030-01-02T03:04:05+00:00"]
    assert rcpt_options(RcptParams("NEVER", "rfc822;Ann@x.test")) == [
        "NOTIFY=NEVER", "ORCPT=rfc822;Ann@x.test",
    ]  # fmt: skip


@given(st.text() | st.lists(st.from_regex(r"[2-5][0-9]{2}[ -][ -~]{0,30}", fullmatch=True)).map("\r\n".join))
def test_a_status_is_a_reply_or_an_error(status: str) -> None:
    try:
        reply = reply_of(status)
    except ValueError:
        return
    wire = reply.encode()
    assert wire.endswith(b"\r\n")
    lines = wire[:-2].split(b"\r\n")
    assert all(line[:3] == lines[0][:3] and line[3:4] == b"-" for line in lines[:-1])
    assert lines[-1][3:4] == b" "
    assert b"\n" not in wire.replace(b"\r\n", b"")
    assert [line[4:] for line in lines] == [
        line[4:].encode("utf-8", "surrogateescape") for line in re.split("\r?\n", status)
    ]


def test_lmtp_has_a_reply_for_each_recipient(tmp_path: Path) -> None:
    more = {"listener": [{"bind": "127.0.0.1:0", "protocol": "lmtp"}]}

    def talk(port: int) -> list[str]:
        with Client(port) as client:
            lines = [
                "LHLO c.test",
                "MAIL FROM:<a@b.test>",
                "RCPT TO:<c@d.test>",
                "RCPT TO:<e@f.test>",
                "DATA",
                "x\r\n.",
            ]
            return [client.say(line) for line in lines] + [client.reply()]

    for mode in ("take", "filter"):
        spy = Spy()
        (tmp_path / mode).mkdir()
        given_more = more | {
            "local": {"domains": ["d.test", "f.test"], "users": ["c", "e"], "maildir": str(tmp_path / "{user}")}
        }
        outcome = serve(tmp_path / mode, talk, handler=spy, handler_mode=mode, more=given_more)
        assert outcome.result[-1][:3] == outcome.result[-2][:3] == "250"
        assert [seen[0] for seen in spy.seen] == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA"]


def test_bdat_and_vrfy_by_policy(tmp_path: Path) -> None:
    spy = Spy()

    def talk(port: int) -> list[str]:
        with Client(port) as client:
            replies = [client.say(line) for line in [*DIALOGUE[:3], "VRFY alice@example.test"]]
            client.send(b"BDAT 4\r\nab\r\nBDAT 4 LAST\r\ncd\r\n")
            return [*replies, client.reply(), client.reply()]

    replies = ours(tmp_path, spy, talk, more={"protocol": {"vrfy": "known"}})
    assert replies[3] == "252 who knows"
    assert replies[-1] == "250 2.6.0 taken"
    assert spy.seen[-1][-1] == b"ab\r\ncd\r\n"
