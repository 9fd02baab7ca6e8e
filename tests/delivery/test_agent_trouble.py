"""The SMTP agent with hosts that misbehave, at every stage; and closed at every stage: each delivery has its one end."""

import asyncio
import socket

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from mailflow.delivery.request import Stage, Trouble
from mailflow.delivery.trouble import SiteHealth, health, judge
from mailflow.envelope import ContentFile
from mailflow.report import Action
from mailflow.setting import Endpoint
from mailflow.smtp.reply import reply
from tests.delivery.host import CONTENT, CUT, QUICK, SILENT, VERBS, Host, Outbox, delivery, until

STAGES = dict(zip(VERBS, [Stage.BANNER, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DOT], strict=True))
AT_EVERY_STAGE = pytest.mark.parametrize("stage", VERBS)
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def facts_of(answer_at, answer, run=asyncio.run, **values):
    """The facts of one delivery to a host that gives `answer` at this stage, and that delivery."""

    async def main():
        def say(verb, _host):
            return answer if verb == answer_at or (verb == "HELO" and answer_at == "EHLO") else None

        async with Host(say) as host, Outbox(**values) as outbox:
            one = delivery(host.next_hop)
            await outbox.send(one)
            return one

    return run(main())


@LOOPS
@AT_EVERY_STAGE
def test_a_host_that_never_answers(stage, run):
    one = facts_of(stage, SILENT, run, **QUICK)
    fact = one.facts[0]
    assert (fact.stage, fact.trouble) == (STAGES[stage], Trouble.TIMEOUT)
    assert judge(fact).action is Action.DELAYED
    assert "timed out" in judge(fact).reason
    assert health(one) is (SiteHealth.DEAD if stage in ("GREETING", "EHLO") else SiteHealth.BUSY)


@LOOPS
@AT_EVERY_STAGE
def test_a_host_that_hangs_up(stage, run):
    fact = facts_of(stage, CUT, run).facts[0]
    assert (fact.stage, fact.trouble) == (STAGES[stage], Trouble.LOST)
    assert judge(fact).action is Action.DELAYED
    assert "lost connection" in judge(fact).reason


@AT_EVERY_STAGE
@pytest.mark.parametrize(
    "rubbish", [b"HTTP/1.1 400 Bad Request\r\n", b"\x00\xff" * 2000, b"250-" + b"x" * 5000, b"250-x\r\n" * 500]
)
def test_a_host_that_talks_rubbish(stage, rubbish):
    fact = facts_of(stage, rubbish, **QUICK).facts[0]
    assert (fact.stage, fact.trouble) == (STAGES[stage], Trouble.GARBAGE)
    assert judge(fact).action is Action.DELAYED


@AT_EVERY_STAGE
def test_421(stage):
    one = facts_of(stage, b"421 4.7.0 not now\r\n")
    assert one.facts[0].stage is STAGES[stage]
    assert judge(one.facts[0])[:2] == (Action.DELAYED, "4.7.0")
    assert health(one) is SiteHealth.BUSY


@AT_EVERY_STAGE
def test_4yz_stays(stage):
    one = facts_of(stage, b"451 4.3.0 trouble here\r\n")
    assert one.facts[0].stage is STAGES[stage]
    assert judge(one.facts[0])[:2] == (Action.DELAYED, "4.3.0")


@pytest.mark.parametrize("stage", ["EHLO", "MAIL", "RCPT", "DATA", "."])
def test_5yz_fails(stage):
    one = facts_of(stage, b"550 5.7.1 never\r\n")
    assert one.facts[0].stage is STAGES[stage]
    assert judge(one.facts[0])[:2] == (Action.FAILED, "5.7.1")


