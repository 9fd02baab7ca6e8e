"""The places where passwords are known, each against something real or a small server of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from mailflow.errors import ConfigError
from mailflow.ingress.auth import hashes, password_file
from mailflow.ingress.auth.backend import Attempt, Pool, Unavailable
from mailflow.ingress.auth.dovecot import Dovecot, unescaped
from mailflow.ingress.auth.oauth import Introspection
from mailflow.ingress.auth.pam import Pam
from mailflow.ingress.auth.parts import Auth, read_secret
from mailflow.ingress.auth.password_file import PasswordFile, PasswordFileError
from mailflow.ingress.auth.program import Program, ProgramTokens
from mailflow.ingress.auth.settings import AuthSettings, OAuthSettings, SqlSettings
from mailflow.ingress.auth.sql import SqlTable
from mailflow.smtp.scram import make_keys
from tests.auth.fakes import Clock, in_loop
from tests.ingress.fakes import FakeLog

# Cheap ones: tests need no strength.
ALICE = "{SHA512-CRYPT}" + hashes._crypt("open sesame", "$6$rounds=1000$salt$")
BOB = "{SCRAM-SHA-256}" + make_keys("builder", b"salt", 4321).encode()

RIGHT, WRONG, NOBODY = Attempt("Alice", "open sesame"), Attempt("alice", "open barley"), Attempt("eve", "open sesame")


class Counting:
    """Counts verifications, as a stand-in for the time that they take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stored: list[str] = []
        real = hashes._matches

        def matches(scheme: str, value: str, password: str) -> bool:
            self.stored.append(scheme)
            return real(scheme, value, password)

        monkeypatch.setattr(hashes, "_matches", matches)


class Users:
    """A password file and its back end."""

    def __init__(self, folder: Path, text: str = f"# users\nalice:{ALICE}\nBob:{BOB}:1000:100::/home/bob\n") -> None:
        self.path = folder / "users"
        self.path.write_text(text)
        self.clock, self.log, self.pool = Clock(), FakeLog(), Pool("auth", 2, 10)
        self.backend = PasswordFile(self.path, self.pool, b"secret", self.log, self.clock)

    async def __aenter__(self):
        await self.backend.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.pool.close()


# The password file


@in_loop
async def test_a_password_file(tmp_path):
    async with Users(tmp_path) as users:
        backend = users.backend
        assert await backend.verify(RIGHT) == "alice"
        assert await backend.verify(WRONG) is None
        assert await backend.verify(NOBODY) is None
        assert await backend.verify(Attempt("bob", "builder")) == "Bob"
        assert await backend.keys("BOB") == ("Bob", make_keys("builder", b"salt", 4321))
        assert await backend.keys("alice") is None
        assert backend.iterations("eve") == 4321


@in_loop
async def test_unknown_users_cost_what_known_ones_cost(tmp_path, monkeypatch):
    count = Counting(monkeypatch)
    async with Users(tmp_path) as users:
        for attempt in (WRONG, NOBODY, NOBODY, Attempt("bob", "x")):
            await users.backend.verify(attempt)
    assert len(count.stored) == 4
    assert count.stored[1] == count.stored[2]


@in_loop
async def test_an_empty_file_costs_as_much(tmp_path, monkeypatch):
    count = Counting(monkeypatch)
    async with Users(tmp_path, "") as users:
        assert await users.backend.verify(NOBODY) is None
        assert users.backend.iterations("eve") == 100_000
    assert count.stored == ["ARGON2ID"]


@in_loop
async def test_a_changed_file_counts_within_a_second(tmp_path):
    async with Users(tmp_path) as users:
        backend, before = users.backend, users.backend.generation
        await backend.refresh()
        users.path.with_suffix(".new").write_text(f"eve:{ALICE}\n")
        users.path.with_suffix(".new").replace(users.path)
        await backend.refresh()
        assert await backend.verify(NOBODY) is None  # not looked for again yet
        users.clock.now += 1.1
        await backend.refresh()
        assert await backend.verify(NOBODY) == "eve"
        assert await backend.verify(RIGHT) is None
        assert backend.generation == before + 1


@in_loop
async def test_a_file_that_went_bad_leaves_the_old_one_in_force(tmp_path):
    async with Users(tmp_path) as users:
        users.path.write_text("alice:open sesame\n")
        users.clock.now += 2
        await users.backend.refresh()
        assert await users.backend.verify(RIGHT) == "alice"
        warning = users.log.named("warning")[-1]
        assert f"{users.path}:1" in str(warning["reason"])
        assert "sesame" not in str(warning)
        users.clock.now += 2
        await users.backend.refresh()
        assert users.log.named("warning")[-1] is warning  # once is enough
        users.path.unlink()
        users.clock.now += 2
        await users.backend.refresh()
        assert await users.backend.verify(RIGHT) == "alice"


