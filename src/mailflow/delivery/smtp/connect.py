"""The slow path: makes a connection to one of the hosts of a next hop, ready for a message.

Hosts are tried in the order that `hosts.py` gives, until one is ready or the facts say that no other will do better. Each
host that was contacted is recorded. A host that hangs up at EHLO is tried again with HELO (RFC 5321 §3.2
falls back at a 5yz reply, which the client core does itself; some old hosts just close).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import cast

from mailflow.delivery.request import Fact, Stage, Trouble
from mailflow.delivery.settings import SmtpSettings
from mailflow.delivery.smtp.connection import Connection, Owner
from mailflow.delivery.smtp.hosts import Host, HostFinder, NoHost
from mailflow.delivery.smtp.job import fact_of
from mailflow.delivery.smtp.timers import Sweep
from mailflow.delivery.trouble import judge, next_host
from mailflow.errors import MailflowError
from mailflow.net.sockets import ConnectError, ConnectKind, connect
from mailflow.net.turn import Turn
from mailflow.report import Action, HostAttempt
from mailflow.setting import Endpoint
from mailflow.smtp.reply import Reply
from mailflow.smtp.transaction import End, Step

_TROUBLE = {
    ConnectKind.REFUSED: Trouble.REFUSED,
    ConnectKind.UNREACHABLE: Trouble.UNREACHABLE,
    ConnectKind.TIMEOUT: Trouble.TIMEOUT,
}


class NoConnection(MailflowError):
    """No host is ready for a message: the fact that tells why, and all hosts contacted."""

    def __init__(self, fact: Fact, attempts: list[HostAttempt]) -> None:
        self.fact = fact
        self.attempts = attempts
        super().__init__("no connection")


class Connector:
    """Makes connections; one for the whole agent."""

    __slots__ = ("_finder", "_hostname", "_name", "_now", "_settings", "_sweep", "_turn")

    def __init__(
        self, settings: SmtpSettings, finder: HostFinder, hostname: str, sweep: Sweep, now: Callable[[], float]
    ) -> None:
        """`now` gives wall-clock time, for the records."""
        self._settings = settings
        self._finder = finder
        self._hostname = hostname.lower()
        self._name = settings.helo or hostname
        self._sweep = sweep
        self._turn = Turn()
        self._now = now

    async def open(self, next_hop: Endpoint, owner: Owner, without: Collection[str] = ()) -> tuple[Connection, int]:
        """A connection that is ready, and how many addresses the next hop has. `without`: keys of hosts not to try.

        Raises `NoConnection`.
        """
        try:
            hosts = await self._finder.candidates(next_hop)
        except NoHost as error:
            raise NoConnection(error.fact, []) from None
        facts: list[Fact] = []
        for host in hosts:
            if host.key in without:
                continue
            found = await self._try(host, owner)
            if isinstance(found, Connection):
                found.history = [fact.host for fact in facts if fact.host is not None]
                return found, len(hosts)
            facts.append(found)
            if not next_host(found):
                break
        raise NoConnection(_most_telling(facts), [fact.host for fact in facts if fact.host is not None])

    async def _try(self, host: Host, owner: Owner) -> Connection | Fact:
        """A connection to this address that is ready for a message, or why there is none."""
        began = asyncio.get_running_loop().time()
        result = await self._converse(host, owner, began, esmtp=True)
        if isinstance(result, Fact) and result.stage is Stage.EHLO and result.trouble is Trouble.LOST:
            result = await self._converse(host, owner, began, esmtp=False)
        return result

    async def _converse(self, host: Host, owner: Owner, began: float, *, esmtp: bool) -> Connection | Fact:
        connection = Connection(host, self._name, self._settings, owner, self._sweep, self._turn, esmtp=esmtp)
        try:
            await connect(
                lambda: cast("asyncio.Protocol", connection), host.address, host.port, self._settings.connect_timeout
            )
            await connection.ready
        except ConnectError as error:
            record = self._record(host, error.kind.value, began)
            return Fact(Stage.CONNECT, None, _TROUBLE[error.kind], record)
        except BaseException:
            connection.give_up()
            raise
        client = connection.client
        if connection.is_gone:
            return self.why_gone(connection, began)
        if client.greeting is not None and _names(client.greeting, self._hostname):
            connection.quit()
            return Fact(Stage.BANNER, None, Trouble.LOOP, self._record(host, client.greeting.text, began))
        return connection

    def why_gone(self, connection: Connection, began: float) -> Fact:
        """The fact about a connection that ended before any message was on it. `began`: loop time."""
        client, host = connection.client, connection.host
        reply = client.last if client.end is End.REPLY else None
        words = reply.text if reply is not None else (client.end or End.LOST).value
        step = client.ended_at if client.ended_at is not None else Step.EHLO
        soft = self._settings.protocol_error_class == "temporary"
        return fact_of((step, reply, client.end), self._record(host, words, began), soft=soft)

    def _record(self, host: Host, words: str, began: float) -> HostAttempt:
        seconds = asyncio.get_running_loop().time() - began
        return HostAttempt(host.name, host.address, host.port, words, self._now(), seconds)


def _names(greeting: Reply, hostname: str) -> bool:
    """Whether the host greets with our own name (RFC 5321 §4.3.1: the name is the first word)."""
    return greeting.lines[0].split(" ")[0].lower() == hostname


def _most_telling(facts: list[Fact]) -> Fact:
    """The last fact that leaves hope, else the last: one host that may answer later is reason to come again."""
    for fact in reversed(facts):
        if judge(fact).action is Action.DELAYED:
            return fact
    return facts[-1] if facts else Fact(Stage.CONNECT, None, Trouble.UNATTEMPTED)
