"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), the server's side, without I/O.

The server keeps `Keys` and never the password; nonce and keys are passed in. An unknown user's keys are made up
(`made_up_keys`), the same each time, so that nobody learns from salt or iterations which logins exist; the exchange then
fails at its end as with a wrong password.

Channel binding: "p" must name a binding that we have, and its data must be this connection's; "y" (the client could, but
thinks that we cannot) fails when we offered PLUS, for then somebody in between has changed our list (RFC 5802 §6).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import NamedTuple

from mailflow.smtp.sasl import (
    Challenge,
    Failed,
    Lookup,
    Mechanism,
    Passed,
    Step,
    malformed,
    prepared_login,
    text_of,
    unquoted,
)
from mailflow.smtp.saslprep import saslprep

NONCE_CHARACTERS = 512
"""Longest client nonce."""
LEAST_ITERATIONS = 4096
"""RFC 7677 §4."""
MOST_ITERATIONS = 10_000_000
"""More is taken for a mistake: a client would calculate for many seconds."""
SALT_OCTETS = 16

# The message without its GS2 header; "m=" (mandatory extension) does not match and so fails, as RFC 5802 §5.1 demands.
_FIRST = re.compile(r"n=([^,\0]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,[A-Za-z]=[^\0]*)?")
_FINAL = re.compile(r"c=([A-Za-z0-9+/=]+),r=([\x21-\x2b\x2d-\x7e]+)((?:,[A-Za-oq-z]=[^,\0]*)*),p=([A-Za-z0-9+/=]+)")
_GS2 = re.compile(r"(n|y|p=([A-Za-z0-9.-]+)),(?:a=([^,\0]+))?,")


class Keys(NamedTuple):
    """What a server stores for a user (RFC 5802 §3)."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes

    def encode(self) -> str:
        """As text: "iterations,salt,stored key,server key", in base64."""
        return ",".join([str(self.iterations), *(_base64(part) for part in (self.salt, *self[2:]))])


def parse_keys(text: str) -> Keys:
    """`Keys` from their text. Raises ValueError."""
    iterations, salt, stored, server = text.split(",")
    keys = Keys(_bytes(salt), int(iterations), _bytes(stored), _bytes(server))
    if len(keys.stored_key) != 32 or len(keys.server_key) != 32 or not keys.salt:
        raise ValueError("not SCRAM-SHA-256 keys")
    if not LEAST_ITERATIONS <= keys.iterations <= MOST_ITERATIONS:
        raise ValueError("iterations out of range")
    return keys


def make_keys(password: str, salt: bytes, iterations: int) -> Keys:
    """The keys of a password. Takes long, on purpose. Raises ValueError when SASLprep does not allow the password."""
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    return Keys(salt, iterations, _sha256(_hmac(salted, b"Client Key")), _hmac(salted, b"Server Key"))


def made_up_keys(secret: bytes, login: str, iterations: int) -> Keys:
    """Keys that no password fits, always the same for a login; `secret` is the server's own."""
    salt, stored, server = (_hmac(secret, word + login.encode()) for word in (b"salt\0", b"stored\0", b"server\0"))
    return Keys(salt[:SALT_OCTETS], iterations, stored, server)


class Scram(Mechanism):
    """One exchange."""

    __slots__ = (
        "_bindings",
        "_first",
        "_gs2",
        "_keys",
        "_login",
        "_nonce",
        "_offered",
        "_passed",
        "_plus",
        "_server_first",
    )

    def __init__(
        self, nonce: str, bindings: Mapping[str, bytes] | None = None, *, plus: bool = False, plus_offered: bool = False
    ) -> None:
        """
        Args:
            nonce: the server's part of the nonce: printable ASCII without comma, new each time.
            bindings: this connection's channel bindings by name, "tls-exporter" and so on.
            plus: the client chose SCRAM-SHA-256-PLUS.
            plus_offered: it was in the list.
        """
        self._nonce = nonce
        self._bindings = bindings or {}
        self._plus = plus
        self._offered = plus_offered
        self._login = ""
        self._first = self._server_first = ""
        self._gs2 = b""
        """What `c=` must hold: the GS2 header and the binding's data."""
        self._keys: Keys | None = None
        self._passed = False

    def respond(self, data: bytes) -> Step:
        """Takes the client's first message, its final one, and the empty one after the server's signature."""
        text = text_of(data)
        if text is None:
            return malformed("not UTF-8")
        if self._passed:
            return Passed(self._login) if not text else malformed("a message too many")
        if self._keys is None:
            return self._receive_first(text)
        return self._receive_final(text, self._keys)

    def keys(self, keys: Keys) -> Step:
        """Takes the stored keys that `Lookup` asked for."""
        self._keys = keys
        self._server_first = f"r={self._nonce},s={_base64(keys.salt)},i={keys.iterations}"
        return Challenge(self._server_first.encode())

    def _receive_first(self, text: str) -> Step:
        header = _GS2.match(text)
        if header is None:
            return malformed("no GS2 header")
        failed = self._bind(header)
        if failed is not None:
            return failed
        self._first = text[header.end() :]
        message = _FIRST.fullmatch(self._first)
        if message is None or len(message[2]) > NONCE_CHARACTERS:
            return malformed("not a first message")
        name = unquoted(message[1])
        if name is None:
            return malformed("login badly quoted")
        login = prepared_login(name)
        if login is None:
            return Failed("not a login name")
        self._nonce = message[2] + self._nonce
        self._login = login
        if header[3] and unquoted(header[3]) != name:
            return Failed("acting for another user", login)
        return Lookup(login)

    def _bind(self, header: re.Match[str]) -> Failed | None:
        flag, name = header[1], header[2]
        if (name is not None) != self._plus:
            return Failed("channel binding and mechanism do not fit")
        if flag == "y" and self._offered:
            return Failed("downgrade: the client did not see that channel binding is offered")
        if name is None:
            self._gs2 = header[0].encode()
        elif name in self._bindings:
            self._gs2 = header[0].encode() + self._bindings[name]
        else:
            return Failed(f"channel binding {name} is not available")
        return None

    def _receive_final(self, text: str, keys: Keys) -> Step:
        message = _FINAL.fullmatch(text)
        if message is None:
            return malformed("not a final message")
        try:
            binding, proof = _bytes(message[1]), _bytes(message[4])
        except ValueError:
            return malformed("not base64")
        if binding != self._gs2:
            return Failed("channel binding differs", self._login)
        if message[2] != self._nonce or len(proof) != 32:
            return Failed("nonce or proof differs", self._login)
        signed = ",".join([self._first, self._server_first, text[: message.start(4) - 3]]).encode()
        signature = _hmac(keys.stored_key, signed)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        if not hmac.compare_digest(_sha256(client_key), keys.stored_key):
            return Failed("wrong password or unknown user", self._login)
        self._passed = True
        return Challenge(b"v=" + _base64(_hmac(keys.server_key, signed)).encode())


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    """Raises ValueError."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
