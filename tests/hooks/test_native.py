"""Native hooks on a running server: each decision at each stage, edits, failures, bounds."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mailflow import ConfigError, Mailflow
from mailflow.hooks import Edited, Hooks, accept, defer, discard, hold, quarantine, reject
from tests.hooks.rig import serve, settings
from tests.support.client import Client
from tests.support.server import environment

MESSAGE = b"Subject: greetings\r\n\r\nHello.\r\n.dot"


def hooks(**methods: Any) -> Hooks:
    """An object with these hooks; a value that is not callable is what the hook returns."""
    made = Hooks()
    for name, answer in methods.items():
        setattr(made, name, answer if callable(answer) else lambda *_, answer=answer: answer)
    return made


def post(port: int, *recipients: str, data: bytes = MESSAGE, sender: str = "joe@client.test") -> str:
    with Client(port) as client:
        client.say("EHLO client.test")
        return client.message(list(recipients) or ["alice@example.test"], data, sender)


class Recorder(Hooks):
    """Has no objection, and notes what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    async def on_connect(self, client):
        self.seen.append(("connect", client.address))

    def on_mail(self, envelope):
        self.seen.append(("mail", envelope.client.helo, envelope.sender, envelope.recipients))
        return accept()

    async def on_rcpt(self, envelope, recipient):
        await asyncio.sleep(0)
        self.seen.append(("rcpt", recipient, envelope.recipients))

    async def on_data(self, envelope, content):
        self.seen.append(("data", envelope.sender, envelope.recipients, envelope.size, content))

    async def on_queued(self, queue_id, envelope):
        self.seen.append(("queued", queue_id, envelope.sender, envelope.recipients))


def test_every_hook_is_told_what_it_needs(tmp_path: Path) -> None:
    recorder = Recorder()
    outcome = serve(tmp_path, lambda port: post(port, "alice@example.test", "bob@example.test"), hooks=recorder)
    queue_id = outcome.result.rpartition(" ")[2]
    both = ("alice@example.test", "bob@example.test")
    assert recorder.seen == [
        ("connect", "127.0.0.1"),
        ("mail", "client.test", "joe@client.test", ()),
        ("rcpt", both[0], ()),
        ("rcpt", both[1], both[:1]),
        ("data", "joe@client.test", both, len(MESSAGE) + 2, MESSAGE + b"\r\n"),
        ("queued", queue_id, "joe@client.test", both),
    ]
    [mail] = outcome.mail("alice")
    assert mail.endswith(MESSAGE.replace(b"\r\n", b"\n") + b"\n")


async def _later(value: object) -> object:
    await asyncio.sleep(0)
    return value


@pytest.mark.parametrize("stage", ["on_mail", "on_rcpt", "on_data"])
@pytest.mark.parametrize("wait", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize(
    ("decision", "answer"),
    [
        (reject("Not today"), "550 5.7.1 Not today"),
        (reject("Gone", code=551, status="5.1.6"), "551 5.1.6 Gone"),
        (defer("Come back"), "451 4.7.1 Come back"),
    ],
)
def test_a_refusal_is_what_the_client_hears(
    tmp_path: Path, stage: str, wait: bool, decision: object, answer: str
) -> None:
    given = hooks(**{stage: (lambda *_: _later(decision)) if wait else decision})
    outcome = serve(tmp_path, post, hooks=given)
    assert outcome.result == answer
    assert (outcome.mail("alice"), outcome.queue) == ([], [])
    [line] = outcome.events("reject")
    assert line["rule"] == f"hook {stage}"


def test_on_connect_refuses_before_the_greeting(tmp_path: Path) -> None:
    def talk(port: int) -> tuple[str, str]:
        with Client(port) as client:
            return client.greeting, client.reply()

    outcome = serve(tmp_path, talk, hooks=hooks(on_connect=reject("Go away", code=554)))
    assert outcome.result == ("554 5.7.1 Go away", "")


def test_a_refused_recipient_leaves_the_others(tmp_path: Path) -> None:
    def on_rcpt(_envelope, recipient):
        return reject() if recipient.startswith("bob") else None

    def talk(port: int) -> list[str]:
        with Client(port) as client:
            says = ["EHLO c.test", "MAIL FROM:<>", "RCPT TO:<bob@example.test>", "RCPT TO:<alice@example.test>", "DATA"]
            return [client.say(line)[:3] for line in says] + [client.say("x\r\n.")[:3]]

    outcome = serve(tmp_path, talk, hooks=hooks(on_rcpt=on_rcpt))
    assert outcome.result == ["250", "250", "550", "250", "354", "250"]
    assert (len(outcome.mail("alice")), outcome.mail("bob")) == (1, [])


@pytest.mark.parametrize("stage", ["on_mail", "on_rcpt", "on_data"])
def test_discard_acknowledges_and_drops(tmp_path: Path, stage: str) -> None:
    outcome = serve(tmp_path, post, hooks=hooks(**{stage: discard()}))
    assert outcome.result.startswith("250")
    assert (outcome.mail("alice"), outcome.queue) == ([], [])
    assert len(outcome.events("discard")) == 1


@pytest.mark.parametrize("stage", ["on_mail", "on_rcpt", "on_data"])
@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (hold("a human looks"), "a human looks"),
        (quarantine("Eicar"), "quarantine: Eicar"),
        (Edited(add_headers=[("X-Seen", "yes")], hold="tagged"), "tagged"),
    ],
)
def test_held_mail_stays_in_the_queue(tmp_path: Path, stage: str, decision: object, reason: str) -> None:
    outcome = serve(tmp_path, post, hooks=hooks(**{stage: decision}))
    assert outcome.result.startswith("250")
    assert outcome.mail("alice") == []
    [message] = outcome.queue
    [recipient] = message.recipients
    assert (recipient.address, recipient.reason) == ("alice@example.test", reason)


