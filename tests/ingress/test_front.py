"""What stands before a session: balancers' headers, UNIX and inherited sockets; and what each listener has for itself."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mailflow.errors import ConfigError
from mailflow.setting import parse_network
from tests.ingress.fakes import Client, FakeIntake, FakeLog
from tests.ingress.tls import Authority, TlsClient, listening

Test = Callable[[], Awaitable[None]]
BALANCER = {"proxy_networks": [parse_network("127.0.0.1")]}
HEADER = b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24" + bytes.fromhex("20010db8" + "0" * 23 + "9" + "0" * 32 + "9c400019")
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"


async def rest(client: Client) -> bytes:
    try:
        return await client.reader.read()
    except ConnectionError:
        return b""


# PROXY


@pytest.mark.parametrize(("header", "address"), [(HEADER, "192.0.2.9"), (V2, "2001:db8::9"), (LOCAL, "127.0.0.1")])
@pytest.mark.parametrize("way", ["whole", "byte by byte", "with what follows"])
def test_the_client_is_who_the_balancer_says(
    run: Callable[[Test], None], header: bytes, address: str, way: str
) -> None:
    async def test() -> None:
        intake = FakeIntake()
        async with (
            listening({}, intake=intake, ours=False, **BALANCER) as server,
            await TlsClient.connect(server) as client,
        ):
            if way == "byte by byte":
                client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in header:
                    client.send(bytes([byte]))
                    await client.writer.drain()
                    await asyncio.sleep(0)
            elif way == "with what follows":
                client.send(header + b"EHLO client.test\r\n")
            else:
                client.send(header)
            assert (await client.reply()).startswith("220 ")
            if way == "with what follows":
                assert (await client.reply()).startswith("250")
            else:
                await client.say(b"EHLO client.test")
            assert (await client.deliver()).startswith("250")
        peer = intake.accepted[0].envelope.peer
        assert (peer.address, peer.via) == (address, "127.0.0.1")
        assert peer.port == 40000 or header == LOCAL

    run(test)


def test_a_balancer_comes_before_tls(run: Callable[[Test], None], tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority(tmp_path)
        settings = {"certificate": [authority.issue("mx.test")]}
        async with (
            listening(settings, protocol="submissions", **BALANCER) as server,
            await TlsClient.connect(server) as client,
        ):
            client.send(HEADER)
            await client.start_tls(authority.client())
            assert (await client.reply()).startswith("220 ")

    run(test)


def test_a_client_behind_a_balancer_is_trusted_for_its_own_address_only(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening({}, **BALANCER) as server:
            for header, answer in ((HEADER, "554"), (LOCAL, "250")):
                async with await Client.connect(server) as client:
                    client.send(header)
                    await client.greet()
                    await client.say(b"MAIL FROM:<a@client.test>")
                    assert (await client.say(b"RCPT TO:<x@elsewhere.test>"))[:3] == answer

    run(test)


@pytest.mark.parametrize(
    "first", [b"EHLO client.test\r\n", b"PROXY TCP4 192.0.2.9\r\n", V2[:16] + b"\xff", b"PROXY " + b"x" * 107]
)
def test_a_balancer_must_begin_with_a_header(run: Callable[[Test], None], first: bytes) -> None:
    async def test() -> None:
        log = FakeLog()
        async with (
            listening({"handshake_timeout": 0.2}, log, **BALANCER) as server,
            await Client.connect(server) as client,
        ):
            client.send(first)
            assert await rest(client) == b""
            while server.sessions:
                await asyncio.sleep(0)
        (event,) = log.named("reject")
        assert event["client"] == "unknown[127.0.0.1]"
        assert "PROXY" in str(event["reason"])

    run(test)


def test_nobody_else_may_send_a_header(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        others = {"proxy_networks": [parse_network("192.0.2.0/24")]}
        async with listening({}, **others) as server, await Client.connect(server) as client:
            client.send(HEADER)
            assert (await client.reply()).startswith("220 ")
            assert (await client.reply()).startswith("500")
            (connection,) = server.halls[0].connections
            assert connection._session is not None
            assert connection._session.address == "127.0.0.1"

    run(test)


def test_sessions_behind_a_balancer_are_counted_for_their_clients(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with listening({}, limits={"sessions_per_client": 1}, ours=False, **BALANCER) as server:
            clients = [await Client.connect(server) for _ in range(3)]
            for client, header in zip(clients, (HEADER, HEADER, HEADER.replace(b".9", b".8")), strict=True):
                client.send(header)
            assert [(await client.reply())[:3] for client in clients] == ["220", "421", "220"]
            mute = await Client.connect(server)
            for client in (*clients, mute):
                client.writer.close()

    run(test)


# Sockets


async def unix_client(path: Path) -> TlsClient:
    return TlsClient(*await asyncio.open_unix_connection(str(path)))


@pytest.mark.parametrize("trusted", [True, False])
def test_a_unix_socket(run: Callable[[Test], None], tmp_path: Path, trusted: bool) -> None:
    async def test() -> None:
        path, intake, log = tmp_path / "smtp.sock", FakeIntake(), FakeLog()
        settings = {"bind": f"unix:{path}", "socket_mode": "0600", "trusted": trusted}
        async with listening({}, log, intake=intake, **settings) as server:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert (server.addresses, server.places) == ([], [f"unix:{path}"])
            async with await unix_client(path) as client:
                await client.greet()
                assert (await client.deliver()).startswith("250")
                await client.say(b"MAIL FROM:<a@client.test>")
                assert (await client.say(b"RCPT TO:<x@elsewhere.test>"))[:3] == ("250" if trusted else "554")
        assert not path.exists()
        assert list(tmp_path.iterdir()) == []
        peer = intake.accepted[0].envelope.peer
        assert (peer.address, str(peer)) == ("", "unix")
        assert {event["client"] for event in log.named("disconnect")} == {"unix"}

    run(test)


def test_a_stale_unix_socket_is_replaced_and_one_in_use_is_not(run: Callable[[Test], None], tmp_path: Path) -> None:
    async def test() -> None:
        path = tmp_path / "smtp.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        async with listening({}, bind=f"unix:{path}"):
            with pytest.raises(ConfigError, match=r"cannot listen on unix:.*: Address already in use"):
                async with listening({}, bind=f"unix:{path}"):
                    pass
            async with await unix_client(path) as client:
                assert (await client.reply()).startswith("220")
        path.write_text("no socket")
        with pytest.raises(ConfigError, match="Address already in use"):
            async with listening({}, bind=f"unix:{path}"):
                pass
        assert path.read_text() == "no socket"

    run(test)


def test_a_successors_socket_is_left_alone(run: Callable[[Test], None], tmp_path: Path) -> None:
    async def test() -> None:
        path = tmp_path / "smtp.sock"
        async with listening({}, bind=f"unix:{path}"):
            path.unlink()
            path.write_text("another's")
        assert path.read_text() == "another's"

    run(test)


def test_an_owner_that_does_not_exist(run: Callable[[Test], None], tmp_path: Path) -> None:
    async def test() -> None:
        settings = {"bind": f"unix:{tmp_path}/s", "socket_owner": "no.such.user"}
        with pytest.raises(ConfigError, match="names no user"):
            async with listening({}, **settings):
                pass
        assert list(tmp_path.iterdir()) == []

    run(test)


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Descriptors 3 and 4 are sockets of ours while the test runs, as systemd would have it; gives their addresses."""
    kept = {number: os.dup(number) if _is_open(number) else None for number in (3, 4)}
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in made]
    for number, sock in zip((3, 4), made, strict=True):
        os.dup2(sock.fileno(), number)
    for sock in made:
        if sock.fileno() not in (3, 4):
            sock.close()
        else:
            sock.detach()
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", "smtp:lmtp")
    yield addresses
    for number, old in kept.items():
        os.close(number)
        if old is not None:
            os.dup2(old, number)
            os.close(old)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("name", "index"), [("smtp", 0), ("lmtp", 1), ("3", 0), ("4", 1)])
