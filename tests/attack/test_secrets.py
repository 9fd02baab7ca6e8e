"""What was said in confidence is in no line of the log and in no reply; replies name no path, no version, no fault of ours."""

from __future__ import annotations

import base64
import contextlib
import platform
import socket
import sqlite3
import ssl
import subprocess
import sys
from importlib.metadata import version

import pytest

from mailflow.ingress.auth import hashes
from tests.ingress.tls import Authority
from tests.support.server import Server, environment

WORDS = [
    f"{word}-s3cret" for word in ("plain", "login", "wrong", "token", "scram", "cut", "stray", "late", "oauth", "long")
]
"""Each is a password or token that is said in one way; the stray ones come where they do not belong."""
HOOK = """
def check(situation):
    if situation.sender == "boom@x.test":
        raise ValueError(f"internal-detail {__file__}")
"""


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def password_file(folder) -> None:
    stored = hashes.make("SHA512-CRYPT", WORDS[0])
    (folder / "users").write_text(f"jo:{stored}\n")
    (folder / "users").chmod(0o600)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "mypolicy.py").write_text(HOOK)
    password_file(tmp_path)
    database = sqlite3.connect(tmp_path / "logins.db")
    database.execute("CREATE TABLE users (login TEXT, password TEXT)")
    database.execute("INSERT INTO users VALUES ('broken', 'not-a-hash-s3cret')")
    database.commit()
    database.close()
    pair = {name: str(path) for name, path in Authority(tmp_path).issue("mx.example.test").items()}
    server = Server(
        tmp_path / "run",
        listener=[{"bind": "127.0.0.1:0"}, {"bind": "127.0.0.1:0", "protocol": "submissions"}],
        tls={"certificate": [pair]},
        auth={
            "file": str(tmp_path / "users"),
            "sql": {"database": str(tmp_path / "logins.db")},
            "allow_plaintext": ["127.0.0.0/8"],
            "failure_delay": "0s",
            "failures": 1000,
            "login_failures": 1000,
            "mechanisms": ["PLAIN", "LOGIN", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"],
            "oauth": {"introspection": "http://127.0.0.1:1/x", "client": "us", "secret": "oauth-s3cret"},
        },
        protocol={"xclient": ["127.0.0.0/8"], "xforward": ["127.0.0.0/8"], "vrfy": "known"},
        relay={"networks": ["192.0.2.0/24"]},
        abuse={"non_smtp": "log", "early_talk": "log", "pipelining": "log"},
        limits={"errors": 1000},
        policy_hook=[{"call": "mypolicy:check", "use": "always", "stages": ["mail"]}],
        greylist={"use": "always"},
        log={"level": "debug"},
    )
    server.environment["PYTHONPATH"] += f":{tmp_path}"
    with server:
        yield server


def conversations() -> list[bytes]:
    """All the ways to say a secret."""
    plain, login, wrong, token, scram, cut, stray, late, _oauth, long = WORDS
    return [
        b"AUTH PLAIN " + b64(f"\0jo\0{plain}") + b"\r\nMAIL FROM:<jo@example.test> AUTH=jo\r\nRSET",
        b"AUTH PLAIN\r\n" + b64(f"\0nobody\0{wrong}"),
        b"AUTH LOGIN\r\n" + b64("jo") + b"\r\n" + b64(login),
        b"AUTH LOGIN " + b64("broken") + b"\r\n" + b64(wrong),
        b"AUTH SCRAM-SHA-256 " + b64("n,,n=jo,r=abc") + b"\r\n" + b64(f"c=biws,r=abc,p={scram}"),
        b"AUTH XOAUTH2 " + b64(f"user=jo\1auth=Bearer {token}\1\1"),
        b"AUTH OAUTHBEARER " + b64(f"n,a=jo,\1auth=Bearer {token}\1\1"),
        b"AUTH PLAIN " + b64(f"\0jo\0{cut}")[:-3],
        b"AUTH PLAIN " + b64(f"\0jo\0{wrong}") + b"==",
        b"AUTH PLAIN " + f"\0jo\0{stray}".encode(),
        b"AUTH LOGIN\r\n" + stray.encode(),
        b"AUTH LOGIN\r\n*\r\n" + b64(stray),
        b"AUTH NONE " + b64(stray) + b"\r\n" + b64(stray) + b"\r\n" + stray.encode(),
        b"AUTH PLAIN " + b64(long * 2000),
        b"AUTH PLAIN\r\n" + b64(long * 2000),
        b"MAIL FROM:<a@x.test>\r\nAUTH PLAIN " + b64(f"\0jo\0{late}") + b"\r\nRSET",
        b"PASS " + stray.encode(),
        b"password: " + stray.encode(),
        b"Authorization: Basic " + b64(stray),
        b"GET /?token=" + stray.encode() + b" HTTP/1.1",
        b"user:" + stray.encode(),
    ]


def test_nothing_said_in_confidence_is_told_again(server, tmp_path):
    heard = ""
    for talk in conversations():
        for first in (b"EHLO me.test\r\n", b"NOOP\r\n", b""):
            more = b"\r\nRSET\r\nHELP\r\nVRFY <jo@example.test>\r\nMAIL FROM:<boom@x.test>\r\nQUIT\r\n"
            heard += _conversation(server.port, first + talk + more)
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    said = b"EHLO x\r\n" + conversations()[0] + b"\r\nQUIT\r\n"
    heard += _conversation(server.addresses[1][1], said, context)
    server.stop()
    assert "235 2.7.0" in heard
    assert "535 5.7.8" in heard
    assert "451 4.3.0" in heard  # the hook that raises
    log = server.output
    assert "internal-detail" in log
    assert "login " in log
    for word in WORDS:
        for form in _forms(word):
            assert form not in heard, form
            assert form not in log, _around(log, form)
    for secret in ("oauth-s3cret", "not-a-hash-s3cret"):
        assert secret not in log
    for detail in (
        "internal-detail",
        str(tmp_path),
        "Traceback",
        "Error:",
        "sqlite",
        version("mailflow"),
        "Python",
        platform.python_version(),
    ):
        assert detail.lower() not in heard.lower(), detail


def _conversation(port: int, said: bytes, context: ssl.SSLContext | None = None) -> str:
    """All at once, and all that is answered."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        if context is not None:
            client = stack.enter_context(context.wrap_socket(client, server_hostname="mx.example.test"))
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            client.sendall(said)
            while data := client.recv(65536):
                heard += data
        return heard.decode()


def _forms(word: str) -> list[str]:
    """The word itself, and what of it is in any base64 of it, whatever stands in front."""
    found = [word]
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + word.encode()).decode()
        found.append(encoded[4:-4])
    return found


def _around(log: str, form: str) -> str:
    return next(line for line in log.splitlines() if form in line)


def test_a_password_is_no_word_of_a_command_line_or_of_what_it_says(tmp_path):
    words = [sys.executable, "-m", "mailflow", "user", "add", "jo", "--file", "users", "-v"]
    done = subprocess.run(
        words, input="plain-s3cret\n", capture_output=True, text=True, cwd=tmp_path, env=environment(), check=True
    )
    assert "s3cret" not in done.stdout + done.stderr + (tmp_path / "users").read_text()
    assert (tmp_path / "users").stat().st_mode & 0o077 == 0