def test_on_data_edits_everything(tmp_path: Path) -> None:
    edited = Edited(
        sender="list@example.test",
        recipients=["bob@example.test"],
        add_headers=[("X-Scanned", "clean"), ("X-By", "test")],
        content=b"Subject: new\n\nOther words.\n",
    )
    outcome = serve(tmp_path, post, hooks=hooks(on_data=edited))
    assert outcome.mail("alice") == []
    [mail] = outcome.mail("bob")
    assert mail.startswith(b"Return-Path: <list@example.test>\n")
    assert b"X-Scanned: clean\nX-By: test\n" in mail
    assert b"Subject: new\n" in mail
    assert mail.endswith(b"\n\nOther words.\n")
    assert b"Hello" not in mail


def test_headers_are_added_at_each_stage_and_the_sender_at_mail(tmp_path: Path) -> None:
    given = hooks(
        on_mail=Edited(sender="", add_headers=[("X-Mail", "1")]),
        on_rcpt=Edited(recipients=["alice@example.test", "bob@example.test"], add_headers=[("X-Rcpt", "2")]),
        on_data=Edited(add_headers=[("X-Data", "3")]),
    )
    outcome = serve(tmp_path, lambda port: post(port, "alice@example.test"), hooks=given)
    for user in ("alice", "bob"):
        [mail] = outcome.mail(user)
        assert mail.startswith(b"Return-Path: <>\n")
        assert b"X-Mail: 1\nX-Rcpt: 2\nX-Data: 3\n" in mail


def test_edited_recipients_are_routed_and_refused_as_the_clients_are(tmp_path: Path) -> None:
    for stage in ("on_rcpt", "on_data"):
        outcome = serve(tmp_path / stage, post, hooks=hooks(**{stage: Edited(recipients=["nobody@example.test"])}))
        assert outcome.result.startswith("550 5.1.1")
        assert outcome.queue == []


def test_a_program_may_send_on_what_a_stranger_may_not(tmp_path: Path) -> None:
    more = {"relay": {"networks": ["192.0.2.0/24"], "host": "[127.0.0.1]:1"}}
    outcome = serve(tmp_path, post, more=more, hooks=hooks(on_data=Edited(recipients=["else@remote.test"])))
    assert outcome.result.startswith("250")
    assert [r.address for m in outcome.queue for r in m.recipients] == ["else@remote.test"]


@pytest.mark.parametrize(
    ("given", "replies"),
    [
        (hooks(on_rcpt=Edited(recipients=["alice@example.test", "bob@example.test"])), ["250", "250"]),
        (hooks(on_data=Edited(recipients=["bob@example.test"])), ["250", "250"]),
        (hooks(on_data=Edited(recipients=["nobody@example.test"])), ["550", "550"]),
        (hooks(on_data=reject()), ["550", "550"]),
        (hooks(on_data=discard()), ["250", "250"]),
    ],
)
def test_lmtp_has_a_reply_for_each_recipient_of_the_client(tmp_path: Path, given: Hooks, replies: list[str]) -> None:
    def talk(port: int) -> list[str]:
        with Client(port) as client:
            for line in ("LHLO c.test", "MAIL FROM:<>", "RCPT TO:<alice@example.test>", "RCPT TO:<bob@example.test>"):
                assert client.say(line).startswith("250")
            client.say("DATA")
            client.send(b"x\r\n.\r\nNOOP\r\n")
            return [client.reply() for _ in range(3)]

    more = {"listener": [{"bind": "127.0.0.1:0", "protocol": "lmtp"}]}
    *answers, noop = serve(tmp_path, talk, hooks=given, more=more).result
    assert [answer[:3] for answer in answers] == replies
    assert noop == "250 2.0.0 Ok"


