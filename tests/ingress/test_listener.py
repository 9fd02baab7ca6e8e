"""The listener over loopback: stalls in every state, half-closed and vanishing clients, floods, shutdown."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mailflow.envelope import InboundEnvelope
from mailflow.errors import ConfigError
from mailflow.ingress.listener import Listener
from mailflow.smtp.reply import Reply, reply
from tests.ingress.fakes import Client, FakeIncoming, FakeIntake, FakeLog, listening

ENVELOPE = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"
STALLS = {
    "connected": b"",
    "half a command": b"EHLO cli",
    "greeted": b"EHLO client.test\r\n",
    "mail": b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n",
    "rcpt": b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<alice@example.test>\r\n",
    "data": b"EHLO client.test\r\n" + ENVELOPE,
    "half a message": b"EHLO client.test\r\n" + ENVELOPE + b"Subject: x\r\n\r\nabc",
    "half a dot": b"EHLO client.test\r\n" + ENVELOPE + b"x\r\n.\r",
}

Test = Callable[[], Awaitable[None]]


async def rest(client: Client) -> bytes:
    try:
        return await client.reader.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize("state", STALLS)
def test_a_client_that_stalls_is_told_and_closed(run: Callable[[Test], None], state: str) -> None:
    async def test() -> None:
        intake = FakeIntake()
        async with listening(intake, idle_timeout=0.2) as listener, await Client.connect(listener) as client:
            client.send(STALLS[state])
            assert (await rest(client)).endswith(b"421 4.4.2 Timed out\r\n")
        assert len(intake.aborted) == len(intake.begun)
        assert intake.accepted == []

    run(test)


def test_a_client_that_drips_runs_into_the_total_limit(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening(FakeIntake(), session_timeout=0.4) as listener, await Client.connect(listener) as client:
            answer = asyncio.create_task(rest(client))
            while not answer.done():
                client.send(b"N")
                await asyncio.wait([answer], timeout=0.02)
            assert (await answer).endswith(b"421 4.4.2 Timed out\r\n")

    run(test)


def test_waiting_for_us_is_no_stall(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        intake = FakeIntake(answers=False)
        async with listening(intake, idle_timeout=0.08) as listener, await Client.connect(listener) as client:
            client.send(b"EHLO client.test\r\n" + ENVELOPE + b"x\r\n.\r\n")
            await intake.until(lambda: intake.waiting)
            connection = next(iter(listener.halls[0].connections))
            for _ in range(20):
                listener._timers[0].sweep()
            assert not connection.closing
            intake.answer()
            assert b"250 2.0.0 Ok: queued as 1js8he3dc00\r\n" in await rest(client)

    run(test)


def test_a_client_that_does_not_read_is_bounded_and_cut_off(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening(FakeIntake(), idle_timeout=0.4, junk_commands=10**9) as listener:
            host, port, _ = listener.addresses[0]
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (host, port))
            sent = 0
            try:
                while True:
                    await loop.sock_sendall(sock, b"EHLO client.test\r\n" * 1000)
                    sent += 18_000
                    assert sent < 100_000_000, "all of it was taken"
                    for connection in listener.halls[0].connections:
                        assert connection._transport is not None
                        assert connection._transport.get_write_buffer_size() < 8_000_000
            except OSError:
                pass
            finally:
                sock.close()
            while listener.sessions:
                await asyncio.sleep(0.01)

    run(test)


def test_a_half_closed_client_hears_its_last_answer(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        intake = FakeIntake(answers=False)
        async with listening(intake) as listener, await Client.connect(listener) as client:
            client.send(b"EHLO client.test\r\n" + ENVELOPE + b"x\r\n.\r\nNOOP\r\n")
            client.writer.write_eof()
            await intake.until(lambda: intake.waiting)
            intake.answer()
            assert (await rest(client)).endswith(b"250 2.0.0 Ok: queued as 1js8he3dc00\r\n250 2.0.0 Ok\r\n")

    run(test)


@pytest.mark.parametrize("state", STALLS)
def test_a_half_closed_client_is_closed_at_once(run: Callable[[Test], None], state: str) -> None:
    async def test() -> None:
        intake = FakeIntake()
        async with listening(intake) as listener, await Client.connect(listener) as client:
            client.send(STALLS[state])
            client.writer.write_eof()
            assert (await rest(client)).startswith(b"220 ")
        assert len(intake.aborted) == len(intake.begun)
        assert intake.accepted == []

    run(test)


def test_a_client_that_vanishes_leaves_nothing_behind(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        intake, log = FakeIntake(answers=False), FakeLog()
        async with listening(intake, log) as listener:
            one, two = await Client.connect(listener), await Client.connect(listener)
            one.send(b"EHLO client.test\r\n" + ENVELOPE + b"x")
            two.send(b"EHLO client.test\r\n" + ENVELOPE + b"x\r\n.\r\n")
            await intake.until(lambda: intake.waiting and len(intake.begun) == 2)
            one.vanish()
            two.vanish()
            await intake.until(lambda: intake.aborted)
            while listener.sessions:
                await asyncio.sleep(0)
            intake.answer()  # nobody hears it
        assert len(log.named("disconnect")) == 2
        assert log.named("warning") == []
        assert len(intake.aborted) == 1

    run(test)


@pytest.mark.parametrize("end", ["closes its side", "is gone"])
def test_a_message_that_came_in_the_turn_of_the_end_is_taken(run: Callable[[Test], None], end: str) -> None:
    """What was read is dealt with when the loop comes round, but before the end that came with it."""

    async def test() -> None:
        intake = FakeIntake()
        async with listening(intake) as listener, await Client.connect(listener) as client:
            await client.greet()
            (connection,) = listener.halls[0].connections
            client.send(ENVELOPE)
            assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
            connection.data_received(b"x\r\n.\r\n")
            assert not intake.accepted
            if end == "is gone":
                connection.connection_lost(None)
            else:
                connection.eof_received()
            assert len(intake.accepted) == 1
            client.vanish()

    run(test)


def test_a_second_read_in_a_turn_is_dealt_with_at_once_and_in_order(run: Callable[[Test], None]) -> None:
    """So no more than one read of each connection waits in memory."""

    async def test() -> None:
        intake = FakeIntake()
        async with listening(intake) as listener, await Client.connect(listener) as client:
            await client.greet()
            (connection,) = listener.halls[0].connections
            for piece in (ENVELOPE[:20], ENVELOPE[20:], b"a\r\n", b"b\r\n", b".\r\n"):
                connection.data_received(piece)
            connection.data_received(b"")
            assert [one.content for one in intake.accepted] == [b"a\r\nb\r\n"]

    run(test)


def test_input_behind_a_pending_answer_is_bounded(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        intake = FakeIntake(answers=False)
        async with listening(intake, junk_commands=10**9) as listener, await Client.connect(listener) as client:
            client.send(b"EHLO client.test\r\n" + ENVELOPE + b"x\r\n.\r\n")
            await intake.until(lambda: intake.waiting)
            (connection,) = listener.halls[0].connections
            core = connection._core
            assert core is not None
            flood = b"NOOP\r\n" * 100_000
            client.send(flood)
            while not connection._held:
                await asyncio.sleep(0)
            assert 4096 < len(core.input) <= 4096 + 2**20
            intake.answer()
            client.send(b"QUIT\r\n")
            answers = await rest(client)
            assert answers.count(b"250 2.0.0 Ok\r\n") == 100_000
            assert answers.endswith(b"221 2.0.0 Bye\r\n")

    run(test)


def test_a_full_intake_stops_reading_until_it_drains(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        intake = FakeIntake(full_at=1000)
        async with listening(intake) as listener, await Client.connect(listener) as client:
            client.send(b"EHLO client.test\r\n" + ENVELOPE)
            await intake.until(lambda: True)
            client.send(b"y" * 98 + b"\r\n")
            body = (b"x" * 98 + b"\r\n") * 200_000
            client.send(body)
            while not listener.halls[0].connections or not next(iter(listener.halls[0].connections))._held:
                await asyncio.sleep(0)
            incoming = intake.begun[0]
            assert len(incoming.content) < 3_000_000
            client.send(b".\r\n")
            intake.full_at = 10**9
            assert incoming.on_drain is not None
            incoming.on_drain()
            await intake.until(lambda: intake.accepted)
            assert len(incoming.content) == len(body) + 100

    run(test)


def test_sessions_are_limited_in_all_and_per_client(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        log = FakeLog()
        async with listening(FakeIntake(), log, trusted=False, sessions_per_client=2) as listener:
            clients = [await Client.connect(listener) for _ in range(3)]
            answers = [await client.reply() for client in clients]
            assert [a[:3] for a in answers] == ["220", "220", "421"]
            assert answers[2] == "421 4.7.0 Too many sessions, try again later"
            assert await clients[2].reply() == ""
            assert await clients[0].say(b"QUIT") == "221 2.0.0 Bye"
            assert await clients[0].reply() == ""
            while listener.sessions > 1:
                await asyncio.sleep(0)
            async with await Client.connect(listener) as again:
                assert (await again.reply()).startswith("220 ")
            for client in clients:
                client.writer.close()
        assert [e["reason"] for e in log.named("reject")] == ["421 4.7.0 Too many sessions, try again later"]

    run(test)


def test_clients_in_our_networks_are_exempt_from_the_limit_of_one_client(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening(FakeIntake(), sessions_per_client=2, sessions=4) as listener:
            clients = [await Client.connect(listener) for _ in range(5)]
            assert [(await client.reply())[:3] for client in clients] == ["220"] * 4 + ["421"]
            for client in clients:
                client.writer.close()

    run(test)


class BrokenIntake(FakeIntake):
    def begin(self, envelope: InboundEnvelope) -> FakeIncoming | Reply:
        raise RuntimeError("secret detail")


def test_an_exception_ends_one_session_and_is_only_logged(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        log = FakeLog()
        async with (
            listening(BrokenIntake(), log) as listener,
            await Client.connect(listener) as one,
            await Client.connect(listener) as two,
        ):
            one.send(b"EHLO client.test\r\n" + ENVELOPE)
            answers = await rest(one)
            assert answers.endswith(b"250 2.1.5 Ok\r\n421 4.3.0 Internal error\r\n")
            assert b"secret" not in answers
            assert (await two.reply()).startswith("220")
            assert await two.say(b"NOOP") == "250 2.0.0 Ok"
        assert "secret detail" in str(log.named("warning")[0]["reason"])

    run(test)


def test_draining_lets_a_message_finish_and_closes_the_rest(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        intake = FakeIntake(answers=False)
        async with (
            listening(intake) as listener,
            await Client.connect(listener) as idle,
            await Client.connect(listener) as busy,
        ):
            await (await idle.greet()).say(b"NOOP")
            await (await busy.greet()).say(b"MAIL FROM:<a@client.test>")
            draining = asyncio.create_task(listener.drain(10))
            assert await idle.reply() == "421 4.3.2 Shutting down"
            assert await idle.reply() == ""
            with pytest.raises(OSError):
                await Client.connect(listener)
            await busy.say(b"RCPT TO:<alice@example.test>")
            assert (await busy.say(b"DATA")).startswith("354")
            busy.send(b"x\r\n.\r\n")
            await intake.until(lambda: intake.waiting)
            assert not draining.done()
            intake.answer()
            assert await busy.reply() == "250 2.0.0 Ok: queued as 1js8he3dc00"
            assert await busy.reply() == "421 4.3.2 Shutting down"
            assert await draining
            assert listener.sessions == 0

    run(test)


def test_draining_ends_after_its_grace(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening(FakeIntake()) as listener, await Client.connect(listener) as client:
            await (await client.greet()).say(b"MAIL FROM:<a@client.test>")
            assert not await listener.drain(0.05)
            await listener.close()
            assert listener.sessions == 0
            assert await client.reply() == ""

    run(test)


def test_all_addresses_of_a_name_and_ipv6(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening(FakeIntake(), bind="localhost:0") as listener:
            for address in listener.addresses:
                reader, writer = await asyncio.open_connection(address.host, address.port)
                assert (await reader.readline()).startswith(b"220 mx.test")
                writer.close()

    run(test)


def test_an_address_in_use_is_a_configuration_error(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening(FakeIntake()) as listener:
            taken = str(listener.addresses[0])
            with pytest.raises(ConfigError, match=f"listener\\[0\\].bind: cannot listen on {taken}"):
                async with listening(FakeIntake(), bind=taken):
                    pass

    run(test)


def test_refusals_are_logged_with_their_client(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        log = FakeLog()
        async with listening(FakeIntake(), log, trusted=False) as listener, await Client.connect(listener) as client:
            await (await client.greet()).say(b"MAIL FROM:<a@client.test>")
            await client.say(b"RCPT TO:<x@elsewhere.test>")
            await client.say(b"QUIT")
        assert log.named("reject") == [
            {
                "client": "unknown[127.0.0.1]",
                "helo": "client.test",
                "proto": "ESMTP",
                "from_": "a@client.test",
                "to": "x@elsewhere.test",
                "reason": "554 5.7.1 Relay access denied",
                "rule": "reject_unauth_destination",
            }
        ]

    run(test)


@pytest.mark.wish(5)
def test_unknown_recipients_are_refused_before_data(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening(FakeIntake(), trusted=False) as listener, await Client.connect(listener) as client:
            await (await client.greet()).say(b"MAIL FROM:<>")
            assert await client.say(b"RCPT TO:<nobody@example.test>") == "550 5.1.1 No such user"
            assert await client.say(b"RCPT TO:<x@gone.test>") == "550 5.1.2 Moved away"
            assert await client.say(b"RCPT TO:<x@elsewhere.test>") == "554 5.7.1 Relay access denied"
            assert await client.say(b"RCPT TO:<alice@example.test>") == "250 2.1.5 Ok"

    run(test)


def test_what_the_intake_says_is_what_the_client_hears(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        intake = FakeIntake(answers=False)
        async with listening(intake) as listener, await Client.connect(listener) as client:
            await client.greet()
            client.send(ENVELOPE + b"x\r\n.\r\n")
            assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
            await intake.until(lambda: intake.waiting)
            intake.waiting.pop()(reply(451, "4.3.0", "Local error"))
            assert await client.reply() == "451 4.3.0 Local error"
            assert await client.say(b"NOOP") == "250 2.0.0 Ok"

    run(test)


async def _deliver(listener: Listener, size: int) -> Any:
    async with await Client.connect(listener) as client:
        await client.greet()
        client.send(ENVELOPE)
        for _ in range(3):
            await client.reply()
        client.send((b"x" * 78 + b"\r\n") * (size // 80) + b".\r\n")
        return await client.reply()


def test_many_clients_beside_each_other(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        intake = FakeIntake()
        async with listening(intake) as listener:
            answers = await asyncio.gather(*[_deliver(listener, 800 * (i + 1)) for i in range(100)])
            assert set(answers) == {"250 2.0.0 Ok: queued as 1js8he3dc00"}
        assert sorted(len(m.content) for m in intake.accepted) == [800 * (i + 1) for i in range(100)]

    run(test)


def test_a_crowd_at_the_door_is_not_let_in_one_by_one(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening(FakeIntake()) as listener, AsyncExitStack() as sockets:
            place = listener.addresses[0].host, listener.addresses[0].port
            for _ in range(16):
                sockets.enter_context(socket.create_connection(place))
            turns = 0
            while listener.sessions < 16:
                await asyncio.sleep(0)
                turns += 1
            assert turns <= 8

    run(test)