def test_inherited_sockets(handed_over: list[str], name: str, index: int) -> None:
    async def test() -> None:
        for _ in range(2):  # the socket itself stays open for the next one
            async with listening({}, bind=f"fd:{name}") as server, await Client.connect(server) as client:
                assert server.places == [handed_over[index]]
                assert (await client.reply()).startswith("220")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("name", "changes"), [("other", {}), ("5", {}), ("smtp", {"LISTEN_PID": "1"}), ("4", {"LISTEN_FDS": "1"})]
)
def test_sockets_that_were_not_handed_over(
    handed_over: list[str], monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, str]
) -> None:
    for key, value in changes.items():
        monkeypatch.setenv(key, value)

    async def test() -> None:
        with pytest.raises(ConfigError, match=f"listener\\[0\\].bind: cannot listen on fd:{name}: no socket"):
            async with listening({}, bind=f"fd:{name}"):
                pass

    asyncio.run(test())


# Each for itself


def test_each_listener_has_its_own_name_limits_and_host_name(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        own = {
            "hostname": "other.test",
            "limits": {"message_size": 2048, "recipients": 100},
            "name": "inside",
            "banner": "${hostname} ${service}",
        }
        async with listening({}, limits={"message_size": 4096}, more=[own]) as server:
            one = await Client.connect(server)
            server.addresses.reverse()
            two = await Client.connect(server)
            greetings = [await client.reply() for client in (one, two)]
            assert greetings == ["220 mx.test ESMTP mailflow", "220 other.test inside"]
            assert "SIZE 4096" in await one.say(b"EHLO client.test")
            assert "SIZE 2048" in await two.say(b"EHLO client.test")
            assert [hall.desk.service for hall in server.halls] == ["smtp", "inside"]
            assert [hall.desk.recipient_limit for hall in server.halls] == [1000, 100]
            for client in (one, two):
                client.writer.close()

    run(test)


def test_sessions_are_limited_for_a_listener_and_for_all(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        small = {"limits": {"sessions": 1}}
        async with listening({}, limits={"sessions": 3}, more=[small]) as server:
            large, little = server.addresses
            answers = []
            clients = []
            for address in (little, little, large, large, large):
                server.addresses[0] = address
                clients.append(await Client.connect(server))
                answers.append((await clients[-1].reply())[:3])
            assert answers == ["220", "421", "220", "220", "421"]
            for client in clients:
                client.writer.close()

    run(test)