def test_stand_ins_count_as_recipients(tmp_path: Path) -> None:
    many = [f"{n}@remote.test" for n in range(60)]

    def talk(port: int) -> list[str]:
        with Client(port) as client:
            lines = ["EHLO c.test", "MAIL FROM:<>", "RCPT TO:<alice@example.test>", "RCPT TO:<bob@example.test>"]
            return [client.say(line) for line in lines]

    outcome = serve(tmp_path, talk, hooks=hooks(on_rcpt=Edited(recipients=many)), more={"limits": {"recipients": 100}})
    assert [answer[:9] for answer in outcome.result[2:]] == ["250 2.1.5", "452 4.5.3"]


async def _hang(*_: object) -> None:
    await asyncio.Event().wait()


def _raise(*_: object) -> None:
    raise RuntimeError("the secret word is swordfish")


async def _raise_later(*_: object) -> None:
    await asyncio.sleep(0)
    _raise()


@pytest.mark.parametrize("stage", ["on_connect", "on_mail", "on_rcpt", "on_data"])
@pytest.mark.parametrize(
    "bad",
    [
        _raise,
        _raise_later,
        _hang,
        "250 OK",
        True,
        Edited(sender="no address\r\nRCPT TO:<x@y>"),
        Edited(add_headers=[("X", "a\r\nBcc: x")]),
        Edited(add_headers=[("X Y", "a")]),
        Edited(recipients=[]),
        Edited(recipients="alice@example.test"),
        Edited(recipients=["alice@example.test\r\n"]),
        Edited(content="text"),  # type: ignore[arg-type]
    ],
    ids=lambda bad: getattr(bad, "__name__", str(bad))[:30],
)
def test_a_hook_that_fails_is_a_451_and_only_the_log_knows_why(tmp_path: Path, stage: str, bad: Any) -> None:
    def talk(port: int) -> str:
        with Client(port) as client:
            if client.greeting.startswith("220"):
                client.say("EHLO client.test")
                return client.message(["alice@example.test"], MESSAGE)
            return client.greeting

    outcome = serve(tmp_path, talk, hooks=hooks(**{stage: bad}), more={"hooks": {"time_limit": "200ms"}})
    assert outcome.result == "451 4.3.0 Local error, try again later"
    assert (outcome.mail("alice"), outcome.queue) == ([], [])
    assert f"{stage} failed" in outcome.log


@pytest.mark.parametrize(
    ("stage", "edited"),
    [
        ("on_mail", Edited(recipients=["bob@example.test"])),
        ("on_mail", Edited(content=b"x")),
        ("on_rcpt", Edited(sender="")),
        ("on_rcpt", Edited(content=b"x")),
    ],
)
def test_an_edit_out_of_its_stage_is_a_mistake(tmp_path: Path, stage: str, edited: Edited) -> None:
    outcome = serve(tmp_path, post, hooks=hooks(**{stage: edited}))
    assert outcome.result.startswith("451 4.3.0")
    assert f"{stage} cannot edit" in outcome.log


def test_a_new_content_is_bounded(tmp_path: Path) -> None:
    outcome = serve(
        tmp_path, post, more={"limits": {"message_size": 2000}}, hooks=hooks(on_data=Edited(content=b"x" * 3000))
    )
    assert outcome.result.startswith("451 4.3.0")


def test_on_queued_cannot_refuse(tmp_path: Path) -> None:
    for number, bad in enumerate([_raise, _hang, lambda *_: _later(reject())]):
        outcome = serve(
            tmp_path / str(number), post, hooks=hooks(on_queued=bad), more={"hooks": {"time_limit": "200ms"}}
        )
        assert outcome.result.startswith("250 2.0.0")
        assert len(outcome.mail("alice")) == 1