@pytest.mark.parametrize("stage", ["EHLO", "MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize(("code", "action"), [(500, Action.DELAYED), (504, Action.DELAYED), (550, Action.FAILED)])
def test_protocol_errors_may_be_taken_for_passing(stage, code, action):
    answer = f"{code} 5.5.1 what?\r\n".encode()
    one = facts_of(stage, answer, protocol_error_class="temporary")
    verdict = judge(one.facts[0])
    assert verdict.action is action
    assert verdict.status == ("4.5.1" if action is Action.DELAYED else "5.5.1")
    assert judge(facts_of(stage, answer).facts[0]).action is Action.FAILED


def test_a_5yz_greeting_is_about_now_and_521_is_not():
    assert judge(facts_of("GREETING", b"554 5.7.1 blocked\r\n").facts[0])[:2] == (Action.DELAYED, "4.7.1")
    assert judge(facts_of("GREETING", b"521 no mail here\r\n").facts[0])[:2] == (Action.FAILED, "5.3.2")


def test_nobody_listens():
    async def main():
        async with Host() as host:
            hop = host.next_hop
        async with Outbox() as outbox:
            one = delivery(hop)
            await outbox.send(one)
            assert (one.facts[0].stage, one.facts[0].trouble) == (Stage.CONNECT, Trouble.REFUSED)
            port = hop.partition("]:")[2]
            assert judge(one.facts[0]).reason == f"connect to 127.0.0.1[127.0.0.1]:{port}: connection refused"
            assert health(one) is SiteHealth.DEAD
            assert one.hosts == [one.facts[0].host]

    asyncio.run(main())


def test_helo_for_a_host_that_knows_no_ehlo():
    async def main():
        async with Host(lambda verb, _: b"502 what?\r\n" if verb == "EHLO" else None) as host, Outbox() as outbox:
            await outbox.send(delivery(host.next_hop))
            assert host.commands[:3] == ["EHLO me.example", "HELO me.example", "MAIL FROM:<a@b.example>"]
            assert len(host.messages) == 1

    asyncio.run(main())


def test_helo_for_a_host_that_hangs_up_at_ehlo():
    async def main():
        async with Host(lambda verb, _: CUT if verb == "EHLO" else None) as host, Outbox() as outbox:
            await outbox.send(delivery(host.next_hop))
            assert host.commands[:2] == ["EHLO me.example", "HELO me.example"]
            assert host.connections == 2
            assert len(host.messages) == 1

    asyncio.run(main())


def test_our_own_name_in_the_greeting_is_a_loop():
    async def main():
        def answer(verb, _host):
            return b"220 ME.example hi\r\n" if verb == "GREETING" else None

        async with Host(answer) as host, Outbox() as outbox:
            facts = await outbox.send(delivery(host.next_hop))
            assert facts[0].trouble is Trouble.LOOP
            assert judge(facts[0])[:2] == (Action.FAILED, "5.4.6")

    asyncio.run(main())


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
def test_our_own_listener_is_a_loop(listen):
    async def main():
        async with Host() as host, Outbox(own=lambda: [Endpoint(listen, host.port)]) as outbox:
            facts = await outbox.send(delivery(host.next_hop))
            assert facts[0].trouble is Trouble.LOOP
            assert host.connections == 0

    asyncio.run(main())


@LOOPS
@pytest.mark.parametrize("how", ["silent", "421"])
def test_a_kept_connection_that_the_host_has_closed_is_nobodys_failure(how, run):
    async def main():
        async with Host() as host, Outbox() as outbox:
            await outbox.send(*(delivery(host.next_hop) for _ in range(8)))
            await until(lambda: "tasks=0" in repr(outbox.agent))
            for writer in list(host.writers):
                if how == "421":
                    writer.write(b"421 4.4.2 idle too long\r\n")
                writer.close()
            # no turn of the loop between: the agent has not seen it yet
            second = delivery(host.next_hop)
            await outbox.send(second)
            assert judge(second.facts[0]).action is Action.RELAYED
            assert len(host.messages) == 9

    run(main())


@LOOPS
@pytest.mark.parametrize("what", [CUT, b"421 bye\r\n", b"rubbish\r\n"])
def test_a_connection_cut_under_the_message_in_front(what, run):
    """The first may have been taken and stays; the one behind it was not begun, and goes elsewhere: delivered once."""

    async def main():
        cut_at = "s3@b"

        def answer(verb, host):
            return what if verb == "." and host.messages[-1][0] == cut_at else None

        async with Host(answer) as host, Outbox(connections=1) as outbox:
            all_of_them = [delivery(host.next_hop, sender=f"s{n}@b", number=n) for n in range(8)]
            outbox.more = all_of_them[2:]
            await outbox.send(*all_of_them[:2])
            await until(lambda: len(outbox.done) == 8)
            actions = [judge(each.facts[0]).action for each in all_of_them]
            assert [n for n, action in enumerate(actions) if action is not Action.RELAYED] == [3]
            assert all_of_them[3].facts[0].stage is Stage.DOT
            senders = [sender for sender, _, _ in host.messages if sender != cut_at]
            assert sorted(senders) == [f"s{n}@b" for n in range(8) if n != 3]

    run(main())


@LOOPS
@AT_EVERY_STAGE
@pytest.mark.parametrize("count", [1, 30])
def test_closing_at_every_stage(stage, count, run):
    """`Outbox.__aexit__` checks the rest: one done each, no site, connection or task left."""

    async def main():
        reached = asyncio.Event()

        def answer(verb, _host):
            if verb == stage:
                reached.set()
                return SILENT
            return None

        async with Host(answer) as host, Outbox() as outbox:
            outbox.start(*(delivery(host.next_hop) for _ in range(count)))
            await asyncio.wait_for(reached.wait(), 5)
            await outbox.agent.close(0.01)
            assert len(outbox.done) == count
            ends = {(each.facts[0].stage, each.facts[0].trouble) for each in outbox.done}
            # what may have been taken is not called unattempted
            assert all(trouble is Trouble.UNATTEMPTED or at is Stage.DOT for at, trouble in ends)
            assert (stage == ".") == ((Stage.DOT, Trouble.LOST) in ends)

    run(main())


@pytest.mark.parametrize("end", ["lost", "closed", "hung up", "late"])
def test_the_last_word_of_a_host_counts_also_in_the_turn_of_the_end(end):
    """What was read waits for the loop to come round; a message that was taken must not be sent again."""

    async def main():
        async with Host(lambda verb, _: SILENT if verb == "." else None) as host, Outbox() as outbox:
            outbox.start(one := delivery(host.next_hop))
            await until(lambda: host.messages)
            (connection,) = outbox.agent._sweep
            connection.data_received(b"250 2.0.0 taken\r\n")
            assert not one.facts
            match end:
                case "lost":
                    connection.connection_lost(None)
                case "closed":
                    connection.eof_received()
                case "hung up":
                    connection.hang_up()
                case "late":
                    connection.check(connection.time() + 10_000)
            return one.facts

    (fact,) = asyncio.run(main())
    assert judge(fact).action is Action.RELAYED


def test_closing_before_the_first_connection_has_begun():
    async def main():
        async with Host() as host, Outbox() as outbox:
            outbox.start(*(delivery(host.next_hop) for _ in range(3)))
            await outbox.agent.close(0)
            assert [each.facts[0].trouble for each in outbox.done] == [Trouble.UNATTEMPTED] * 3

    asyncio.run(main())


def test_closing_lets_a_message_under_way_end():
    async def main():
        release = []

        async def let_go(host):
            await until(lambda: host.messages)
            for writer in host.writers:
                writer.write(b"250 2.0.0 taken\r\n")
            release.append(1)

        async with Host(lambda verb, _: SILENT if verb == "." else None) as host, Outbox() as outbox:
            one = delivery(host.next_hop)
            outbox.start(one)
            await until(lambda: host.messages)
            await asyncio.gather(outbox.agent.close(5), let_go(host))
            assert judge(one.facts[0]).action is Action.RELAYED

    asyncio.run(main())


def test_after_closing_nothing_is_begun():
    async def main():
        async with Host() as host, Outbox() as outbox:
            await outbox.agent.close(0)
            facts = await outbox.send(delivery(host.next_hop))
            assert facts[0].trouble is Trouble.UNATTEMPTED
            assert host.connections == 0

    asyncio.run(main())


class Slow(asyncio.Protocol):
    """Takes `step` bytes of a message at a time, then pauses; step 0 takes nothing. Everything accepted."""

    def __init__(self, size, step):
        self.size, self.step, self.replies = size, step, [b"250 x\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"]

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"220 x\r\n")

    def data_received(self, data):
        if self.replies:
            self.transport.write(self.replies.pop(0))
            if not self.replies and not self.step:
                self.transport.pause_reading()
            return
        self.size -= len(data)
        if self.size <= 0:
            self.transport.write(b"250 ok\r\n")
            return
        self.transport.pause_reading()
        asyncio.get_running_loop().call_later(0.005, self.transport.resume_reading)

    async def take(self, content, **values):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.bind(("127.0.0.1", 0))
        server = await asyncio.get_running_loop().create_server(lambda: self, sock=sock)
        async with Outbox(**values) as outbox:
            facts = await outbox.send(delivery(f"[127.0.0.1]:{sock.getsockname()[1]}", content=content))
        self.transport.abort()
        server.close()
        await server.wait_closed()
        return facts[0]


LARGE = (b"x" * 78 + b"\r\n") * 100_000


@pytest.fixture(params=["memory", "file"])
def large(request, tmp_path):
    if request.param == "memory":
        return LARGE
    path = tmp_path / "content"
    path.write_bytes(LARGE)
    return ContentFile(path, len(LARGE))


@LOOPS
def test_a_host_that_takes_a_large_message_a_little_at_a_time_has_time(run, large):
    """The limit is for a block, not for the whole message (RFC 5321 §4.5.3.2.5)."""
    fact = run(Slow(len(LARGE) + 3, 1).take(large, block_timeout=0.2, dot_timeout=5))
    assert judge(fact).action is Action.RELAYED


@LOOPS
def test_a_host_that_stops_taking_a_large_message_runs_out_of_time(run, large):
    fact = run(Slow(len(LARGE) + 3, 0).take(large, block_timeout=0.2, dot_timeout=5))
    assert fact.trouble is Trouble.TIMEOUT
    assert fact.stage is (Stage.DOT if isinstance(large, bytes) else Stage.BODY)


WORDS = st.sampled_from(
    [
        b"220 x\r\n",
        b"250-x\r\n250 PIPELINING\r\n",
        b"250 x\r\n",
        b"250 2.0.0 y\r\n",
        b"354 z\r\n",
        b"421 w\r\n",
        b"451 l\r\n",
        b"550 n\r\n",
    ]
) | st.binary(max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=16))
def test_whatever_a_host_says_each_delivery_ends_once(words):
    async def main():
        async def say(reader, writer):
            for word in words:
                writer.write(word)
                await reader.read(100)
            writer.transport.abort()

        server = await asyncio.start_server(say, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Outbox(connections=2, **QUICK) as outbox:
            await outbox.send(*(delivery(f"[127.0.0.1]:{port}", "x@y", "z@y") for _ in range(4)))
        server.close()

    asyncio.run(main())


def test_the_reply_of_a_host_is_safe_to_show():
    one = facts_of("RCPT", b"550 5.1.1 \x1b[2Jgone\x00\xff\r\n")
    assert one.facts[0].reply == reply(550, "5.1.1", " [2Jgone \\xff")
    assert CONTENT.isascii()


@LOOPS
@pytest.mark.parametrize("turns", range(6))
def test_closing_ends_while_a_connection_is_being_made(run, turns):
    """Whichever turn of the loop it falls on: uvloop says no connection_lost of a socket whose making was cancelled."""

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            outbox = Outbox(**QUICK)
            outbox.start(delivery(f"[127.0.0.1]:{listener.getsockname()[1]}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await outbox.agent.close(0.1)

    run(main())
