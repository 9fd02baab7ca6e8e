"""A policy service against a server: connections, time limits, and what happens when it is not there or talks nonsense."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mailflow.ingress.checks.delegation import Answer
from mailflow.ingress.checks.policy_service import PolicyService
from mailflow.ingress.checks.settings import PolicyServiceSettings
from mailflow.ingress.stage import Stage
from tests.checks.fakes import FakeSituation, in_loop
from tests.checks.policy_server import CLOSE, SILENT, PolicyServer

DEFAULT = "451 4.3.5 Server configuration problem"


@asynccontextmanager
async def service(server: PolicyServer, **settings):
    it = PolicyService(PolicyServiceSettings(address=server.address, **settings))
    try:
        yield it
    finally:
        await it.close()


async def consult(it: PolicyService, situation: FakeSituation | None = None) -> str:
    """The reply's text; "" for none."""
    answer = await it.consult(situation or FakeSituation(), Stage.RCPT)
    return answer.verdict.reply.text if answer.verdict else ""


async def until_it_answers(it: PolicyService) -> str:
    """Asks until the answer is not the default: a time limit may be short for a busy machine."""
    async with asyncio.timeout(10):
        while (found := await consult(it)) == DEFAULT:
            pass
    return found


@pytest.mark.parametrize("unix", [False, True])
@in_loop
async def test_questions_and_answers_on_one_connection(unix, tmp_path):
    def say(request):
        return b"action=REJECT not %s\n\n" % request["sender"].encode()

    async with PolicyServer(say, tmp_path / "s" if unix else None) as server, service(server) as it:
        for name in ("a", "b", "c"):
            assert await consult(it, FakeSituation(sender=name)) == f"554 5.7.1 not {name}"
        assert server.connections == 1
        assert server.requests[0]["request"] == "smtpd_access_policy"
        assert server.requests[0]["recipient"] == "alice@example.test"


@in_loop
async def test_no_more_connections_than_allowed():
    async with PolicyServer() as server, service(server, connections=3) as it:
        await asyncio.gather(*(consult(it) for _ in range(30)))
        assert len(server.requests) == 30
        assert server.connections == 3


@in_loop
async def test_a_connection_that_was_closed_meanwhile_is_opened_again():
    async with PolicyServer() as server, service(server) as it:
        situation = FakeSituation()
        await consult(it)
        server.drop()
        await server.until(lambda: not server.open)
        assert await consult(it, situation) == ""
        assert not situation.events


@in_loop
async def test_a_question_is_put_again_when_a_kept_connection_closes_on_it():
    answers = [b"action=DUNNO\n\n", CLOSE, b"action=REJECT second\n\n"]
    async with PolicyServer(lambda _request: answers.pop(0)) as server, service(server) as it:
        await consult(it)
        assert await consult(it) == "554 5.7.1 second"
        assert server.connections == 2


@in_loop
async def test_but_not_more_often():
    async with PolicyServer(lambda _request: CLOSE) as server, service(server) as it:
        situation = FakeSituation()
        assert await consult(it, situation) == DEFAULT
        assert len(server.requests) == 1
        assert situation.events[0][0] == "warning"


@pytest.mark.parametrize(
    "answer",
    [SILENT, b"nonsense\n\n", b"action=NO_SUCH_THING\n\n", b"\n", b"x" * 9000, b"action=OK\n\naction=OK\n\n"],
    ids=["silent", "no action", "unknown action", "empty", "too long", "two answers"],
)
@in_loop
async def test_no_usable_answer_is_the_default_action(answer):
    limit = "100ms" if answer is SILENT else "30s"
    async with PolicyServer(lambda _request: answer) as server, service(server, time_limit=limit) as it:
        situation = FakeSituation()
        assert await consult(it, situation) == DEFAULT
        ((name, fields),) = situation.events
        assert name == "warning"
        assert fields["service"] == server.address
        # what comes late must not be taken for the next answer
        server.say = lambda _request: b"action=REJECT second\n\n"
        assert await until_it_answers(it) == "554 5.7.1 second"