def test_without_on_data_content_is_not_collected(tmp_path: Path) -> None:
    """A message larger than the memory for hooks passes when no hook reads it, and is refused when one does and memory is taken."""
    more = {"hooks": {"content_memory": 1024}, "limits": {"message_size": 10_000}}
    big = b"Subject: x\r\n\r\n" + b"y" * 76 + b"\r\n"
    big += (b"z" * 76 + b"\r\n") * 80

    def talk(port: int) -> list[str]:
        with Client(port) as first, Client(port) as second:
            for client in (first, second):
                client.say("EHLO client.test")
                client.say("MAIL FROM:<joe@client.test>")
                client.say("RCPT TO:<alice@example.test>")
                assert client.say("DATA").startswith("354")
            first.send(big)
            answers = []
            while not answers or answers[-1].startswith("354"):  # until the first one's bytes have been counted
                second.send(big + b".\r\n")
                answers.append(second.reply())
            answers.append(first.say("."))
            second.say("MAIL FROM:<joe@client.test>")
            second.say("RCPT TO:<alice@example.test>")
            second.say("DATA")
            return [*answers, second.say(big + b".")]

    outcome = serve(tmp_path / "streamed", talk, more=more, hooks=hooks(on_mail=None))
    assert [answer[:3] for answer in outcome.result] == ["250", "250", "250"]
    outcome = serve(tmp_path / "collected", talk, more=more, hooks=hooks(on_data=None))
    assert sorted(answer[:9] for answer in outcome.result[:2]) == ["250 2.0.0", "452 4.3.1"]
    assert outcome.result[2].startswith("250")
    assert len(outcome.mail("alice")) == 2


def test_hooks_share_their_places(tmp_path: Path) -> None:
    running = most = 0

    async def on_mail(_envelope):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20):
            await asyncio.sleep(0)
        running -= 1

    async def main() -> None:
        given = settings(tmp_path, hooks={"concurrency": 2})
        async with Mailflow(given, hooks=hooks(on_mail=on_mail)) as mta:
            port = int(mta.addresses[0].rpartition(":")[2])
            await asyncio.gather(*(asyncio.to_thread(post, port) for _ in range(6)))

    asyncio.run(main())
    assert most == 2


def test_a_client_that_is_cut_off_ends_its_hook(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def on_mail(_envelope):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    async def main() -> None:
        async with Mailflow(settings(tmp_path), hooks=hooks(on_mail=on_mail)) as mta:
            port = int(mta.addresses[0].rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.readline()
            writer.write(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\n")
            await reader.readuntil(b"250 ")
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            async with asyncio.timeout(10):
                await ended.wait()

    asyncio.run(main())


class Misspelt:
    def on_recipient(self):
        pass


@pytest.mark.parametrize("wrong", [Misspelt(), object(), Hooks()])
def test_hooks_that_are_none_are_an_error(tmp_path: Path, wrong: object) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="hook"):
            await Mailflow(settings(tmp_path), hooks=wrong).start()

    asyncio.run(main())


@pytest.mark.parametrize(
    "make",
    [
        lambda: reject("two\r\nlines"),
        lambda: reject(""),
        lambda: reject("x", code=250),
        lambda: reject("x", status="4.1.1"),
        lambda: defer("x", code=550),
        lambda: defer("x" * 1000),
        lambda: hold("a\nb"),
    ],
)
def test_a_decision_is_checked_where_it_is_made(make: Any) -> None:
    with pytest.raises(ValueError, match=r"is no"):
        make()


@pytest.mark.parametrize("stage", ["on_mail", "on_data", "on_queued"])
def test_a_server_that_stops_breaks_off_its_hooks(tmp_path: Path, stage: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    async def main() -> None:
        given = settings(tmp_path, shutdown_grace="100ms")
        async with asyncio.timeout(20), Mailflow(given, hooks=hooks(**{stage: hang})) as mta:
            port = int(mta.addresses[0].rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n")
            if stage != "on_mail":
                await reader.readuntil(b"354 ")
                writer.write(b"x\r\n.\r\n")
            await begun.wait()
        assert ended.is_set()
        writer.close()

    asyncio.run(main())


def test_nothing_is_loaded_without_hooks() -> None:
    code = "import sys, mailflow.api; print(sorted(m for m in sys.modules if m.startswith(('aiosmtpd', 'mailflow.hooks'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.strip() == str(["mailflow.hooks", "mailflow.hooks.program", "mailflow.hooks.settings"])


def test_a_handler_without_aiosmtpd_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiosmtpd", None)
    with pytest.raises(ConfigError, match=r"install .mailflow\[aiosmtpd\]"):
        serve(tmp_path, print, handler=object())