@in_loop
async def test_a_server_does_not_start_with_a_bad_file(tmp_path):
    for text in ("alice\n", f"alice:{ALICE}\nALICE:{BOB}\n", f":{ALICE}\n"):
        with pytest.raises(ConfigError):
            async with Users(tmp_path, text):
                pass


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text):
    with contextlib.suppress(PasswordFileError):
        password_file.parse(text, Path("users"))


# Threads


@in_loop
async def test_too_many_logins_are_told_to_come_again():
    pool, gate = Pool("auth", 1, 1), threading.Event()
    first, second = (asyncio.ensure_future(pool.run(gate.wait)) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await pool.run(gate.wait)
    gate.set()
    assert await first
    assert await second
    assert pool.under_way == 0
    pool.close()


@in_loop
async def test_a_login_whose_client_left_keeps_its_place_until_it_is_done():
    pool, gate, done = Pool("auth", 1, 0), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(pool.run(gate.wait))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(Unavailable):
        await pool.run(gate.wait)
    gate.set()
    while pool.under_way:
        loop.call_soon(done.set)
        await done.wait()
        done.clear()
    assert await pool.run(lambda: 1) == 1
    pool.close()


# A table


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "users.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE users (login TEXT, password TEXT, address TEXT)")
        database.execute("INSERT INTO users VALUES ('alice', ?, 'alice@example.test'), ('bob', ?, NULL)", (ALICE, BOB))
        database.execute("INSERT INTO users VALUES ('bad', 'x', NULL)")
    database.close()
    return path


@in_loop
async def test_a_table(table, monkeypatch):
    count = Counting(monkeypatch)
    query = "SELECT password, address FROM users WHERE login = lower(:login)"
    pool = Pool("auth", 1, 10)
    backend = SqlTable(SqlSettings(database=str(table), query=query), pool)
    await backend.start()
    assert await backend.verify(RIGHT) == "alice@example.test"
    assert await backend.verify(WRONG) is None
    assert await backend.verify(NOBODY) is None
    assert count.stored == ["SHA512-CRYPT", "SHA512-CRYPT", "ARGON2ID"]
    assert await backend.verify(Attempt("x' OR 1=1 --", "open sesame")) is None
    assert await backend.keys("bob") == ("bob", make_keys("builder", b"salt", 4321))
    assert await backend.keys("alice") is None
    with pytest.raises(Unavailable):
        await backend.verify(Attempt("bad", "x"))
    pool.close()


@in_loop
async def test_a_table_that_is_not_there(tmp_path):
    pool = Pool("auth", 1, 10)
    backend = SqlTable(SqlSettings(database=str(tmp_path / "users.db")), pool)
    with pytest.raises(ConfigError):
        await backend.start()
    with pytest.raises(Unavailable):
        await backend.verify(RIGHT)
    assert list(tmp_path.iterdir()) == []
    pool.close()


# PAM


@in_loop
async def test_pam():
    codes = {"open sesame": 0, "open barley": 7, "trouble": 9}
    asked = []

    def ask(service: str, login: str, password: str) -> int:
        asked.append((service, login, threading.current_thread() is threading.main_thread()))
        return codes[password]

    backend = Pam("smtp", Pool("pam", 1, 1), ask)
    await backend.start()
    assert await backend.verify(RIGHT) == "Alice"
    assert await backend.verify(WRONG) is None
    with pytest.raises(Unavailable):
        await backend.verify(Attempt("alice", "trouble"))
    assert asked[0] == ("smtp", "Alice", False)
    await backend.close()


# Dovecot


class FakeDovecot:
    """Speaks the server's side of the protocol; `answers` gives the words behind the number."""

    def __init__(
        self, path: Path, hello: str = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\tx\nDONE\n"
    ) -> None:
        self.path, self.hello = path, hello
        self.lines: list[str] = []
        self.connections = 0
        self.writer: asyncio.StreamWriter | None = None

    async def __aenter__(self):
        self.server = await asyncio.start_unix_server(self.serve, self.path)
        return self

    async def __aexit__(self, *exc):
        self.server.close()
        if self.writer is not None:
            self.writer.close()

    async def serve(self, reader, writer):
        self.connections += 1
        self.writer = writer
        writer.write(self.hello.encode())
        while line := (await reader.readline()).decode().rstrip("\n"):
            self.lines.append(line)
            words = line.split("\t")
            if words[0] == "AUTH":
                _, login, password = base64.b64decode(words[-1].removeprefix("resp=")).decode().split("\0")
                if password == "die":
                    writer.close()
                    return
                writer.write(self.answer(words[1], login, password).encode())
        writer.close()

    def answer(self, number, login, password):
        if password == "open sesame":
            return f"OK\t{number}\tuser={login.lower()}\n"
        if password == "trouble":
            return f"FAIL\t{number}\tuser={login}\ttemp\n"
        return f"OK\t99999\tuser=other\nFAIL\t{number}\tuser={login}\n"


