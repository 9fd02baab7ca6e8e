"""The SMTP agent with hosts that behave: connections reused and shared, parameters, large contents, real peers."""

import asyncio

import pytest
import uvloop
from aiosmtpd.smtp import SMTP

from mailflow.delivery.request import Stage, Trouble
from mailflow.delivery.smtp.site import PATIENCE, worth_opening
from mailflow.delivery.trouble import SiteHealth, health, judge
from mailflow.envelope import ContentFile, Options
from mailflow.report import Action
from tests.delivery.host import CONTENT, SILENT, Host, Outbox, delivery, until

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@LOOPS
@pytest.mark.wish(26)
def test_a_message_is_delivered(run):
    async def main():
        async with Host() as host, Outbox() as outbox:
            one = delivery(host.next_hop)
            facts = await outbox.send(one)
            assert host.messages == [("a@b.example", ["x@y.example"], CONTENT)]
            assert facts[0].stage is Stage.DOT
            assert facts[0].reply.text == "250 2.0.0 taken"
            assert facts[0].host.relay == f"127.0.0.1[127.0.0.1]:{host.port}"
            assert facts[0].host.reply == "250 2.0.0 taken"
            assert facts[0].host.at == 1000.0
            assert one.hosts == [facts[0].host]
            assert one.connected >= one.started
            assert judge(facts[0]).action is Action.RELAYED
            assert health(one) is SiteHealth.GOOD

    run(main())


@LOOPS
def test_a_connection_is_kept_for_the_next_message_and_closed_with_quit(run):
    async def main():
        async with Host() as host, Outbox(idle=0.05) as outbox:
            for _ in range(3):
                await outbox.send(delivery(host.next_hop))
            assert host.connections == 1
            await until(lambda: host.commands[-1] == "QUIT" and not host.open)
            await until(lambda: "sites=0 connections=0 idle=0" in repr(outbox.agent))

    run(main())


@LOOPS
def test_an_idle_connection_is_written_to_at_once(run):
    async def main():
        async with Host() as host, Outbox() as outbox:
            await outbox.send(delivery(host.next_hop))
            one = delivery(host.next_hop)
            outbox.start(one)
            assert "idle=0" in repr(outbox.agent)
            assert "tasks=0" in repr(outbox.agent)
            await outbox.all()

    run(main())


@LOOPS
def test_a_host_that_pipelines_gets_the_next_envelope_behind_the_body_in_one_write(run):
    async def main():
        async with Host() as host, Outbox(connections=1) as outbox:
            outbox.more = [delivery(host.next_hop, sender=f"s{n}@b") for n in range(10)]
            await outbox.send(delivery(host.next_hop), delivery(host.next_hop))
            assert host.connections == 1
            assert len(host.messages) == 12
            joined = [r for r in host.reads if r.startswith(CONTENT + b".\r\nMAIL FROM:") and r.endswith(b"DATA\r\n")]
            assert len(joined) >= 8

    run(main())


@LOOPS
def test_a_delivery_started_from_inside_done_joins_the_write(run):
    async def main():
        async with Host() as host, Outbox(connections=1) as outbox:
            outbox.more = [delivery(host.next_hop) for _ in range(5)]
            await outbox.send(delivery(host.next_hop))
            assert len(host.messages) == 6
            # EHLO, then envelope and body for each message
            assert len(host.reads) == 1 + 2 * 6

    run(main())


@LOOPS
def test_without_pipelining_one_command_at_a_time(run):
    async def main():
        def answer(verb, _host):
            return b"250 plain.example\r\n" if verb == "EHLO" else None

        async with Host(answer) as host, Outbox(connections=1) as outbox:
            await outbox.send(*(delivery(host.next_hop, "x@y", "z@y") for _ in range(3)))
            assert len(host.messages) == 3
            assert all(read.count(b"\r\n") == 1 for read in host.reads if read[:4] in (b"MAIL", b"RCPT", b"DATA"))
            assert len([read for read in host.reads if read.startswith(b"RCPT")]) == 6

    run(main())


@LOOPS
def test_byte_by_byte(run):
    async def main():
        async with Host(bytewise=True) as host, Outbox(connections=2) as outbox:
            await outbox.send(*(delivery(host.next_hop) for _ in range(6)))
            assert len(host.messages) == 6
            assert all(judge(each.facts[0]).action is Action.RELAYED for each in outbox.done)

    run(main())


def test_connections_to_one_destination_are_bounded_and_never_more_than_the_work_needs():
    async def main():
        async with Host() as host, Outbox(connections=8) as outbox:
            most = 0
            outbox.start(*(delivery(host.next_hop, number=n) for n in range(300)))
            while len(outbox.done) < 300:
                most = max(most, host.open)
                await asyncio.sleep(0)
            assert 1 <= most <= 8
            assert len(host.messages) == 300

    asyncio.run(main())


