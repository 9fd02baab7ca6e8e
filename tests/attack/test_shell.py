"""Real connections: guards that wait or fail in every way, at every stage, while the client goes on, leaves, or the server ends.

Each time: whatever is counted is given back, no task is left, and nothing was left unheard.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable
from typing import Any, Self

import pytest

from mailflow.ingress.asking import Panel
from mailflow.ingress.listener import Listener
from mailflow.ingress.settings import LimitsSettings, ListenerSettings
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Verdict
from mailflow.smtp.reply import reply
from tests.ingress.fakes import RELAY, Client, FakeIntake, FakeLog, resolver

FLIGHT = b"EHLO me.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"
BODY = b"Subject: x\r\n\r\nx\r\n.\r\n"


class Stuck:
    """Waits for `go` at one stage, or fails there."""

    def __init__(self, stage: Stage, what: str) -> None:
        self.stages, self.what = {stage}, what
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    def at(self, _stage: Stage) -> Callable[[Any], Any]:
        return self.ask

    def ask(self, _situation: Any) -> Any:
        self.asked.set()
        match self.what:
            case "raises":
                raise ZeroDivisionError("secret")
            case "raises a reply of its own":
                raise KeyError(reply(250, "2.0.0", "secret"))
            case "drops":
                return Verdict(Action.DROP, reply(421, "4.7.0", "No"))
            case "closes":
                return Verdict(Action.CLOSE, reply(554, "5.7.0", "No"))
        return self.wait()

    async def wait(self) -> None:
        match self.what:
            case "raises later":
                await asyncio.sleep(0)
                raise ZeroDivisionError("secret")
            case "is cancelled":
                raise asyncio.CancelledError
            case "does not heed":
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    return
            case _:
                await self.go.wait()


AT_ONCE = ["raises", "raises a reply of its own", "drops", "closes", "raises later", "is cancelled"]
STUCK = ["waits", "does not heed"]


class Rig:
    """A listener whose loop keeps what goes wrong unseen."""

    def __init__(self, guard: Stuck, *, answers: bool = True, seconds: float = 30.0) -> None:
        self.unheard: list[dict[str, Any]] = []
        self.intake, self.log, self.guard = FakeIntake(answers=answers), FakeLog(), guard
        self.listener = Listener(
            [ListenerSettings(bind="127.0.0.1:0")],
            LimitsSettings(),
            hostname="mx.test",
            networks=RELAY.networks,
            recipients=resolver(),
            intake=self.intake,
            log=self.log,
            panel=lambda _: Panel([guard], (), seconds),
        )

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.unheard.append(context))
        await self.listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(10):
            await self.listener.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others)
        gc.collect()
        assert self.unheard == []
        assert self.listener.sessions == self.listener.handshakes == 0
        counts = self.listener.halls[0].counts
        assert (counts.total, counts._by_client) == (0, {})
        for each in self.intake.begun:
            assert each.ended

    async def empty(self) -> None:
        async with asyncio.timeout(10):
            while self.listener.sessions:  # the transport tells the connection in one of the next turns
                await asyncio.sleep(0.001)


def in_loop(test):
    def run(**arguments):
        async def bounded():
            async with asyncio.timeout(30):
                await test(**arguments)

        asyncio.run(bounded())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def each(stages, *whats):
    return [
        pytest.param(*both, id="-".join(str(getattr(x, "value", x)) for x in both))
        for both in itertools.product(stages, *whats)
    ]


async def everything(client: Client) -> bytes:
    """Says a whole transaction and hears it to its end."""
    client.send(FLIGHT + BODY + b"QUIT\r\n")
    heard = b""
    while data := await client.reader.read(65536):
        heard += data
    return heard


def cases(argument: str):
    return pytest.mark.parametrize(("stage", "what"), each(Stage, argument))


@cases(AT_ONCE)  # type: ignore[arg-type]
def test_whatever_a_guard_does_is_answered(stage, what):
    async def test():
        async with Rig(Stuck(stage, what)) as rig, await Client.connect(rig.listener) as client:
            try:
                heard = await everything(client)
            except ConnectionResetError:
                assert what == "drops" or stage is Stage.CONNECT  # it has talked before it was greeted
                heard = b""
            assert b"secret" not in heard
            if what in ("closes", "drops"):
                assert (b"554 5.7.0 No" in heard) == (what == "closes")
            else:
                assert b"451 4.3.0" in heard or stage is Stage.CONNECT, heard
                assert any("secret" in str(fields) or "Cancelled" in str(fields) for fields in rig.log.named("warning"))
            await rig.empty()
            assert not rig.intake.accepted

    in_loop(test)()


@pytest.mark.parametrize(
    ("stage", "what", "then"), each(Stage, STUCK, ["close", "half-close", "abort", "drain", "close the server", "more"])
)
def test_a_client_or_server_that_ends_while_a_guard_waits(stage, what, then):
    async def test():
        guard = Stuck(stage, what)
        async with Rig(guard) as rig, await Client.connect(rig.listener) as client:
            client.send(FLIGHT + BODY)
            await guard.asked.wait()
            if stage in (Stage.CONNECT, Stage.HELO) and then in ("close", "abort"):
                guard.go.set()  # who closes may still be listening, until an answer cannot be delivered
            match then:
                case "close":
                    client.writer.close()
                    await client.writer.wait_closed()
                    # Nothing is read while much waits; what is there to be read tells of the end.
                    await rig.empty()
                case "abort":
                    client.writer.transport.abort()
                    await rig.empty()
                case "half-close":
                    client.writer.write_eof()
                    guard.go.set()
                    heard = await client.reader.read()
                    assert b"250 2.0.0 Ok: queued" in heard, heard
                    await rig.empty()
                case "drain":
                    draining = asyncio.create_task(rig.listener.drain(5.0))
                    await asyncio.sleep(0)
                    guard.go.set()
                    assert await draining
                    heard = await client.reader.read()
                    assert heard.endswith(b"421 4.3.2 Shutting down\r\n"), heard
                case "close the server":
                    await rig.listener.close()
                case "more":
                    client.send(
                        b"RSET\r\nSTARTTLS\r\nAUTH PLAIN AA==\r\nXCLIENT ADDR=10.0.0.1\r\nBDAT 3 LAST\r\nabcETRN x\r\n"
                        * 200
                    )
                    guard.go.set()
                    client.send(b"QUIT\r\n")
                    heard = await client.reader.read()
                    assert b"250 2.0.0 Ok: queued" in heard or stage is Stage.END, heard

    in_loop(test)()


@pytest.mark.parametrize("then", ["close", "drain", "close the server"])
def test_an_end_while_the_disk_writes(then):
    async def test():
        async with Rig(Stuck(Stage.HELO, "waits"), answers=False) as rig:
            rig.guard.go.set()
            async with await Client.connect(rig.listener) as client:
                client.send(FLIGHT + BODY)
                await rig.intake.until(lambda: rig.intake.waiting)
                match then:
                    case "close":
                        client.writer.close()
                        await rig.empty()
                        rig.intake.answer()
                    case "drain":
                        draining = asyncio.create_task(rig.listener.drain(5.0))
                        await asyncio.sleep(0)
                        rig.intake.answer()
                        assert await draining
                        assert b"250 2.0.0 Ok: queued" in await client.reader.read()
                    case "close the server":
                        await rig.listener.close()
                        rig.intake.answer()

    in_loop(test)()


def test_a_session_that_cannot_be_made_ends_its_connection():
    async def test():
        async with Rig(Stuck(Stage.HELO, "waits")) as rig:
            hall = rig.listener.halls[0]

            def broken(*_: object) -> Any:
                raise ZeroDivisionError("secret")

            hall.desk.panel.session = broken
            async with await Client.connect(rig.listener) as client:
                heard = await client.reader.read()
                assert b"secret" not in heard
                await rig.empty()
            assert any("secret" in str(fields) for fields in rig.log.named("warning"))

    in_loop(test)()


@pytest.mark.parametrize("method", ["closed", "refused", "accepted"])
def test_a_watcher_that_raises_costs_its_own_session_only(method):
    """Watchers must not; but if one does, the session is given back all the same."""

    async def test():
        class Broken:
            def closed(self, *_): ...
            def refused(self, *_): ...
            def accepted(self, *_): ...

        def boom(*_):
            raise ZeroDivisionError("secret")

        broken = Broken()
        setattr(broken, method, boom)
        async with Rig(Stuck(Stage.HELO, "waits")) as rig:
            rig.guard.go.set()
            rig.listener.halls[0].desk.panel.watchers = (broken,)
            async with await Client.connect(rig.listener) as client:
                client.send(b"RCPT TO:<x>\r\n")
                heard = await everything(client)
                assert b"secret" not in heard
                await rig.empty()
            if method == "closed":
                assert len(rig.unheard) == 1
                rig.unheard.clear()

    in_loop(test)()
