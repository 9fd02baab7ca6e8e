"""AUTH with clients that others wrote, over loopback: smtplib, swaks, msmtp, gsasl; with TLS and without."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import smtplib
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scramp import ScramClient

from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.auth.hashes import keys_in
from mailflow.smtp.scram import make_keys
from tests.auth.fakes import ALL, Known, Tokens, authenticator
from tests.ingress.fakes import FakeIntake, FakeLog
from tests.ingress.tls import Authority, listening
from tests.support.tools import swaks, tool

MESSAGE = "Subject: x\r\n\r\nx\r\n"


class Running:
    """A listener, and what it took in."""

    def __init__(self) -> None:
        self.port = 0
        self.intake, self.log = FakeIntake(), FakeLog()

    @property
    def peers(self) -> list[tuple[str, str]]:
        """Login and protocol of each message."""
        return [(i.envelope.peer.login, i.envelope.peer.protocol) for i in self.intake.accepted]


@contextmanager
def listener(tls: dict[str, Any], auth: Authenticator | None, **settings: Any) -> Iterator[Running]:
    """Runs a listener in a thread's loop while the test's own thread talks to it."""
    with asyncio.Runner() as runner:
        running = Running()
        loop = runner.get_loop()
        context = listening(tls, running.log, intake=running.intake, ours=False, auth=auth, **settings)
        server = runner.run(context.__aenter__())
        running.port = server.addresses[0].port
        worker = threading.Thread(target=loop.run_forever)
        worker.start()
        try:
            yield running
        finally:
            loop.call_soon_threadsafe(loop.stop)
            worker.join()
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> dict[str, Any]:
    return {"certificate": [authority.issue("localhost", "127.0.0.1")]}


def known(**settings: Any) -> Authenticator:
    settings = {"failure_delay": "0s", "failures": 100} | settings
    return authenticator(Known(alice="open sesame"), tokens=Tokens(t0ken="alice"), **settings)


@contextmanager
def smtplib_client(running: Running, authority: Authority, *, secure: bool = True) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP("localhost", running.port, local_hostname="client.test", timeout=20) as client:
        if secure:
            client.starttls(context=authority.client())
        client.ehlo()
        yield client


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("initial", [True, False])
def test_smtplib(tls, authority, mechanism, initial):
    with listener(tls, known()) as running:
        with smtplib_client(running, authority) as client:
            client.user, client.password = "alice", "open sesame"
            method = {"PLAIN": client.auth_plain, "LOGIN": client.auth_login}[mechanism]
            assert client.auth(mechanism, method, initial_response_ok=initial)[0] == 235
            client.sendmail("alice@example.test", ["bob@elsewhere.test"], MESSAGE)  # relaying is allowed now
        assert running.peers == [("alice", "ESMTPSA")]


def test_smtplib_with_a_wrong_password(tls, authority):
    with listener(tls, known()) as running, smtplib_client(running, authority) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.login("alice", "open barley")
        assert caught.value.smtp_code == 535
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail("alice@example.test", ["bob@elsewhere.test"], MESSAGE)
        assert running.intake.accepted == []


def test_nothing_is_offered_in_the_clear(tls, authority):
    with (
        listener(tls, known(allow_plaintext=[])) as running,
        smtplib_client(running, authority, secure=False) as client,
    ):
        assert not client.has_extn("auth")
        assert client.docmd("AUTH", "PLAIN AGFsaWNlAG9wZW4gc2VzYW1l")[0] == 538
        client.starttls(context=authority.client())
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ALL
        assert client.login("alice", "open sesame")[0] == 235
        assert client.docmd("AUTH", "PLAIN AGFsaWNlAG9wZW4gc2VzYW1l")[0] == 503


def test_scram_in_the_clear_by_setting(tls, authority):
    auth = known(allow_plaintext=[], scram_without_tls=True)
    with listener(tls, auth) as running, smtplib_client(running, authority, secure=False) as client:
        assert client.esmtp_features["auth"].split() == ["SCRAM-SHA-256"]


def test_a_login_in_the_clear_is_forgotten_under_tls(tls, authority):
    with listener(tls, known()) as running:
        with smtplib_client(running, authority, secure=False) as client:
            client.login("alice", "open sesame")
            client.starttls(context=authority.client())
            client.ehlo()
            assert client.mail("alice@example.test")[0] == 250
            assert client.rcpt("bob@elsewhere.test")[0] == 554
            client.rset()
            client.login("alice", "open sesame")
            client.sendmail("alice@example.test", ["bob@elsewhere.test"], MESSAGE)
        assert running.peers == [("alice", "ESMTPSA")]


def test_a_listener_without_auth(tls, authority):
    with listener(tls, None) as running, smtplib_client(running, authority) as client:
        assert not client.has_extn("auth")
        assert client.docmd("AUTH", "PLAIN")[0] == 502


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks(tls, mechanism):
    with listener(tls, known()) as running:
        words = [
            "--auth",
            mechanism,
            "--auth-user",
            "alice",
            "--to",
            "bob@elsewhere.test",
            "--from",
            "alice@example.test",
        ]
        swaks(running.port, *words, "--auth-password", "open sesame")
        assert running.peers == [("alice", "ESMTPA")]
        swaks(running.port, *words, "--auth-password", "open barley", expect=28)


def msmtp(
    running: Running, folder: Path, authority: Authority, mechanism: str, password: str, *, starttls: bool
) -> int:
    """Sends with msmtp; its exit code."""
    config = folder / "msmtprc"
    config.write_text(
        f"account default\nhost localhost\nport {running.port}\ntls {'on' if starttls else 'off'}\n"
        f"tls_trust_file {authority.file}\nauth {mechanism}\nuser alice\npassword {password}\nfrom alice@example.test\n"
    )
    config.chmod(0o600)
    command = [tool("msmtp"), "-C", str(config), "bob@elsewhere.test"]
    return subprocess.run(command, input=MESSAGE.encode(), capture_output=True, timeout=30).returncode


@pytest.mark.parametrize("mechanism", ["plain", "login", "scram-sha-256"])
@pytest.mark.parametrize("starttls", [True, False])
def test_msmtp(tls, authority, tmp_path, mechanism, starttls):
    with listener(tls, known()) as running:
        assert msmtp(running, tmp_path, authority, mechanism, '"open sesame"', starttls=starttls) == 0
        assert msmtp(running, tmp_path, authority, mechanism, "barley", starttls=starttls) == 77
        assert running.peers == [("alice", "ESMTPSA" if starttls else "ESMTPA")]


@pytest.mark.parametrize("mechanism", ["oauthbearer", "xoauth2"])
def test_msmtp_with_a_token(tls, authority, tmp_path, mechanism):
    with listener(tls, known()) as running:
        assert msmtp(running, tmp_path, authority, mechanism, "t0ken", starttls=True) == 0
        assert msmtp(running, tmp_path, authority, mechanism, "t1ken", starttls=True) == 77
        assert running.peers == [("alice", "ESMTPSA")]


def gsasl(running: Running, *options: str, password: str = "open sesame") -> str:
    command = [tool("gsasl"), "--smtp", "--verbose", f"--connect=localhost:{running.port}", "--authentication-id=alice"]
    command += [f"--password={password}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    return done.stdout + done.stderr


def test_gsasl_binds_scram_to_the_channel(tls, authority):
    with listener(tls | {"level": "intermediate"}, known()) as running:
        only_12 = "--priority=NORMAL:-VERS-ALL:+VERS-TLS1.2"
        ca = f"--x509-ca-file={authority.file}"
        said = gsasl(running, "--mechanism=SCRAM-SHA-256-PLUS", ca, only_12)
        assert "235" in said, said
        assert running.log.named("login")[-1]["status"] == "ok"
        said = gsasl(running, "--mechanism=SCRAM-SHA-256-PLUS", ca, only_12, password="open barley")
        assert "535" in said, said


def test_scram_bound_to_the_certificate(tls, authority):
    """tls-server-end-point under TLS 1.3, with scramp as the client."""
    with listener(tls, known()) as running, smtplib_client(running, authority) as client:
        certificate = client.sock.getpeercert(binary_form=True)
        for binding, code in ((hashlib.sha256(certificate).digest(), 235), (b"x" * 32, 535)):
            mechanism = "SCRAM-SHA-256-PLUS"
            scram = ScramClient([mechanism], "alice", "open sesame", channel_binding=("tls-server-end-point", binding))
            found = client.docmd("AUTH", f"{mechanism} {encoded(scram.get_client_first())}")
            scram.set_server_first(base64.b64decode(found[1]).decode())
            found = client.docmd(encoded(scram.get_client_final()))
            if code == 235:
                scram.set_server_final(base64.b64decode(found[1]).decode())
                found = client.docmd("")
            assert found[0] == code
            client.quit()
            client.connect("localhost", running.port)
            client.starttls(context=authority.client())
            client.ehlo()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_gsasl_scram_in_the_clear(tls):
    with listener(tls, known()) as running:
        assert "235" in gsasl(running, "--mechanism=SCRAM-SHA-256", "--no-starttls")


def test_keys_made_by_gsasl():
    command = [
        tool("gsasl"),
        "--mkpasswd",
        "--mechanism=SCRAM-SHA-256",
        "--password=open sesame",
        "--iteration-count=5000",
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    keys = keys_in(made)
    assert keys is not None
    assert keys == make_keys("open sesame", keys.salt, 5000)