@in_loop
async def test_dovecot(tmp_path):
    async with FakeDovecot(tmp_path / "auth") as dovecot:
        backend = Dovecot(dovecot.path)
        assert await backend.verify(RIGHT._replace(client="192.0.2.1")) == "alice"
        assert await asyncio.gather(*(backend.verify(a) for a in (WRONG, NOBODY, RIGHT))) == [None, "eve", "alice"]
        with pytest.raises(Unavailable):
            await backend.verify(Attempt("alice", "trouble"))
        assert dovecot.connections == 1
        assert dovecot.lines[:2] == ["VERSION\t1\t1", f"CPID\t{os.getpid()}"]
        assert dovecot.lines[2].startswith("AUTH\t1\tPLAIN\tservice=smtp\tsecured\trip=192.0.2.1\tnologin\tresp=")
        with pytest.raises(Unavailable):
            await backend.verify(Attempt("alice", "die"))
        assert await backend.verify(RIGHT) == "alice"
        assert dovecot.connections == 2
        await backend.close()


@pytest.mark.parametrize(
    "hello", ["VERSION\t2\t0\nMECH\tPLAIN\nDONE\n", "VERSION\t1\t0\nMECH\tLOGIN\nDONE\n", "x" * 9000]
)
def test_a_dovecot_that_we_cannot_talk_to(tmp_path, hello):
    async def run():
        async with FakeDovecot(tmp_path / "auth", hello) as dovecot:
            with pytest.raises(Unavailable):
                await Dovecot(dovecot.path).verify(RIGHT)

    asyncio.run(run())


@in_loop
async def test_no_dovecot(tmp_path):
    with pytest.raises(Unavailable):
        await Dovecot(tmp_path / "auth").verify(RIGHT)


def test_escaped_values():
    assert unescaped("a\x011b\x01tc") == "a\x01b\tc"
    assert unescaped("plain") == "plain"


# Programs


@in_loop
async def test_a_programs_function():
    answers: dict[str, object] = {"a": True, "b": "bob@example.test", "c": False, "d": None, "e": 1, "f": ""}

    async def authenticate(login, password):
        return answers[login]

    found = [await Program(authenticate).verify(Attempt(login, "x")) for login in answers]
    assert found == ["a", "bob@example.test", None, None, None, None]
    with pytest.raises(Unavailable) as caught:
        await Program(authenticate).verify(Attempt("g", "x"))
    assert "KeyError" in str(caught.value)
    assert await ProgramTokens(authenticate).check("a", "token") == "a"


# Tokens


@in_loop
async def test_introspection():
    asked = []
    found: dict[str, object] = {
        "good": {"active": True, "username": "alice", "scope": "openid mail"},
        "old": {"active": False, "username": "alice", "scope": "mail"},
        "narrow": {"active": True, "username": "alice", "scope": "mailbox"},
        "nobody": {"active": True, "scope": "mail"},
        "odd": [],
    }

    async def introspect(request):
        asked.append((request.headers["Authorization"], dict(await request.post())))
        token = asked[-1][1]["token"]
        if token == "long":
            return web.Response(body=b" " * 100_000)
        return web.json_response(found[token]) if token in found else web.Response(status=500)

    app = web.Application()
    app.router.add_post("/introspect", introspect)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/introspect"
    check = Introspection(OAuthSettings(introspection=url, client="mail", secret="s", scope="mail"))
    await check.start()
    assert await check.check("", "good") == "alice"
    assert await check.check("Alice", "good") == "alice"
    assert await check.check("bob", "good") is None
    for token in ("old", "narrow", "nobody"):
        assert await check.check("", token) is None
    for token in ("odd", "long", "unknown"):
        with pytest.raises(Unavailable) as caught:
            await check.check("", token)
        assert token not in str(caught.value)
    assert asked[0] == ("Basic bWFpbDpz", {"token": "good", "token_type_hint": "access_token"})
    await check.close()
    await runner.cleanup()
    await check.start()
    with pytest.raises(Unavailable):
        await check.check("", "good")
    await check.close()


# All of it


@in_loop
async def test_nothing_configured_is_nothing_made(tmp_path):
    auth = Auth(AuthSettings(), spool=tmp_path, log=FakeLog())
    await auth.start()
    assert auth.authenticator is None
    assert auth.guards({}) == []
    assert list(tmp_path.iterdir()) == []
    await auth.close()


def test_the_secret_stays(tmp_path):
    path = tmp_path / "auth.secret"
    secret = read_secret(path)
    assert len(secret) == 32
    assert read_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    assert len(read_secret(path)) == 32
    with pytest.raises(ConfigError):
        read_secret(tmp_path / "missing" / "auth.secret")