def test_a_host_that_has_not_proven_itself_gets_three_quarters_of_the_connections():
    async def main():
        waiting = asyncio.Event()

        def answer(verb, _host):
            return SILENT if verb == "." and not waiting.is_set() else None

        async with Host(answer) as host, Outbox(connections=4) as outbox:
            outbox.start(*(delivery(host.next_hop) for _ in range(20)))
            await until(lambda: len(host.messages) == 3)
            assert host.connections == 3
            waiting.set()
            host.cut()
            await outbox.all()

    asyncio.run(main())


def test_a_slow_host_gets_all_its_connections_once_somebody_has_waited():
    async def main():
        slow = []

        def answer(verb, _host):
            return SILENT if verb == "." and slow else None

        async with Host(answer) as host, Outbox(connections=8) as outbox:
            await outbox.send(delivery(host.next_hop))
            slow.append(True)
            began = asyncio.get_running_loop().time()
            outbox.start(*(delivery(host.next_hop) for _ in range(20)))
            await until(lambda: host.open == 8)
            assert asyncio.get_running_loop().time() - began >= PATIENCE
            assert host.connections == 8
            slow.clear()
            host.cut()
            await outbox.all()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("waiting", "opening", "connections", "allowed", "number"),
    [(20, 0, 0, 5, 5), (20, 2, 2, 5, 1), (20, 0, 5, 5, 0), (20, 0, 5, 20, 10), (60, 1, 5, 20, 14)],
)
def test_how_many_connections_are_worth_opening(waiting, opening, connections, allowed, number):
    assert worth_opening(waiting, opening, connections, allowed, depth=2) == number


def test_a_connection_has_its_number_of_messages():
    async def main():
        async with Host() as host, Outbox(messages_per_connection=2) as outbox:
            for _ in range(5):
                await outbox.send(delivery(host.next_hop))
            assert host.connections == 3
            assert host.commands.count("QUIT") == 2

    asyncio.run(main())


def test_idle_connections_are_bounded():
    async def main():
        async with Host() as one, Host(address="127.0.0.2") as two, Outbox(idle_connections=1) as outbox:
            await outbox.send(delivery(one.next_hop), delivery(two.next_hop))
            await until(lambda: one.open + two.open == 1)

    asyncio.run(main())


def test_each_recipient_has_its_own_answer():
    async def main():
        def answer(verb, host):
            if verb != "RCPT":
                return None
            return {"no": b"550 5.1.1 No such user\r\n", "la": b"450 4.2.1 later\r\n"}.get(host.commands[-1][9:11])

        async with Host(answer) as host, Outbox() as outbox:
            one = delivery(host.next_hop, "yes@y", "no@y", "later@y", "yes2@y")
            facts = await outbox.send(one)
            assert [judge(fact).action for fact in facts] == [
                Action.RELAYED,
                Action.FAILED,
                Action.DELAYED,
                Action.RELAYED,
            ]
            relay = facts[1].host.relay
            assert judge(facts[1]).reason == f"host {relay} said: 550 5.1.1 No such user (in reply to RCPT TO)"
            assert judge(facts[1]).status == "5.1.1"
            assert health(one) is SiteHealth.GOOD

    asyncio.run(main())


def test_more_recipients_than_a_transaction_may_have():
    async def main():
        async with Host() as host, Outbox(recipients_per_message=3) as outbox:
            people = [f"x{n}@y" for n in range(8)]
            facts = await outbox.send(delivery(host.next_hop, *people))
            assert [recipients for _, recipients, _ in host.messages] == [people[:3], people[3:6], people[6:]]
            assert all(judge(fact).action is Action.RELAYED for fact in facts)
            assert host.connections == 1

    asyncio.run(main())


@pytest.mark.parametrize("code", [b"452 4.5.3 Too many recipients\r\n", b"552 Too many recipients\r\n"])
def test_a_host_that_wants_fewer_recipients_at_a_time_gets_fewer(code):
    """RFC 5321 §4.5.3.1.10."""

    async def main():
        taken = []

        def answer(verb, host):
            if verb == "MAIL":
                taken.clear()
            if verb == "RCPT":
                taken.append(1)
                return code if len(taken) > 2 else None
            return None

        async with Host(answer) as host, Outbox() as outbox:
            facts = await outbox.send(delivery(host.next_hop, *(f"x{n}@y" for n in range(5))))
            assert all(judge(fact).action is Action.RELAYED for fact in facts)
            assert len(host.messages) == 3

    asyncio.run(main())


def test_552_for_the_only_recipient_is_temporary():
    async def main():
        async with (
            Host(lambda verb, _: b"552 mailbox full\r\n" if verb == "RCPT" else None) as host,
            Outbox() as outbox,
        ):
            facts = await outbox.send(delivery(host.next_hop))
            assert judge(facts[0]).action is Action.DELAYED
            assert len(host.commands) <= 6

    asyncio.run(main())


