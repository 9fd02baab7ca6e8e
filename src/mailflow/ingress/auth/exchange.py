"""One AUTH command of one session, from its first word to 235 or 535 (RFC 4954).

Made when a client says AUTH, and forgotten when the exchange ends. The mechanism (`smtp/sasl.py`) says what comes next; here its
questions go to the `Authenticator`, and its end becomes a reply, a log line, and a count for the locks. What must wait runs in
the session's one task; it ends with the connection.

Invariants: a wrong password, an unknown user, a disabled one and a refused token hear the same words after the same work.
Neither passwords nor tokens are kept beyond their question, and none is ever logged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

from mailflow.envelope import Peer
from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.auth.backend import Attempt, Unavailable
from mailflow.smtp import replies
from mailflow.smtp.handler import Answer
from mailflow.smtp.reply import Reply, reply
from mailflow.smtp.sasl import Challenge, Failed, Lookup, Passed, Password, Step, Token
from mailflow.smtp.scram import Scram

LOCKED = reply(454, "4.7.0", "Too many failed logins, try again later")
MALFORMED = reply(501, "5.5.2", "Malformed authentication response")


class Client(Protocol):
    """The session, as an exchange sees it."""

    @property
    def peer(self) -> Peer: ...

    def identify(self, **changes: Any) -> None:
        """Changes the client's record."""
        ...

    def bindings(self) -> Mapping[str, bytes]:
        """The connection's channel bindings by name."""
        ...

    def later(self, work: Callable[[], Awaitable[Reply]], failed: Reply) -> Answer:
        """Runs `work` and answers with its reply; with `failed` when it raises or takes too long."""
        ...

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        """Logs an event with the session's client."""
        ...


class Exchange:
    """One exchange."""

    __slots__ = ("_auth", "_client", "_known_as", "_login", "_mechanism", "_name")

    def __init__(self, auth: Authenticator, client: Client, mechanism: str) -> None:
        """`mechanism` is the name of one that is offered."""
        self._auth = auth
        self._client = client
        self._name = mechanism
        self._mechanism = auth.mechanism(mechanism, client.bindings())
        self._login = ""
        """As the client gave it."""
        self._known_as = ""
        """As the back end has it; SCRAM asks for that before the proof."""

    def begin(self, initial: bytes | None) -> Answer:
        """The client's first response, or None when it waits for a challenge."""
        left = self._left()
        if left:
            return self._locked(left)
        if initial is None:
            return replies.challenge(self._mechanism.prompt)
        return self.respond(initial)

    def respond(self, data: bytes) -> Answer:
        """The client's answer to a challenge."""
        left = self._left()  # others may have failed meanwhile: many sessions at once are not many more guesses
        if left:
            return self._locked(left)
        step = self._mechanism.respond(data)
        match step:
            case Challenge(challenge):
                return replies.challenge(challenge)
            case Passed():
                return self._passed(self._known_as)
            case Failed(malformed=True):
                self._note("failed", reason=step.why)
                return MALFORMED
        self._login = step.login
        left = self._left()
        if left:
            return self._locked(left)
        return self._client.later(partial(self._ask, step), replies.AUTH_UNAVAILABLE)

    async def _ask(self, step: Step) -> Reply:
        """Answers a question of the mechanism."""
        try:
            return await self._answered(step)
        except Unavailable as error:
            self._note("unavailable", level=40, reason=str(error))
            return replies.AUTH_UNAVAILABLE

    async def _answered(self, step: Step) -> Reply:
        auth, peer = self._auth, self._client.peer
        known_as: str | None = None
        match step:
            case Lookup(login) if isinstance(self._mechanism, Scram):
                self._known_as, keys = await auth.keys(login)
                step = self._mechanism.keys(keys)
            case Password(login, password):
                known_as = await auth.password(Attempt(login, password, peer.address, bool(peer.tls)))
                step = self._mechanism.denied(login)
            case Token(login, token):
                known_as = await auth.token(login, token)
                step = self._mechanism.denied(login)
        left = self._left()
        if left:  # the same words for right and wrong
            return self._locked(left)
        if known_as is not None:
            return self._passed(known_as)
        if isinstance(step, Challenge):
            return replies.challenge(step.data)
        return await self._failed(step)

    def _passed(self, login: str) -> Reply:
        client = self._client
        self._auth.passed(client.peer.address, self._login or login)
        client.identify(login=login)
        self._note("ok", login=login)
        return replies.AUTH_OK

    async def _failed(self, step: Step) -> Reply:
        """Counts it, and lets the client wait for the bad news."""
        auth, client = self._auth, self._client
        auth.failed(client.peer.address, self._login)
        self._note("failed", reason=step.why if isinstance(step, Failed) else "")
        await auth.sleep(auth.settings.failure_delay)
        return replies.AUTH_FAILED

    def _left(self) -> float:
        return self._auth.locked(self._client.peer.address, self._login)

    def _locked(self, seconds: float) -> Reply:
        self._note("locked", reason=f"locked for another {seconds:.0f} s after failed logins")
        return LOCKED

    def _note(self, status: str, *, level: int = 20, **fields: object) -> None:
        about: dict[str, object] = {"mechanism": self._name, "status": status}
        if self._login:
            about["login"] = self._login
        self._client.event("login", level=level, **(about | fields))
