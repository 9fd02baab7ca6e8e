"""mailflow inside a program: in asyncio and uvloop, several at once, with receipts."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from mailflow import Mailflow, Settings
from mailflow.errors import SendError
from mailflow.report import Action
from mailflow.server import Server
from mailflow.store.lock import SpoolLock
from tests.support.client import mail
from tests.support.sink import Sink
from tests.support.tools import free_port
from tests.support.waiting import wait_for

RUNNERS: list[Callable[[Coroutine[Any, Any, Any]], Any]] = [asyncio.run, uvloop.run]
runners = pytest.mark.parametrize("run", RUNNERS, ids=["asyncio", "uvloop"])
QUIET = {"to": "none"}


def settings(folder: Path, sink: Sink | None = None, **more: Any) -> Settings:
    values: dict[str, Any] = {
        "hostname": "app.example.test",
        "spool": folder / "spool",
        "local": {"domains": ["example.test"], "users": ["alice"], "maildir": str(folder / "mail" / "{user}")},
        "queue": {"backoff": ["200ms", "400ms"]},
        "log": QUIET,
    }
    if sink:
        values["relay"] = {"host": sink.next_hop}
    return Settings(**{**values, **more})


@runners
def test_send_is_durable_and_the_receipt_tells_the_outcome(tmp_path: Path, sink: Sink, run: Any) -> None:
    async def main() -> None:
        async with Mailflow(settings(tmp_path, sink)) as mta:
            receipt = await mta.send(mail(), sender="app@example.test", recipients=["user@remote.test"])
            report = await receipt.wait(timeout=20)
        assert report.ok
        [outcome] = report.recipients
        assert (outcome.recipient, outcome.action) == ("user@remote.test", Action.RELAYED)
        assert outcome.queue_id == receipt.queue_id

    run(main())
    [arrived] = sink.wait(1)
    assert (arrived.sender, arrived.recipients) == ("app@example.test", ["user@remote.test"])
    assert b"Subject: greetings\r\n" in arrived.data


@runners
def test_bytes_to_a_maildir(tmp_path: Path, run: Any) -> None:
    async def main() -> None:
        async with Mailflow(settings(tmp_path)) as mta:
            receipt = await mta.send(b"Subject: bytes\n\nx\n", sender="", recipients=["alice@example.test"])
            assert (await receipt.wait(timeout=20)).ok

    run(main())
    [file] = (tmp_path / "mail" / "alice" / "new").iterdir()
    assert b"Subject: bytes\n" in file.read_bytes()


@pytest.mark.wish(73)
def test_a_receipt_tells_of_a_refusal(tmp_path: Path) -> None:
    async def main(sink: Sink) -> None:
        async with Mailflow(settings(tmp_path, sink)) as mta:
            receipt = await mta.send(mail(), sender="", recipients=["good@remote.test", "bad@remote.test"])
            report = await receipt.wait(timeout=20)
        assert not report.ok
        [failed] = report.failed
        assert (failed.recipient, failed.status) == ("bad@remote.test", "5.1.1")
        assert failed.reply == "550 5.1.1 Unknown"

    with Sink(answer=lambda v, a: b"550 5.1.1 Unknown\r\n" if v == "RCPT" and "bad" in a else None) as sink:
        asyncio.run(main(sink))


def test_waiting_ends_with_its_time_and_may_begin_again(tmp_path: Path, sink: Sink) -> None:
    sink.answer = lambda verb, argument: b"451 later\r\n" if verb == "MAIL" else None

    async def main() -> None:
        async with Mailflow(settings(tmp_path, sink)) as mta:
            receipt = await mta.send(mail(), sender="", recipients=["user@remote.test"])
            with pytest.raises(TimeoutError):
                await receipt.wait(timeout=0.05)
            sink.answer = lambda verb, argument: None
            assert (await receipt.wait(timeout=20)).ok

    asyncio.run(main())


def test_an_unknown_local_user_is_refused_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mailflow(settings(tmp_path)) as mta:
            with pytest.raises(SendError, match="No such user") as caught:
                await mta.send(mail(), sender="", recipients=["nobody@example.test"])
            assert caught.value.reply[:2] == (550, "5.1.1")

    asyncio.run(main())


@runners
def test_several_servers_live_in_one_loop(tmp_path: Path, run: Any) -> None:
    """Two of them, one handing to the other, each with its own spool."""
    mailbox = tmp_path / "inner" / "mail" / "alice" / "new"

    async def main() -> None:
        inner = settings(tmp_path / "inner", listener=[{"bind": "127.0.0.1:0"}])
        async with Mailflow(inner) as receiving:
            host, _, port = receiving.addresses[0].rpartition(":")
            relay = {"host": f"[{host}]:{port}"}
            outer = settings(tmp_path / "outer", relay=relay, local={}, hostname="outer.example.test")
            async with Mailflow(outer) as sending:
                receipts = [
                    await sending.send(mail(f"number {i}"), sender="", recipients=["alice@example.test"])
                    for i in range(20)
                ]
                for receipt in receipts:
                    assert (await receipt.wait(timeout=20)).ok
            # The last have been accepted by then, and may be on their way into the mailbox.
            await asyncio.to_thread(wait_for, lambda: len(list(mailbox.iterdir())) >= 20, "all of them")

    run(main())
    assert len(list(mailbox.iterdir())) == 20


def test_what_was_sent_before_the_end_is_delivered_after_the_next_start(tmp_path: Path) -> None:
    with Sink() as gone:
        port = gone.port
    relay = {"host": f"[127.0.0.1]:{port}"}

    async def first() -> None:
        async with Mailflow(settings(tmp_path, relay=relay)) as mta:
            await mta.send(mail(), sender="", recipients=["user@remote.test"])

    async def second(back: Sink) -> None:
        async with Mailflow(settings(tmp_path, relay=relay)):
            await asyncio.to_thread(back.wait, 1)

    asyncio.run(first())
    with Sink(port=port) as back:
        asyncio.run(second(back))


def test_no_signal_handler_is_installed(tmp_path: Path) -> None:
    async def main() -> None:
        before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        async with Mailflow(settings(tmp_path)):
            assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before

    asyncio.run(main())


class Taking:
    """An aiosmtpd handler that keeps what it gets."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        del server, session
        self.envelopes.append(envelope)
        return "250 2.0.0 taken"