def test_what_the_host_does_not_offer():
    async def main():
        def answer(verb, _host):
            return b"250-x\r\n250-PIPELINING\r\n250 SIZE 10\r\n" if verb == "EHLO" else None

        async with Host(answer) as host, Outbox() as outbox:
            facts = await outbox.send(delivery(host.next_hop, content=b"x" * 11))
            assert facts[0].trouble is Trouble.TOO_LARGE
            assert judge(facts[0]).status == "5.3.4"
            facts = await outbox.send(delivery(host.next_hop, "ä@y", content=b"x"))
            assert judge(facts[0]).status == "5.6.7"
            facts = await outbox.send(delivery(host.next_hop, content=b"\xff", options=Options(body="8BITMIME")))
            assert judge(facts[0]).status == "5.6.3"
            facts = await outbox.send(delivery(host.next_hop, "x@y>\r\nDATA", content=b"x"))
            assert judge(facts[0]).action is Action.FAILED
            assert host.messages == []
            assert host.connections == 1

    asyncio.run(main())


@LOOPS
def test_a_large_content_is_streamed_from_its_file(run, tmp_path):
    content = (b"." + b"x" * 75 + b"\r\n") * 70_000
    path = tmp_path / "content"
    path.write_bytes(content)

    async def main():
        async with Host() as host, Outbox(connections=1) as outbox:
            large = delivery(host.next_hop, content=ContentFile(path, len(content)))
            await outbox.send(large, delivery(host.next_hop), delivery(host.next_hop, content=content))
            assert all(judge(each.facts[0]).action is Action.RELAYED for each in outbox.done)
            assert [len(message) for _, _, message in host.messages] == [len(content), len(CONTENT), len(content)]
            assert host.messages[0][2] == host.messages[2][2]

    run(main())


def test_what_stands_behind_a_message_in_its_recycled_file_is_not_sent(tmp_path):
    path = tmp_path / "content"
    path.write_bytes(b"x" * 1000 + b"\r\n" + b"of an older message\r\n" * 50)

    async def main():
        async with Host() as host, Outbox() as outbox:
            await outbox.send(delivery(host.next_hop, content=ContentFile(path, 1002)))
            assert [message for _, _, message in host.messages] == [b"x" * 1000 + b"\r\n"]

    asyncio.run(main())


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_content_file_that_is_not_whole_never_looks_like_a_message(damage, tmp_path):
    path = tmp_path / "content"
    if damage != "missing":
        path.write_bytes(b"x" * 1000 + b"\r\n")

    async def main():
        async with Host() as host, Outbox() as outbox:
            size = {"missing": 5, "short": 1500}[damage]
            facts = await outbox.send(delivery(host.next_hop, content=ContentFile(path, size)))
            assert (facts[0].stage, facts[0].trouble) == (Stage.STORE, Trouble.IO_ERROR)
            assert judge(facts[0]).action is Action.DELAYED
            assert host.messages == []
            facts = await outbox.send(delivery(host.next_hop))
            assert judge(facts[0]).action is Action.RELAYED

    asyncio.run(main())


def test_a_done_that_fails_does_not_harm_the_others():
    async def main():
        problems = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["message"]))
        async with Host() as host, Outbox(connections=1) as outbox:
            outbox.agent.start(delivery(host.next_hop), lambda _: 1 / 0)
            await outbox.send(delivery(host.next_hop), delivery(host.next_hop))
            assert problems == ["done() of a delivery failed"]
            assert len(host.messages) == 3

    asyncio.run(main())


def test_a_next_hop_that_is_none():
    async def main():
        async with Outbox() as outbox:
            facts = await outbox.send(delivery("not a host", "x@not a host"))
            assert judge(facts[0]).action is Action.FAILED

    asyncio.run(main())


class Keeper:
    def __init__(self):
        self.envelopes = []

    async def handle_DATA(self, _server, _session, envelope):
        self.envelopes.append(envelope)
        return "250 2.0.0 Ok"


@LOOPS
def test_aiosmtpd_as_peer(run):
    async def main():
        keeper = Keeper()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(keeper, hostname="peer.example", enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0
        )
        hop = f"[127.0.0.1]:{server.sockets[0].getsockname()[1]}"
        async with Outbox() as outbox:
            contents = [b"Subject: %d\r\n\r\n.dot\r\n..\r\n" % n for n in range(20)]
            await outbox.send(*(delivery(hop, "x@y.example", "z@y.example", content=c) for c in contents))
            odd = delivery(
                hop, "ä@y.example", content="Subject: ä\r\n".encode(), options=Options("8BITMIME", smtputf8=True)
            )
            facts = await outbox.send(odd)
            assert judge(facts[0]).action is Action.RELAYED
            assert sorted(e.content for e in keeper.envelopes[:20]) == sorted(contents)
            assert keeper.envelopes[0].rcpt_tos == ["x@y.example", "z@y.example"]
            assert keeper.envelopes[-1].rcpt_tos == ["ä@y.example"]
        server.close()
        await server.wait_closed()

    run(main())
