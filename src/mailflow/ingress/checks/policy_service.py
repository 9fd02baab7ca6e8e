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

from mailflow.ingress.checks import delegation
from mailflow.ingress.checks.delegation import Answer, PolicyReplyError
from mailflow.ingress.checks.settings import PolicyServiceSettings, parse_service_address
from mailflow.ingress.verdict import Situation, Stage

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


class _Connection:
    """One connection, with the stream's two ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())

    async def ask(self, question: bytes) -> str:
        """The action. Raises PolicyReplyError, OSError, EOFError when the service has closed before it said a word."""
        self.writer.write(question)
        await self.writer.drain()
        buffer = b""
        while (action := delegation.parse_reply(buffer)) is None:
            data = await self.reader.read(delegation.REPLY_LIMIT)
            if not data:
                if buffer:
                    raise PolicyReplyError("the answer is cut off")
                raise EOFError
            buffer += data
        return action

    def close(self) -> None:
        self.writer.transport.abort()


class PolicyService:
    """The check `check_policy_service`. Used in one event loop."""

    def __init__(self, settings: PolicyServiceSettings) -> None:
        self.name = settings.name or settings.address
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
        """What the service wants done, or the default when it does not answer."""
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
            with suppress(EOFError, ConnectionError):
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
        if self._port:
            return _Connection(*await asyncio.open_connection(self._host, self._port))
        return _Connection(*await asyncio.open_unix_connection(self._host))

    def _keep(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(min(SWEEP_SECONDS, self._settings.idle_timeout), self._close_idle)

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        old = loop.time() - self._settings.idle_timeout
        kept = [connection for connection in self._idle if connection.usable and connection.idle_since > old]
        for connection in self._idle:
            if connection not in kept:
                connection.close()
        self._idle = kept
        self._sweep = (
            loop.call_later(min(SWEEP_SECONDS, self._settings.idle_timeout), self._close_idle) if kept else None
        )


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
