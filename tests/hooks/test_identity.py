"""What a handler learns of its client: TLS, a balancer's word, a login."""

from __future__ import annotations

import base64
import smtplib
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.hooks.rig import serve
from tests.ingress.tls import Authority
from tests.support.client import Client

LISTENER = {"bind": "127.0.0.1:0"}


class Notes:
    """Notes aiosmtpd's session object at MAIL, and whom the hooks of the transport were told of."""

    def __init__(self, *, secure: object = True, welcome: object = True) -> None:
        self.secure, self.welcome = secure, welcome
        self.seen: list[Any] = []

    def handle_STARTTLS(self, server, session, envelope):
        self.seen.append(("STARTTLS", session.host_name, session.ssl["cipher"] is not None))
        if isinstance(self.secure, Exception):
            raise self.secure
        return self.secure

    async def handle_PROXY(self, server, session, envelope, proxy_data):
        self.seen.append(("PROXY", proxy_data.src_addr, proxy_data.src_port, session.peer))
        return self.welcome

    async def handle_MAIL(self, server, session, envelope, address, mail_options):
        envelope.mail_from = address
        self.seen.append(
            (
                session.peer,
                session.ssl and session.ssl["ssl_object"].version(),
                session.authenticated,
                session.auth_data,
            )
        )
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        return "250 OK"


def with_tls(folder: Path) -> tuple[Authority, dict[str, Any]]:
    authority = Authority(folder)
    return authority, {"tls": {"certificate": [authority.issue("mx.example.test")]}}


@pytest.mark.parametrize(
    ("secure", "code"), [(True, 250), (False, 554), (RuntimeError("no"), 554)], ids=["secure", "insecure", "raises"]
)
def test_starttls_is_told_and_may_be_found_wanting(tmp_path: Path, secure: object, code: int) -> None:
    authority, more = with_tls(tmp_path)
    notes = Notes(secure=secure)

    def talk(port: int) -> tuple[int, int]:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="c.test") as client:
            client.ehlo()
            client._host = "mx.example.test"
            client.starttls(context=authority.client())
            first, noop = client.ehlo()[0], client.noop()[0]
            if first == 250:
                client.mail("joe@c.test")
            return first, noop

    outcome = serve(tmp_path, talk, handler=notes, more=more)
    assert outcome.result == (code, code)
    assert notes.seen[0] == ("STARTTLS", None, True)
    assert [seen[1] for seen in notes.seen[1:]] == (["TLSv1.3"] if code == 250 else [])


def test_a_balancers_word(tmp_path: Path) -> None:
    more = {"listener": [LISTENER | {"proxy_networks": ["127.0.0.0/8"]}]}

    def talk(port: int) -> list[str]:
        client = Client(port)
        client.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 25\r\n")
        with client:
            return [client.greeting[:3], client.say("EHLO c.test")[:3], client.say("MAIL FROM:<a@b.test>")[:3]]

    welcome, unwelcome = Notes(), Notes(welcome=False)
    assert serve(tmp_path, talk, handler=welcome, more=more).result == ["220", "250", "250"]
    assert welcome.seen[0] == ("PROXY", "192.0.2.7", 4711, ("192.0.2.7", 4711))
    assert welcome.seen[1][0] == ("192.0.2.7", 4711)
    assert serve(tmp_path, lambda port: hear(port), handler=unwelcome, more=more).result == ["554", ""]


def hear(port: int) -> list[str]:
    client = Client(port)
    client.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 25\r\n")
    with client:
        return [client.greeting[:3], client.reply()]


class Authenticator:
    """aiosmtpd's interface: called with server, session, envelope, mechanism and data."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, server, session, envelope, mechanism, auth_data):
        assert session.host_name == "c.test"
        assert server.hostname == "mx.example.test"
        self.asked.append((mechanism, auth_data))
        if auth_data.login == b"broken":
            raise RuntimeError("no database")
        good = auth_data == LoginPassword(b"ann", b"swordfish")
        return AuthResult(success=good, auth_data={"number": 7} if good else None)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_an_authenticator_decides(tmp_path: Path, mechanism: str) -> None:
    notes, authenticator = Notes(), Authenticator()

    def talk(port: int) -> tuple[Any, ...]:
        def login(name: str, password: str) -> Any:
            with smtplib.SMTP("127.0.0.1", port, local_hostname="c.test") as client:
                client.ehlo()
                client.user, client.password = name, password
                method = getattr(client, f"auth_{mechanism.lower()}")
                try:
                    client.auth(mechanism, method)
                except smtplib.SMTPAuthenticationError as error:
                    return error.smtp_code
                return client.mail("ann@c.test")[0]

        return login("ann", "swordfish"), login("ann", "wrong"), login("broken", "x")

    more = {"auth": {"allow_plaintext": ["127.0.0.0/8"], "failure_delay": 0}}
    outcome = serve(tmp_path, talk, handler=notes, authenticator=authenticator, more=more, trusted=False)
    assert outcome.result == (250, 535, 454)
    assert authenticator.asked[0] == (mechanism, LoginPassword(b"ann", b"swordfish"))
    assert len(authenticator.asked) == 3
    [(_, _, authenticated, data)] = notes.seen
    assert (authenticated, data) == (True, {"number": 7})
    assert "swordfish" not in outcome.log


def test_without_an_authenticator_there_is_no_auth(tmp_path: Path) -> None:
    def talk(port: int) -> tuple[str, str]:
        with Client(port) as client:
            return client.say("EHLO c.test"), client.say("AUTH PLAIN " + base64.b64encode(b"\0a\0b").decode())

    hello, answer = serve(tmp_path, talk, handler=Notes(), trusted=False).result
    assert "AUTH" not in hello
    assert answer.startswith("50")


class Mechanism:
    async def auth_DIGEST(self, server, args):
        pass


def test_a_mechanism_of_a_handler_is_not_silently_left_out(tmp_path: Path) -> None:
    assert "auth_DIGEST" in serve(tmp_path, lambda _port: None, handler=Mechanism()).log
