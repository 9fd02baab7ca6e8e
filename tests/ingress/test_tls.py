"""TLS over loopback: STARTTLS and TLS first, certificates by name, renewal, levels, clients' certificates, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from tests.ingress.fakes import FakeIntake, FakeLog
from tests.ingress.tls import Authority, TlsClient, listening

Test = Callable[[], Awaitable[None]]
IMPLICIT = {"protocol": "submissions"}


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    loop_factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(test: Test) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await test()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(bounded())

    return run


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> dict[str, object]:
    return {"certificate": [authority.issue("mx.test")]}


def test_starttls_begins_the_session_anew(
    run: Callable[[Test], None], authority: Authority, tls: dict[str, object]
) -> None:
    async def test() -> None:
        intake = FakeIntake()
        async with listening(tls, intake=intake) as server, await TlsClient.connect(server) as client:
            await client.reply()
            assert "STARTTLS" in await client.say(b"EHLO client.test")
            assert await client.say(b"STARTTLS") == "220 2.0.0 Ready to start TLS"
            await client.start_tls(authority.client())
            assert (await client.say(b"MAIL FROM:<a@client.test>")).startswith("503")
            assert "STARTTLS" not in await client.say(b"EHLO secret.test")
            assert (await client.say(b"STARTTLS")).startswith("503")
            assert (await client.deliver()).startswith("250")
            assert await client.say(b"QUIT") == "221 2.0.0 Bye"
            assert await client.reply() == ""
        (peer,) = [message.envelope.peer for message in intake.accepted]
        assert peer.tls == "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"
        assert (peer.protocol, peer.helo, peer.certificate) == ("ESMTPS", "secret.test", "")

    run(test)


def test_tls_first(run: Callable[[Test], None], authority: Authority, tls: dict[str, object]) -> None:
    async def test() -> None:
        intake = FakeIntake()
        async with (
            listening(tls, intake=intake, **IMPLICIT) as server,
            await TlsClient.secure(server, authority.client()) as client,
        ):
            await client.greet()
            assert (await client.say(b"STARTTLS")).startswith("503")
            assert (await client.deliver(b"x" * 60_000 + b"\r\n")).startswith("250")
            assert await client.say(b"QUIT") == "221 2.0.0 Bye"
            assert await client.reply() == ""
        assert intake.accepted[0].envelope.peer.protocol == "ESMTPS"
        assert len(intake.accepted[0].content) == 60_002

    run(test)


@pytest.mark.parametrize(
    "behind", [b"MAIL FROM:<evil@client.test>\r\n", b"EHLO evil.test\r\nMAIL FROM:<a@b.test>\r\n", b"X"]
)
def test_nothing_behind_starttls_is_heard_after_it(
    run: Callable[[Test], None], authority: Authority, tls: dict[str, object], behind: bytes
) -> None:
    async def test() -> None:
        log = FakeLog()
        async with listening(tls, log) as server, await TlsClient.connect(server) as client:
            await client.greet()
            assert (await client.say(b"STARTTLS\r\n" + behind[:-2])).startswith("220")
            await client.start_tls(authority.client())
            assert (await client.say(b"RCPT TO:<alice@example.test>")).startswith("503")
            assert (await client.say(b"NOOP")).startswith("250")
        assert f"{len(behind)} bytes" in str(log.named("warning")[0]["reason"])

    if behind != b"X":
        run(test)


def test_clear_text_after_the_220_ends_the_session(run: Callable[[Test], None], tls: dict[str, object]) -> None:
    async def test() -> None:
        intake, log = FakeIntake(), FakeLog()
        async with listening(tls, log, intake=intake) as server, await TlsClient.connect(server) as client:
            await client.greet()
            assert (await client.say(b"STARTTLS")).startswith("220")
            client.send(b"EHLO evil.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n")
            answer = await client.reader.read()
            assert answer[:1] in (b"\x15", b""), "an alert and no word of SMTP"
            while server.sessions:
                await asyncio.sleep(0)
        assert intake.begun == []
        assert log.named("tls-failed") == [{"client": "unknown[127.0.0.1]", "reason": "wrong version number"}]

    run(test)