def test_aiosmtpd_takes_our_mail(tmp_path: Path) -> None:
    handler = Taking()
    port = free_port()
    controller = Controller(handler, hostname="127.0.0.1", port=port, server_hostname="peer.example.test")
    controller.start()
    try:

        async def main() -> None:
            relay = {"host": f"[127.0.0.1]:{port}"}
            async with Mailflow(settings(tmp_path, relay=relay)) as mta:
                receipts = [
                    await mta.send(mail(f"number {i}", text=".dot\n"), sender="", recipients=[f"u{i}@remote.test"])
                    for i in range(10)
                ]
                for receipt in receipts:
                    assert (await receipt.wait(timeout=20)).ok

        asyncio.run(main())
    finally:
        controller.stop()
    assert sorted(e.rcpt_tos[0] for e in handler.envelopes) == [f"u{i}@remote.test" for i in range(10)]
    assert all(b"\r\n.dot\r\n" in (e.content or b"") for e in handler.envelopes)


class Endless:
    """An agent that does not end."""

    async def close(self, _grace: float) -> None:
        await asyncio.Event().wait()

    def __repr__(self) -> str:
        return "<Endless>"


def test_a_part_that_does_not_end_does_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def main() -> None:
        server = Server(settings(tmp_path, shutdown_grace=0, log={"to": str(log)}))
        await server.start()
        agents = server.flow.parts.agents
        await agents["local"].close(0)
        agents["local"] = Endless()  # type: ignore[assignment]
        async with asyncio.timeout(10):
            await server.stop()

    asyncio.run(main())
    assert "stopping does not end: None <Flow " in log.read_text()
    assert "<Endless>" in log.read_text()
    lock = SpoolLock(tmp_path / "spool")
    lock.acquire()  # the queue was closed all the same
    lock.release()
