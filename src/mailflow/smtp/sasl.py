"""SASL mechanisms, the server's side, without I/O: PLAIN (RFC 4616), LOGIN, OAUTHBEARER (RFC 7628), XOAUTH2.

One object for each exchange. `respond` takes what the client sent, decoded, and gives the next `Step`: a challenge for
the client, a question for the back end (`Password`, `Token`, `Lookup`), or the end (`Passed`, `Failed`). The shell
answers a `Lookup` with `keys` (SCRAM, in scram.py); a `Password` or `Token` that was refused with `denied`.

A mechanism never says why it failed to the client, only to the log. `Failed` with `malformed` set is a message that
breaks the mechanism's own syntax: 501, and no password has been tried.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from mailflow.smtp.saslprep import saslprep

LOGIN_OCTETS = 255
"""Longest login name; as the longest address, which it often is."""
PASSWORD_OCTETS = 1024
"""Longest password: argon2 hashes it all, and nobody types more."""


class Challenge(NamedTuple):
    """The client is sent `data`, and its answer goes to `respond`."""

    data: bytes


class Password(NamedTuple):
    """The back end is asked whether this is the password."""

    login: str
    password: str


class Token(NamedTuple):
    """The token check is asked whom the token is for; `login` is what the client claims, "" when it does not say."""

    login: str
    token: str


class Lookup(NamedTuple):
    """The back end is asked for the stored keys, which go to `keys`."""

    login: str


class Passed(NamedTuple):
    """The client has shown that it is this login."""

    login: str


class Failed(NamedTuple):
    """It has not; `why` is for the log."""

    why: str
    login: str = ""
    malformed: bool = False


Step = Challenge | Password | Token | Lookup | Passed | Failed


def malformed(why: str) -> Failed:
    """The end of an exchange whose client does not keep to the mechanism's syntax."""
    return Failed(why, malformed=True)


class Mechanism:
    """Base of all mechanisms."""

    __slots__ = ()

    prompt = b""
    """What a client hears that sends no initial response."""

    def respond(self, data: bytes) -> Step:
        """Takes the client's next message."""
        raise NotImplementedError

    def denied(self, login: str) -> Step:
        """The back end said no."""
        return Failed("wrong password or unknown user", login)


class Plain(Mechanism):
    """PLAIN (RFC 4616): authorization identity, login and password in one message."""

    __slots__ = ()

    def respond(self, data: bytes) -> Step:
        """Takes the one message."""
        parts = data.split(b"\0")
        if len(parts) != 3:
            return malformed("not three parts")
        authzid, login, password = map(text_of, parts)
        if authzid is None:
            return malformed("not UTF-8")
        return credentials(login, password, authzid)


class Login(Mechanism):
    """LOGIN (draft-murchison-sasl-login): login and password in two messages, for old clients."""

    __slots__ = ("_login",)

    prompt = b"Username:"

    def __init__(self) -> None:
        self._login: bytes | None = None

    def respond(self, data: bytes) -> Step:
        """Takes the login, then the password."""
        if self._login is None:
            self._login = data
            return Challenge(b"Password:")
        return credentials(text_of(self._login), text_of(data))


class Bearer(Mechanism):
    """OAUTHBEARER (RFC 7628): a bearer token behind a GS2 header."""

    __slots__ = ("_answer", "_failed")

    def __init__(self, scope: str = "", configuration: str = "") -> None:
        """`scope` and `configuration` (the URL of the OpenID configuration) are told to clients whose token is no good."""
        found = {"status": "invalid_token", "scope": scope, "openid-configuration": configuration}
        self._answer = json.dumps({key: value for key, value in found.items() if value}).encode()
        self._failed: Failed | None = None

    def respond(self, data: bytes) -> Step:
        """Takes the token; after a refusal, the client's empty acknowledgement (RFC 7628 §3.2.3)."""
        if self._failed is not None:
            return self._failed
        text = text_of(data)
        if text is None:
            return malformed("not UTF-8")
        header, _, rest = text.partition("\1")
        login = self._claimed(header)
        if login is None:
            return malformed("no GS2 header")
        return self._token(login, rest.split("\1"))

    def denied(self, login: str) -> Step:
        """The client hears why before the exchange ends, so that it can fetch a new token."""
        self._failed = Failed("token refused", login)
        return Challenge(self._answer)

    def _claimed(self, header: str) -> str | None:
        flag, _, rest = header.partition(",")
        name, comma, end = rest.partition(",")
        if flag not in ("n", "y") or not comma or end or (name and not name.startswith("a=")):
            return None
        return unquoted(name[2:])

    def _token(self, login: str, pairs: Sequence[str]) -> Step:
        # The message ends with two separators: the last two parts are empty.
        if len(pairs) < 3 or pairs[-1] or pairs[-2]:
            return malformed("not key-value pairs")
        values = dict(pair.partition("=")[::2] for pair in pairs[:-2])
        kind, _, token = values.get("auth", "").partition(" ")
        if kind.lower() != "bearer" or not token.strip() or not token.isascii():
            return malformed("no bearer token")
        if login and not is_login(login):
            return Failed("not a login name")
        return Token(login, token.strip())


class XOAuth2(Bearer):
    """XOAUTH2: what OAUTHBEARER was made from; user and token as key-value pairs."""

    __slots__ = ()

    def __init__(self, scope: str = "", configuration: str = "") -> None:
        super().__init__(scope, configuration)
        self._answer = json.dumps({"status": "401", "schemes": "bearer", "scope": scope}).encode()

    def _claimed(self, header: str) -> str | None:
        return header[5:] if header.startswith("user=") else None


def credentials(login: str | None, password: str | None, authzid: str = "") -> Step:
    """The question to the back end, or the refusal of a login or password that cannot be one."""
    if login is None or password is None:
        return malformed("not UTF-8")
    if not is_login(login):
        return Failed("not a login name")
    if not password or len(password.encode()) > PASSWORD_OCTETS or "\0" in password:
        return Failed("not a password", login)
    if authzid not in ("", login):
        # RFC 4616 §2: to act as another user is a right that nobody has here.
        return Failed("acting for another user", login)
    return Password(login, password)


def is_login(text: str) -> bool:
    """Whether this can be a login name: short enough, and nothing in it that cannot be shown."""
    return bool(text) and len(text.encode()) <= LOGIN_OCTETS and text.isprintable()


def prepared_login(text: str) -> str | None:
    """A login name by SASLprep; None when it cannot be one."""
    try:
        prepared = saslprep(text)
    except ValueError:
        return None
    return prepared if is_login(prepared) else None


def text_of(data: bytes) -> str | None:
    """UTF-8 decoded; None when it is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def unquoted(name: str) -> str | None:
    """A saslname of RFC 5801 §4, "=2C" and "=3D" undone; None when another "=" stands in it."""
    plain = name.replace("=2C", "").replace("=3D", "")
    return None if "=" in plain or "," in name else name.replace("=2C", ",").replace("=3D", "=")
