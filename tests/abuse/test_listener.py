"""Abuse control in a real listener: refusals and drops, delays, slow clients, stress with few sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mailflow.ingress.abuse.guard import GreetDelay
from mailflow.net.tls_settings import TlsSettings
from tests.abuse.fakes import Pauses, abused
from tests.ingress.fakes import Client, FakeIntake, FakeLog
from tests.ingress.tls import Authority, TlsClient

CHUNK = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<alice@example.test>\r\nBDAT 5000\r\n"
Test = Callable[[], Awaitable[None]]
ENVELOPE = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"


async def first_reply(listener: Any) -> str:
    async with await Client.connect(listener) as client:
        return await client.reply()


@pytest.mark.wish(75)
@pytest.mark.parametrize(
    ("excess", "hears"),
    [
        ("", "421 4.7.1 Too many connections, try again later"),
        (" refuse", "554 5.7.1 Too many connections"),
        (" close", "421 4.7.1 Too many connections, try again later"),
        (" drop", ""),
    ],
)
def test_too_many_connections(run: Callable[[Test], None], excess: str, hears: str) -> None:
    async def test() -> None:
        log = FakeLog()
        async with abused(log, client={"connections": f"2/1h{excess}"}) as (listener, _):
            answers = [await first_reply(listener) for _ in range(4)]
            assert answers == ["220 mx.test ESMTP mailflow"] * 2 + [hears] * 2
        assert [level for name, level in log.levels if name == "disconnect"] == [20, 20, 20, 10]
        (first, second) = log.named("reject")
        assert first["rule"] == second["rule"] == f"abuse.client.connections = 2/1h{excess}"

    run(test)


@pytest.mark.wish(75)
@pytest.mark.parametrize(
    ("what", "excess", "hears"),
    [
        ("messages", "", ["250", "450 4.7.1", "450 4.7.1", "250 2.0.0"]),
        ("messages", " refuse", ["250", "550 5.7.1", "550 5.7.1", "250 2.0.0"]),
        ("messages", " close", ["250", "421 4.7.1", ""]),
        ("messages", " drop", ["250", ""]),
    ],
)
def test_too_many_messages(run: Callable[[Test], None], what: str, excess: str, hears: list[str]) -> None:
    async def test() -> None:
        async with abused(client={what: f"1/1h{excess}"}) as (listener, _), await Client.connect(listener) as client:
            await client.greet()
            commands = [b"MAIL FROM:<a@client.test>", b"RSET\r\nMAIL FROM:<a@client.test>", b"MAIL FROM:<>", b"NOOP"]
            got = []
            for command in commands[: len(hears)]:
                answer = await client.say(command)
                if command.startswith(b"RSET") and answer:
                    answer = await client.reply()
                got.append(answer)
            assert all(a.startswith(h) if h else a == "" for a, h in zip(got, hears, strict=True)), got

    run(test)


def test_too_many_recipients(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with (
            abused(client={"recipients": "2/1h"}) as (listener, _),
            await Client.connect(listener) as client,
        ):
            await (await client.greet()).say(b"MAIL FROM:<a@client.test>")
            answers = [await client.say(b"RCPT TO:<alice@example.test>") for _ in range(3)]
            assert [answer[:3] for answer in answers] == ["250", "250", "450"]
            assert (await client.say(b"DATA")).startswith("354")

    run(test)


@pytest.mark.wish(28)
def test_who_talks_before_a_delayed_greeting_is_noticed(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        log, pauses = FakeLog(), Pauses()
        async with abused(log, greet_delay="9s", early_talk="close") as (listener, parts):
            for guard in parts.guards:
                if isinstance(guard, GreetDelay):
                    guard._pause = pauses
            early, patient = await Client.connect(listener), await Client.connect(listener)
            async with early, patient:
                early.send(b"EHLO client.test\r\n")
                assert await early.reply() == "421 4.7.0 Protocol error: you do not wait for our replies"
                assert await early.reply() == ""
                pauses.over.set()
                assert await patient.reply() == "220 mx.test ESMTP mailflow"
        (event,) = log.named("offence")
        assert event["reason"] == "talks before the greeting"
        assert event["data"] == "EHLO"
        assert len(pauses.asked) == 2

    run(test)


def test_a_slowed_client_is_not_read_for_a_while_and_not_late(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        settings = {"pipelining": "slow", "tolerated_offences": 1, "delay": "50ms"}
        async with abused(**settings) as (listener, _), await Client.connect(listener) as client:
            await client.reply()
            client.send(b"HELO client.test\r\nNOOP\r\n")
            assert await client.reply() == "250 mx.test"
            assert await client.reply() == "250 2.0.0 Ok"
            (connection,) = listener.halls[0].connections
            assert connection.patient
            assert connection.unfinished is None
            assert await client.say(b"NOOP") == "250 2.0.0 Ok"
            assert not connection.patient

    run(test)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"EHLO cli", "a command line takes too long"),
        (b"EHLO client.test\r\n" + ENVELOPE + b"Subject: x\r\n", "a message comes too slowly"),
        (b"EHLO client.test\r\n" + ENVELOPE + b"x" * 70_000, "a message comes too slowly"),  # refused already
        (b"EHLO client.test\r\n" + CHUNK + b"Subject: x\r\n", "a message comes too slowly"),
        (b"EHLO client.test\r\nBDAT 5000\r\nSubject: x\r\n", "a message comes too slowly"),
    ],
)
def test_who_drips_is_told_and_closed(run: Callable[[Test], None], sent: bytes, why: str) -> None:
    async def test() -> None:
        log, intake = FakeLog(), FakeIntake()
        async with (
            abused(log, intake=intake, command_timeout="1m", data_window="1m", pipelining="ignore") as (listener, _),
            await Client.connect(listener) as client,
        ):
            answer = asyncio.ensure_future(client.reader.read())
            client.send(sent)
            timer = listener._timers[0]
            (connection,) = [c for hall in listener.halls for c in hall.connections]
            while connection.unfinished is None:
                await asyncio.sleep(0)
            for _ in range(200):
                connection.quiet = 0  # a byte has come
                timer.sweep()
                if connection.closing:
                    break
            assert 60 <= timer._sweeps <= 90
            assert (await answer).endswith(b"421 4.4.2 Timed out\r\n")
        assert [event["reason"] for event in log.named("offence")] == [why]
        assert intake.accepted == []

    run(test)


@pytest.mark.wish(75)
def test_too_many_tls_handshakes(run: Callable[[Test], None], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = TlsSettings(certificate=[authority.issue("mx.test")])

    async def test() -> None:
        async with abused(tls=tls, client={"tls_handshakes": "2/1h drop"}) as (listener, _):
            async with await TlsClient.connect(listener) as late:
                await late.greet()
                for _ in range(2):
                    async with await TlsClient.connect(listener) as client:
                        await client.greet()
                        assert (await client.say(b"STARTTLS"))[:3] == "220"
                        await client.start_tls(authority.client())
                        assert (await client.say(b"EHLO client.test"))[:3] == "250"
                assert (await late.say(b"STARTTLS"))[:3] == "454"
            assert await first_reply(listener) == ""

    run(test)


@pytest.mark.wish(75)
def test_under_stress_strangers_go_first(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        log = FakeLog()
        limits = {"sessions": 10, "errors": 20}
        async with abused(log, limits, stress_reserve=20, stress=50, stress_idle_timeout="10s") as (listener, parts):
            stress = parts.conduct.stress
            clients = [await Client.connect(listener) for _ in range(4)]
            for client in clients:
                await client.greet()
            assert not listener.stress
            clients.append(await Client.connect(listener))
            await clients[4].reply()
            assert listener.stress
            # fewer errors
            assert (await clients[0].say(b"NONSENSE"))[:3] == "500"
            assert (await clients[0].say(b"NONSENSE"))[:3] == "421"
            while listener.stress:
                await asyncio.sleep(0)
            # the last sessions are reserved
            while listener.sessions < 8:
                clients.append(await Client.connect(listener))
                assert (await clients[-1].reply())[:3] == "220"
            assert (await first_reply(listener))[:3] == "421"
            stress.learn("127.0.0.1")
            clients += [await Client.connect(listener) for _ in range(2)]
            assert [(await client.reply())[:3] for client in clients[-2:]] == ["220", "220"]
            assert (await first_reply(listener))[:3] == "421"
            # known clients keep their time, others do not
            timer = listener._timers[0]
            for _ in range(20):
                timer.sweep()
            assert listener.sessions == 10
            parts.conduct.stress._known._young.clear()
            timer.sweep()
            while listener.sessions:
                await asyncio.sleep(0)
            assert not listener.stress
            for client in clients:
                client.writer.close()
        assert [event["state"] for event in log.named("stress")] == ["begins", "ends"] * 2

    run(test)


@pytest.mark.wish(75)
def test_a_client_is_known_when_its_mail_was_accepted(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with abused() as (listener, parts):
            stress = parts.conduct.stress
            assert (await first_reply(listener))[:3] == "220"
            assert not stress.knows("127.0.0.1")
            async with await Client.connect(listener) as client:
                await client.greet()
                client.send(ENVELOPE)
                for _ in range(3):
                    await client.reply()
                assert (await client.say(b"x\r\n.")).startswith("250")
                await client.say(b"QUIT")
            while listener.sessions:
                await asyncio.sleep(0)
            assert stress.knows("127.0.0.1")

    run(test)


def test_sessions_of_a_network_are_limited_and_their_refusals_logged_once(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        log = FakeLog()
        async with abused(log, {"sessions_per_network": 2}) as (listener, _):
            clients = [await Client.connect(listener) for _ in range(5)]
            assert [(await client.reply())[:3] for client in clients] == ["220", "220", "421", "421", "421"]
            for client in clients:
                client.writer.close()
        assert len(log.named("reject")) == 3
        assert [level for name, level in log.levels if name == "reject"] == [20, 10, 10]

    run(test)