@in_loop
async def test_a_service_that_is_not_there():
    async with PolicyServer() as server:
        pass
    async with service(server) as it:
        assert await consult(it) == DEFAULT
    async with service(server, default_action="DUNNO") as it:
        assert await it.consult(FakeSituation(), Stage.RCPT) == Answer()


@in_loop
async def test_what_nobody_asked_for_is_not_taken_for_an_answer():
    async with PolicyServer() as server, service(server) as it:
        await consult(it)
        [writer] = server.open
        writer.write(b"action=REJECT surprise\n\n")
        await server.until(lambda: not server.open)
        assert await consult(it) == ""
        assert server.connections == 2


@in_loop
async def test_an_answer_may_come_in_pieces():
    async with PolicyServer(lambda _request: SILENT) as server, service(server) as it:
        task = asyncio.ensure_future(consult(it))
        await server.until(lambda: len(server.requests) == 1)
        [connection] = server.open
        for byte in b"action=REJECT slow\n\n":
            connection.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await task == "554 5.7.1 slow"


@in_loop
async def test_an_answer_that_is_cut_off():
    async with PolicyServer(lambda _request: SILENT) as server, service(server) as it:
        situation = FakeSituation()
        task = asyncio.ensure_future(consult(it, situation))
        await server.until(lambda: len(server.requests) == 1)
        [connection] = server.open
        connection.write(b"action=REJ")
        connection.close()
        assert await task == DEFAULT
        assert "cut off" in str(situation.events)


@in_loop
async def test_waiting_for_a_connection_is_within_the_time_limit():
    async with (
        PolicyServer(lambda _request: SILENT) as server,
        service(server, connections=1, time_limit="100ms") as it,
    ):
        assert await asyncio.gather(*(consult(it) for _ in range(20))) == [DEFAULT] * 20
        assert len(server.requests) < 10  # the others gave up while they waited, or each would have had its turn
        server.say = lambda _request: b"action=DUNNO\n\n"
        assert await until_it_answers(it) == ""  # and the place is free again


@in_loop
async def test_a_session_that_ends_takes_its_connection_along():
    async with PolicyServer(lambda _request: SILENT) as server, service(server, connections=1) as it:
        task = asyncio.ensure_future(consult(it))
        await server.until(lambda: len(server.requests) == 1)
        task.cancel()
        await asyncio.wait({task})
        server.say = lambda _request: b"action=REJECT second\n\n"
        assert await consult(it) == "554 5.7.1 second"
        assert server.connections == 2


@in_loop
async def test_idle_connections_are_closed():
    async with PolicyServer() as server, service(server, idle_timeout="20ms") as it:
        await consult(it)
        await server.until(lambda: not server.open)
        assert it._sweep is None or it._idle == []


@in_loop
async def test_the_client_s_name_is_waited_for():
    async with PolicyServer() as server, service(server) as it:
        situation = FakeSituation()

        async def look_up():
            situation.peer = replace(situation.peer, name="mail.client.example")

        situation.naming = look_up()
        await consult(it, situation)
        assert server.requests[0]["client_name"] == "mail.client.example"


@in_loop
async def test_what_is_noted_reaches_the_log():
    async with PolicyServer(lambda _request: b"action=WARN odd\x1b\n\n") as server, service(server, name="svc") as it:
        situation = FakeSituation()
        assert await consult(it, situation) == ""
        assert situation.events == [("policy", {"service": "svc", "reason": "odd?"})]


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "inet:127.0.0.1", "inet:127.0.0.1:0", "inet:127.0.0.1:70000", "unix:relative", "tcp:x:1"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(ValueError, match=r'accepted: "inet:'):
        PolicyServiceSettings(address=address)


def test_ipv6_addresses():
    assert (PolicyService(PolicyServiceSettings(address="inet:[::1]:10023"))._host) == "::1"


def test_a_default_action_that_is_none_is_an_error_of_the_configuration():
    with pytest.raises(ValueError, match="default_action"):
        PolicyServiceSettings(address="inet:127.0.0.1:1", default_action="whatever")
