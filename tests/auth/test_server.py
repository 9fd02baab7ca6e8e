"""AUTH in a whole server: the password file, the program's functions, what Received: says, and senders by login."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailflow import Mailflow, Settings
from mailflow.ingress.auth.hashes import make
from tests.auth.fakes import in_loop

MESSAGE = "Subject: x\r\n\r\nx\r\n"
CLEAR = {"allow_plaintext": ["127.0.0.0/8"], "failure_delay": "0s"}


def settings(folder: Path, **auth: Any) -> Settings:
    return Settings(
        hostname="mx.example.test",
        spool=folder / "spool",
        listener=[{"bind": "127.0.0.1:0"}],
        local={"domains": ["example.test"], "users": ["bob"], "maildir": str(folder / "mail/{user}")},
        relay={"networks": []},
        auth=CLEAR | auth,
        control={"enabled": False},
        log={"to": str(folder / "log")},
    )


async def talk(mta: Mailflow, conversation: Callable[[smtplib.SMTP], None]) -> None:
    def run() -> None:
        host, _, port = mta.addresses[0].rpartition(":")
        with smtplib.SMTP(host, int(port), local_hostname="client.test", timeout=20) as client:
            client.ehlo()
            conversation(client)

    await asyncio.to_thread(run)


@in_loop
async def test_a_password_file_and_owners(tmp_path):
    users = tmp_path / "users"
    users.write_text(f"alice:{make('ARGON2ID', 'open sesame')}\ncarol:{make('SCRAM-SHA-256', 'open sesame')}\n")

    def conversation(client: smtplib.SMTP) -> None:
        assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("alice", "open barley")
        client.login("Alice", "open sesame")
        assert client.mail("carol@example.test") == (553, b"5.7.1 Sender address rejected: not owned by this login")
        client.sendmail("alice@example.test", ["bob@example.test"], MESSAGE)

    owners = {"alice@example.test": ["alice"], "carol@example.test": ["carol"]}
    async with Mailflow(settings(tmp_path, file=users, sender_login=owners)) as mta:
        await talk(mta, conversation)
        await talk(mta, lambda client: client.login("carol", "open sesame"))
    (message,) = (tmp_path / "mail/bob/new").iterdir()
    assert "with ESMTPA" in message.read_text()
    log = (tmp_path / "log").read_text()
    assert (
        "login client=unknown[127.0.0.1] proto=ESMTP helo=client.test mechanism=PLAIN status=failed login=alice" in log
    )
    assert "proto=ESMTPA login=alice" in log, "the line that says what came in says whose it is (wish 50)"
    assert "sesame" not in log
    assert "auth.sender_check" in log
    assert "barley" not in log


@in_loop
async def test_a_programs_functions(tmp_path):
    async def authenticate(login: str, password: str) -> str | None:
        if password == "trouble":
            raise RuntimeError("the database is away")
        return f"{login}@example.test" if password == "open sesame" else None

    async def check_token(login: str, token: str) -> bool:
        return (login, token) == ("alice", "t0ken")

    def conversation(client: smtplib.SMTP) -> None:
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.login("alice", "trouble")
        assert caught.value.smtp_code == 454
        assert b"database" not in caught.value.smtp_error
        assert client.docmd("AUTH", "XOAUTH2 dXNlcj1hbGljZQFhdXRoPUJlYXJlciB0MGtlbgEB")[0] == 235

    auth = {"mechanisms": ["PLAIN", "XOAUTH2"]}
    async with Mailflow(settings(tmp_path, **auth), authenticate=authenticate, check_token=check_token) as mta:
        await talk(mta, conversation)
        await talk(mta, lambda client: client.login("alice", "open sesame"))
    log = (tmp_path / "log").read_text()
    assert "the database is away" in log
    assert "login=alice@example.test" in log
    assert "t0ken" not in log


@in_loop
async def test_without_a_back_end_nothing_is_offered(tmp_path):
    def conversation(client: smtplib.SMTP) -> None:
        assert not client.has_extn("auth")
        assert client.docmd("AUTH", "PLAIN")[0] == 502

    async with Mailflow(settings(tmp_path)) as mta:
        await talk(mta, conversation)


@in_loop
async def test_a_client_that_leaves_while_its_password_is_verified(tmp_path):
    asked, gate = asyncio.Event(), asyncio.Event()

    async def authenticate(login: str, password: str) -> bool:
        asked.set()
        await gate.wait()
        return True

    async with Mailflow(settings(tmp_path), authenticate=authenticate) as mta:
        host, _, port = mta.addresses[0].rpartition(":")
        for wait in (True, False):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"EHLO client.test\r\nAUTH PLAIN AGFsaWNlAHg=\r\n")
            while not (await reader.readline()).startswith(b"250 "):
                pass
            if wait:
                await asked.wait()
            reset = struct.pack("ii", 1, 0)  # no half-closed connection, whose client may still read the answer
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            writer.transport.abort()
        listener = mta.server.listener
        assert listener is not None
        async with asyncio.timeout(10):
            while listener.sessions:
                await asyncio.sleep(0)
    assert "status=ok" not in (tmp_path / "log").read_text()
