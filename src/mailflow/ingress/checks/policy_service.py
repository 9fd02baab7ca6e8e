"""A policy service: a server that speaks Postfix's policy delegation protocol, asked over TCP or a UNIX socket.

Connections are kept and each has one question at a time; when all are busy, a session waits its turn within the
time limit. A kept connection that the service has closed meanwhile is not its failure: the question is put once more,
on a new one. When there is no usable answer in time, the default action is taken and the log says so.

The language itself is in `delegation.py`. What a session does not know is told as an empty value, as Postfix does.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import cast

from mailflow.ingress.checks import delegation
from mailflow.ingress.checks.delegation import Answer, PolicyReplyError
from mailflow.ingress.checks.settings import PolicyServiceSettings, parse_service_address
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Situation

SWEEP_SECONDS = 10.0
"""How often idle connections are looked through, while there are any."""

STATES = {
    Stage.CONNECT: "CONNECT",
    Stage.HELO: "EHLO",
    Stage.MAIL: "MAIL",
    Stage.RCPT: "RCPT",
    Stage.DATA: "DATA",
    Stage.END: "END-OF-MESSAGE",
}


class _Connection(asyncio.Protocol):
    """One connection. What comes without having been asked for makes it useless: it could be taken for an answer."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.usable = False
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[str] | None = None

    def ask(self, question: bytes) -> asyncio.Future[str]:
        """The action. Raises PolicyReplyError, or EOFError when the service closed before it said a word."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None:
            self._answer.set_exception(EOFError())
        else:
            self._transport.write(question)
        return self._answer

    def close(self) -> None:
        """Closes at once; what is still to come is lost."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        answer = self._answer
        if answer is None or answer.done():
            self.close()
            return
        self._buffer += data
        try:
            action = delegation.parse_reply(self._buffer)
        except PolicyReplyError as error:
            answer.set_exception(error)
            return
        if action is not None:
            self._buffer = b""
            answer.set_result(action)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the loop."""
        self.usable, self._transport = False, None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(PolicyReplyError("the answer is cut off") if self._buffer else EOFError())


class PolicyService:
    """The check `check_policy_service`. Used in one event loop."""

    def __init__(self, settings: PolicyServiceSettings) -> None:
        self.name = settings.title
        self._settings = settings
        self._host, self._port = parse_service_address(settings.address)
        self._default = delegation.understand(settings.default_action, self.name)
        self._idle: list[_Connection] = []
        """The one used last comes last."""
        self._slots = asyncio.Semaphore(settings.connections)
        self._sweep: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<PolicyService {self.name} idle={len(self._idle)}>"

    async def consult(self, situation: Situation, stage: Stage) -> Answer:
        """What the service wants done, or the default when it does not answer. The client's name is waited for."""
        naming = situation.named()
        if naming is not None:
            await naming
        question = delegation.encode(attributes(situation, stage, self._settings.policy_context))
        try:
            async with asyncio.timeout(self._settings.time_limit), self._slots:
                answer = delegation.understand(await self._ask(question), self.name)
        except TimeoutError:
            answer = self._failed(situation, "no answer in time")
        except (OSError, EOFError) as error:
            answer = self._failed(situation, str(error) or "the connection was closed")
        except PolicyReplyError as error:
            answer = self._failed(situation, str(error))
        if answer.note:
            situation.event("policy", service=self.name, reason=answer.note)
        return answer

    def _failed(self, situation: Situation, why: str) -> Answer:
        situation.event("warning", level=30, service=self.name, reason=f"policy service: {why}")
        return self._default

    async def close(self) -> None:
        """Closes the connections that are kept."""
        if self._sweep is not None:
            self._sweep.cancel()
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def _ask(self, question: bytes) -> str:
        while self._idle:
            connection = self._idle.pop()
            if not connection.usable:
                connection.close()
                continue
            with suppress(EOFError):
                return await self._ask_on(connection, question)
            break  # it was closed while the question was on its way
        return await self._ask_on(await self._connect(), question)

    async def _ask_on(self, connection: _Connection, question: bytes) -> str:
        try:
            action = await connection.ask(question)
        except BaseException:  # also when the session gave up: what comes now would be taken for the next answer
            connection.close()
            raise
        self._keep(connection)
        return action

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        if self._port:
            return (await loop.create_connection(_Connection, self._host, self._port))[1]
        return (await loop.create_unix_connection(_Connection, self._host))[1]

    def _keep(self, connection: _Connection) -> None:
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        self._sweep_later()

    def _sweep_later(self) -> None:
        if self._sweep is None:
            seconds = min(SWEEP_SECONDS, self._settings.idle_timeout)
            self._sweep = asyncio.get_running_loop().call_later(seconds, self._close_idle)

    def _close_idle(self) -> None:
        self._sweep = None
        old = asyncio.get_running_loop().time() - self._settings.idle_timeout
        idle, self._idle = self._idle, []
        for connection in idle:
            if connection.usable and connection.idle_since > old:
                self._idle.append(connection)
            else:
                connection.close()
        if self._idle:
            self._sweep_later()


def attributes(situation: Situation, stage: Stage, context: str = "") -> list[tuple[str, str]]:
    """What the service is told, in the order of SMTPD_POLICY_README."""
    peer, state = situation.peer, STATES[stage]
    if stage is Stage.HELO and peer.protocol == "SMTP":
        state = "HELO"
    complete = stage in (Stage.DATA, Stage.END)
    version, cipher, bits = _encryption(peer.tls)
    return [
        ("protocol_state", state),
        ("protocol_name", "SMTP" if peer.protocol == "SMTP" else "ESMTP"),
        ("helo_name", peer.helo),
        ("queue_id", ""),
        ("sender", situation.sender or ""),
        (
            "recipient",
            situation.recipients[0].address if complete and len(situation.recipients) == 1 else situation.recipient,
        ),
        ("recipient_count", str(len(situation.recipients)) if complete else "0"),
        ("client_address", peer.address),
        ("client_name", peer.name or "unknown"),
        ("reverse_client_name", peer.name or peer.reverse or "unknown"),
        ("instance", situation.instance),
        ("sasl_method", ""),
        ("sasl_username", peer.login),
        ("sasl_sender", ""),
        ("size", str(situation.size)),
        ("ccert_subject", ""),
        ("ccert_issuer", ""),
        ("ccert_fingerprint", peer.certificate),
        ("encryption_protocol", version),
        ("encryption_cipher", cipher),
        ("encryption_keysize", bits),
        ("etrn_domain", ""),
        ("stress", ""),
        ("ccert_pubkey_fingerprint", ""),
        ("client_port", str(peer.port)),
        ("policy_context", context),
        ("server_address", ""),
        ("server_port", ""),
        ("compatibility_level", ""),
    ]


def _encryption(tls: str) -> tuple[str, str, str]:
    """Protocol, cipher and bits out of `Peer.tls`, "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"."""
    match = re.match(r"(\S+)(?: with cipher (\S+))?(?: \((\d+))?", tls)
    return (match[1], match[2] or "", match[3] or "") if match else ("", "", "")
