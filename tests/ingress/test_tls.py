"""TLS over loopback: STARTTLS and TLS first, certificates by name, renewal, levels, clients' certificates, and what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mailflow.envelope import Peer
from mailflow.ingress.identity import protocol_word
from tests.ingress.fakes import FakeIntake, FakeLog
from tests.ingress.tls import Authority, TlsClient, listening

Test = Callable[[], Awaitable[None]]
IMPLICIT = {"protocol": "submissions"}


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


def test_what_is_read_in_the_turn_of_starttls_is_tls_and_nothing_else(
    run: Callable[[Test], None], tls: dict[str, object]
) -> None:
    """The command still waits for the loop to come round when more is read: it must not be heard as SMTP."""

    async def test() -> None:
        log, intake = FakeLog(), FakeIntake()
        async with listening(tls, log, intake=intake) as server, await TlsClient.connect(server) as client:
            await client.greet()
            (connection,) = server.halls[0].connections
            connection.data_received(b"STARTTLS\r\n")
            connection.data_received(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nx\r\n.\r\n")
            assert await client.reply() == "220 2.0.0 Ready to start TLS"
            while server.sessions:
                await asyncio.sleep(0)
        assert not intake.begun
        assert [event["reason"] for event in log.named("tls-failed")] != []

    run(test)


@pytest.mark.parametrize(
    ("said", "login", "word"),
    [
        ("SMTP", "", "SMTP"),
        ("ESMTP", "", "ESMTPS"),
        ("ESMTPA", "alice", "ESMTPSA"),
        ("ESMTPSA", "", "ESMTPS"),
        ("LMTP", "alice", "LMTPSA"),
        ("API", "alice", "API"),
    ],
)
def test_the_word_for_received(said: str, login: str, word: str) -> None:
    assert protocol_word(Peer(protocol=said, login=login, tls="TLSv1.3")) == word


def test_a_message_that_asks_for_smtputf8_has_its_own_word(
    run: Callable[[Test], None], authority: Authority, tls: dict[str, object]
) -> None:
    async def test() -> None:
        intake = FakeIntake()
        async with (
            listening(tls, intake=intake, **IMPLICIT) as server,
            await TlsClient.secure(server, authority.client()) as client,
        ):
            await client.greet()
            client.send(b"MAIL FROM:<a@client.test> SMTPUTF8\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nx\r\n.\r\n")
            assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "354", "250"]
            await client.deliver()
        assert [message.envelope.peer.protocol for message in intake.accepted] == ["UTF8SMTPS", "ESMTPS"]

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


@pytest.mark.parametrize("behind", [b"MAIL FROM:<evil@client.test>\r\n", b"EHLO evil.test\r\nMAIL FROM:<a@b.test>\r\n"])
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


def test_where_tls_is_required_nothing_else_works_before_it(
    run: Callable[[Test], None], authority: Authority, tls: dict[str, object]
) -> None:
    async def test() -> None:
        must = "530 5.7.0 Must issue a STARTTLS command first"
        async with (
            listening(tls, protocol="submission") as server,
            await TlsClient.connect(server) as client,
        ):
            await client.reply()
            assert (await client.say(b"STARTTLS")).startswith("503")
            assert "STARTTLS" in await client.say(b"EHLO client.test")
            for line in (
                b"MAIL FROM:<a@client.test>",
                b"MAIL FROM:<> SIZE=1",
                b"VRFY alice",
                b"RSET",
                b"AUTH PLAIN",
                b"DATA",
            ):
                assert await client.say(line) == must, line
            assert (await client.say(b"NOOP")).startswith("250")
            assert (await client.say(b"STARTTLS")).startswith("220")
            await client.start_tls(authority.client())
            await client.say(b"EHLO client.test")
            assert (await client.deliver()).startswith("250")

    run(test)


def test_the_certificate_is_chosen_by_name(run: Callable[[Test], None], authority: Authority) -> None:
    pairs = [authority.issue("first.test"), authority.issue("two.test", "*.two.test"), authority.issue("three.test")]
    pairs[2] = {**pairs[2], "names": ["other.test", "three.test"]}
    shown = {
        "first.test": "first.test",
        "TWO.test": "two.test",
        "mail.two.test": "two.test",
        "a.mail.two.test": "first.test",
        "three.test": "three.test",
        "other.test": "three.test",
        "unknown.test": "first.test",
    }

    async def test() -> None:
        context = authority.client()
        context.check_hostname = False
        async with listening({"certificate": pairs}, **IMPLICIT) as server:
            for name, expected in shown.items():
                async with await TlsClient.secure(server, context, name) as client:
                    assert expected in client.peer_names, name

    run(test)


def test_a_renewed_certificate_is_taken_up_and_a_bad_one_is_not(
    run: Callable[[Test], None], authority: Authority
) -> None:
    async def test() -> None:
        pair = authority.issue("old.test", to="renewed")
        context, log = authority.client(), FakeLog()
        context.check_hostname = False

        async def shown() -> set[str]:
            async with await TlsClient.secure(server, context) as client:
                return client.peer_names

        async def until(event: str, count: int) -> None:
            while len(log.named(event)) < count:
                await asyncio.sleep(0.01)

        async with listening({"certificate": [pair], "check_interval": 0.02}, log, **IMPLICIT) as server:
            assert await shown() == {"old.test"}
            async with await TlsClient.secure(server, context) as open_one:
                authority.issue("half.test", to="renewed")
                authority.issue("other.test", to="other")["key"].replace(pair["key"])
                await until("warning", 1)
                assert "private key does not belong" in str(log.named("warning")[0]["reason"])
                before = await shown()
                assert before in ({"old.test"}, {"half.test"}), "half.test when it was looked at between the two steps"
                authority.issue("new.test", to="renewed")
                while await shown() != {"new.test"}:
                    await asyncio.sleep(0.01)
                await open_one.greet()
        assert {event["state"] for event in log.named("tls-certificates")} == {"renewed"}

    run(test)


@pytest.mark.parametrize(
    ("level", "client", "agreed"),
    [
        ("modern", {"maximum_version": ssl.TLSVersion.TLSv1_2}, ""),
        ("modern", {}, "TLSv1.3"),
        ("intermediate", {"maximum_version": ssl.TLSVersion.TLSv1_2}, "TLSv1.2"),
        ("intermediate", {"minimum_version": ssl.TLSVersion.TLSv1, "maximum_version": ssl.TLSVersion.TLSv1_1}, ""),
        ("old", {"minimum_version": ssl.TLSVersion.TLSv1, "maximum_version": ssl.TLSVersion.TLSv1}, "TLSv1"),
    ],
)
def test_levels(
    run: Callable[[Test], None],
    authority: Authority,
    tls: dict[str, object],
    level: str,
    client: dict[str, ssl.TLSVersion],
    agreed: str,
) -> None:
    async def test() -> None:
        log, context = FakeLog(), authority.client(**client)
        if client:
            context.set_ciphers("ALL:@SECLEVEL=0")
        async with listening({**tls, "level": level}, log, **IMPLICIT) as server:
            try:
                async with await TlsClient.secure(server, context) as connected:
                    await connected.greet()
                    assert connected.writer.get_extra_info("ssl_object").version() == agreed
            except (ssl.SSLError, ConnectionError):
                assert not agreed
                while not log.named("tls-failed"):
                    await asyncio.sleep(0)
        assert [event["reason"] for event in log.named("tls-failed")] == ([] if agreed else ["unsupported protocol"])

    run(test)


def test_a_weak_cipher_is_refused_unless_old_clients_are_wanted(
    run: Callable[[Test], None], authority: Authority, tls: dict[str, object]
) -> None:
    async def test() -> None:
        context = authority.client(maximum_version=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
        log = FakeLog()
        async with listening(tls, log, more=[{**IMPLICIT, "tls_level": "old"}], **IMPLICIT) as server:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await TlsClient.secure(server, context)
            while server.handshakes:
                await asyncio.sleep(0)
            server.addresses.reverse()
            async with await TlsClient.secure(server, context) as client:
                await client.greet()
        assert [event["reason"] for event in log.named("tls-failed")] == ["no shared cipher"]

    run(test)


def test_a_clients_certificate_is_verified_and_its_fingerprint_known(
    run: Callable[[Test], None], authority: Authority, tls: dict[str, object], tmp_path: Path
) -> None:
    known = authority.issue("known-client.test")
    pinned = Authority(tmp_path).issue("pinned-client.test")
    stranger = Authority(tmp_path).issue("strange-client.test")
    vouchers = tmp_path / "vouchers.pem"
    own = pinned["chain"].read_bytes().partition(b"-----END CERTIFICATE-----")
    vouchers.write_bytes(authority.file.read_bytes() + own[0] + own[1] + b"\n")

    def fingerprint(pair: dict[str, Path]) -> str:
        der = ssl.PEM_cert_to_DER_cert(
            pair["chain"].read_text().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
        )
        return hashlib.sha256(der).hexdigest()

    async def test() -> None:
        intake, log = FakeIntake(), FakeLog()
        settings = {**tls, "client_ca": vouchers, "client_certificates": "ask"}
        async with listening(settings, log, intake=intake, **IMPLICIT) as server:
            for pair in (None, known, pinned):
                async with await TlsClient.secure(server, authority.client(pair)) as client:
                    await client.greet()
                    assert (await client.deliver()).startswith("250")
            async with await TlsClient.secure(server, authority.client(stranger)) as client:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    assert await client.reader.read() != b""
        prints = [message.envelope.peer.certificate.replace(":", "") for message in intake.accepted]
        assert prints == ["", fingerprint(known), fingerprint(pinned)]
        assert all(m.envelope.peer.tls.endswith("), client certificate verified") for m in intake.accepted[1:])
        assert [event["reason"] for event in log.named("tls-failed")] == ["certificate verify failed"]
        assert len(intake.accepted) == 3
        async with (
            listening({**settings, "client_certificates": "require"}, log, **IMPLICIT) as server,
            await TlsClient.secure(server, authority.client()) as client,
        ):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                assert await client.reader.read() != b""
        assert log.named("tls-failed")[-1]["reason"] == "peer did not return a certificate"

    run(test)


@pytest.mark.parametrize(
    "garbage", [b"EHLO client.test\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000]
)
def test_what_is_no_handshake_is_closed_without_a_word_of_smtp(
    run: Callable[[Test], None], tls: dict[str, object], garbage: bytes
) -> None:
    async def test() -> None:
        log = FakeLog()
        async with listening(tls, log, **IMPLICIT) as server, await TlsClient.connect(server) as client:
            client.send(garbage)
            try:
                answer = await client.reader.read()
            except ConnectionError:
                answer = b""
            assert answer[:1] in (b"", b"\x15")
            while not log.named("tls-failed"):
                await asyncio.sleep(0)
        (event,) = log.named("tls-failed")
        assert event["client"] == "unknown[127.0.0.1]"
        assert event["reason"] in (
            "wrong version number",
            "http request",
            "packet length too long",
            "record layer failure",
        )

    run(test)


@pytest.mark.parametrize("first", [True, False])
def test_a_handshake_that_takes_too_long_is_cut_off(
    run: Callable[[Test], None], tls: dict[str, object], first: bool
) -> None:
    async def test() -> None:
        log = FakeLog()
        settings = {**tls, "handshake_timeout": 0.2}
        async with (
            listening(settings, log, **(IMPLICIT if first else {})) as server,
            await TlsClient.connect(server) as client,
        ):
            if not first:
                await client.greet()
                await client.say(b"STARTTLS")
            answer = asyncio.create_task(client.reader.read())
            hello = b"\x16\x03\x01\x02\x00\x01"
            while not answer.done():  # one byte after the other does not help
                client.send(hello[:1])
                hello = hello[1:] or b"\x00"
                await asyncio.wait([answer], timeout=0.02)
            await asyncio.gather(answer, return_exceptions=True)
            while server.sessions:
                await asyncio.sleep(0)
        assert [event["reason"] for event in log.named("tls-failed")] == ["timed out"]

    run(test)


def test_handshakes_are_limited(run: Callable[[Test], None], authority: Authority, tls: dict[str, object]) -> None:
    async def test() -> None:
        log = FakeLog()
        async with (
            listening({**tls, "handshakes": 1}, log, more=[IMPLICIT]) as server,
            await TlsClient.connect(server) as one,
            await TlsClient.connect(server) as two,
        ):
            await one.greet()
            await two.greet()
            await one.say(b"STARTTLS")
            assert await two.say(b"STARTTLS") == "454 4.7.0 TLS not available due to temporary reason"
            server.addresses.reverse()
            async with await TlsClient.connect(server) as three:
                assert await three.reader.read() == b""
            assert log.named("tls-failed") == [{"client": "unknown[127.0.0.1]", "reason": "too many handshakes"}]
            one.writer.close()
            while server.handshakes:
                await asyncio.sleep(0)
            assert (await two.say(b"STARTTLS")).startswith("220")
            await two.start_tls(authority.client())
            assert (await two.say(b"EHLO client.test")).startswith("250")

    run(test)


def test_draining_cuts_handshakes_and_ends_sessions_under_tls(
    run: Callable[[Test], None], authority: Authority, tls: dict[str, object]
) -> None:
    async def test() -> None:
        async with (
            listening(tls, **IMPLICIT) as server,
            await TlsClient.connect(server) as mute,
            await TlsClient.secure(server, authority.client()) as busy,
            await TlsClient.secure(server, authority.client()) as idle,
        ):
            await busy.greet()
            await idle.greet()
            await busy.say(b"MAIL FROM:<a@client.test>")
            draining = asyncio.create_task(server.drain(10))
            assert await mute.reader.read() == b""
            assert await idle.reply() == "421 4.3.2 Shutting down"
            assert not draining.done()
            assert await busy.say(b"RSET") == "250 2.0.0 Ok"
            assert await busy.reply() == "421 4.3.2 Shutting down"
            assert await draining

    run(test)


async def flood(client: TlsClient) -> None:
    for _ in range(5000):
        client.send(b"EHLO client.test\r\n" * 1000)
        await client.writer.drain()


def test_a_client_that_reads_nothing_and_one_that_vanishes(
    run: Callable[[Test], None], authority: Authority, tls: dict[str, object]
) -> None:
    async def test() -> None:
        limits = {"idle_timeout": 0.4, "junk_commands": 10**9}
        async with listening(tls, limits=limits, **IMPLICIT) as server:
            client = await TlsClient.secure(server, authority.client())
            gone = await TlsClient.secure(server, authority.client())
            gone.writer.transport.abort()
            client.writer.transport.pause_reading()
            with pytest.raises(ConnectionError):
                await flood(client)
            while server.sessions:
                await asyncio.sleep(0.01)
            client.writer.transport.abort()

    run(test)


def test_openssl_and_swaks_as_clients(authority: Authority, tls: dict[str, object]) -> None:
    if not (shutil.which("openssl") and shutil.which("swaks")):
        pytest.skip("openssl or swaks is not installed")

    async def program(*words: str, say: bytes = b"") -> str:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return (await process.communicate(say))[0].decode(errors="replace")

    async def test() -> None:
        intake = FakeIntake()
        async with listening(tls, intake=intake, more=[IMPLICIT]) as server:
            clear, first = (str(address) for address in server.addresses)
            ca = ("-CAfile", str(authority.file), "-verify_return_error", "-verify_hostname", "mx.test", "-ign_eof")
            said = await program("openssl", "s_client", "-starttls", "smtp", "-connect", clear, *ca, say=b"QUIT\r\n")
            assert "Verification: OK" in said
            assert "221 2.0.0 Bye" in said
            for address, how in ((clear, "--tls"), (first, "--tls-on-connect")):
                common = (
                    "--server",
                    address,
                    "--ehlo",
                    "client.test",
                    "--from",
                    "a@client.test",
                    "--to",
                    "alice@example.test",
                )
                said = await program("swaks", *common, how)
                assert "250 2.0.0 Ok: queued" in said, said
        assert [message.envelope.peer.protocol for message in intake.accepted] == ["ESMTPS", "ESMTPS"]

    asyncio.run(test())
