"""Who the client of a session is: its record (`Peer`), from the address by PTR, HELO, TLS and AUTH to what a proxy tells.

`Identified` is the part of a session that knows. The record is one frozen object, the same for all messages of the
session until something changes it (`identify`); with it changes whether the client may send anywhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mailflow.envelope import Peer
from mailflow.ingress.auth.exchange import Exchange
from mailflow.ingress.desk import Desk, Wire
from mailflow.ingress.naming import Named
from mailflow.smtp.handler import Answer
from mailflow.smtp.profile import Profile
from mailflow.smtp.replies import AUTH_UNAVAILABLE, HELLO, START_TLS, TLS_UNAVAILABLE, WELCOME
from mailflow.smtp.reply import Reply

_PROTOCOLS = {"HELO": "SMTP", "EHLO": "ESMTP", "LHLO": "LMTP"}


def protocol_word(peer: Peer) -> str:
    """The `with` word of Received: for this client (RFC 3848), from what it said first: EHLO, LHLO or HELO.

    There is no word for HELO with TLS or a login.
    """
    word = peer.protocol.rstrip("SA")
    if word not in ("ESMTP", "LMTP"):
        return peer.protocol
    return word + ("S" if peer.tls else "") + ("A" if peer.login else "")


class Identified(Named):
    """A session, as far as it knows its client and talks to its connection."""

    __slots__ = ("_desk", "_exchange", "_peer", "_port", "_wire")

    def __init__(self, desk: Desk, wire: Wire, address: str, port: int) -> None:
        super().__init__(desk.panel)
        self._serve(desk.services, address)
        self._desk = desk
        self._wire: Wire | None = wire
        self.address = address
        self._port = port
        self._peer: Peer | None = None
        """Made at EHLO, when there is something to know about the client."""
        self.trusted = desk.relay.trusts(address)
        """Whether this client may send anywhere."""
        self._naming = None
        self._exchange: Exchange | None = None
        """The AUTH command under way."""

    @property
    def peer(self) -> Peer:
        """The client's record as it is now."""
        return self._peer or Peer(self.address, self._port, protocol="SMTP")

    @property
    def client(self) -> str:
        """The client as the log shows it."""
        if self._peer:
            return str(self._peer)
        return f"unknown[{self.address}]" if self.address else "unix"

    @property
    def service(self) -> str:
        """The name of the listener."""
        return self._desk.service

    def identify(self, **changes: Any) -> None:
        """Changes the client's record: what TLS, AUTH, DNS or a proxy have told; the fields are those of `Peer`."""
        if "address" in changes:  # what was known of another host's name is void
            changes = {"name": "", "reverse": "", **changes}
        if "name" in changes:
            self._forget_naming()
        if "tls" in changes:
            self._forwarded = None  # it was said in the clear (RFC 3207 §4.2)
        peer = replace(self.peer, **changes)
        word = protocol_word(peer)
        self._peer = peer if word == peer.protocol else replace(peer, protocol=word)
        self.address = peer.address
        self.trusted = self._desk.relay.admits(peer)
        if "address" in changes and not changes["name"]:
            self._find_name()

    # The core's questions

    def connect(self) -> Answer:
        """Lets the client in, unless a guard minds."""
        self._find_name()
        questions = self._panel.connect
        return self._ask(questions, self._welcome) if questions else WELCOME

    def _welcome(self) -> Answer:
        return WELCOME

    def hello(self, verb: str, name: str) -> Answer:
        """Notes the client's name."""
        old = self._peer
        protocol = _PROTOCOLS[verb]
        if old is None:
            self._peer = Peer(self.address, self._port, "", name, protocol)
        elif old.tls or old.login:
            peer = replace(old, helo=name, protocol=protocol)
            self._peer = replace(peer, protocol=protocol_word(peer))
        elif name != old.helo or protocol != old.protocol:
            self._peer = replace(old, helo=name, protocol=protocol)
        questions = self._panel.helo
        return self._ask(questions, self._greet) if questions else HELLO

    def _greet(self) -> Answer:
        return HELLO

    def starttls(self) -> Answer:
        """Asked only where the listener's profile has TLS."""
        return START_TLS if self._wire is not None and self._wire.upgrade() else TLS_UNAVAILABLE

    def auth(self, mechanism: str, initial: bytes | None) -> Answer:
        """Asked only where the listener's profile offers mechanisms."""
        authenticator = self._desk.auth
        if authenticator is None:
            return AUTH_UNAVAILABLE
        self._exchange = exchange = Exchange(authenticator, self, mechanism)
        return exchange.begin(initial)

    def auth_response(self, data: bytes) -> Answer:
        """The client's answer to a challenge."""
        return self._exchange.respond(data) if self._exchange is not None else AUTH_UNAVAILABLE

    def auth_cancelled(self) -> None:
        """The exchange came to nothing."""
        self._exchange = None

    def bindings(self) -> dict[str, bytes]:
        """The connection's channel bindings by name (RFC 5056)."""
        found = None if self._wire is None else self._wire.get_extra_info("channel_bindings")
        return found or {}

    def profile(self, now: Profile) -> Profile:
        """The profile for the client as it is known now."""
        find = self._desk.profile
        profile = find(self) if find is not None else now
        return profile.secured if self.peer.tls and profile.secured is not None else profile

    # For the connection

    def slow_down(self, seconds: float) -> None:
        """Nothing more is read from the client for so long."""
        if self._wire is not None:
            self._wire.slow_down(seconds)

    def drop(self) -> None:
        """The connection is closed without a word."""
        if self._wire is not None:
            self._wire.cut()

    def _decided(self, answer: Reply) -> None:
        if self._wire is not None:
            self._wire.answer(answer)
