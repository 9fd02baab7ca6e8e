"""Clients that break rules, stall, or flood: a defined answer, bounded memory, and nobody else notices."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.client import Client, send
from tests.support.server import Server
from tests.support.sink import Sink
from tests.support.waiting import wait_for

Serve = Callable[..., Server]
MEMORY_LIMIT = 60 * 2**20
"""Bytes that a server may grow by under any of this."""


def memory(server: Server) -> int:
    text = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all of these tests: that it lives on is what they show."""
    with Server(tmp_path_factory.mktemp("bad") / "server") as running:
        yield running


@pytest.fixture
def hostile(one: Server) -> Iterator[Server]:
    """Afterwards another client is served, nothing unknown was logged, and memory is where it was."""
    before, subject = memory(one), f"good client {uuid4()}"
    yield one
    assert send(one.port, "alice@example.test", subject=subject) == {}
    wait_for(lambda: any(subject.encode() in mail for mail in one.mailbox("alice")), "the mail of a good client")
    assert memory(one) - before < MEMORY_LIMIT
    assert "Traceback" not in one.output


def code(reply: str) -> str:
    return reply[:3]


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        (b"NONSENSE", "500 5.5.2"),
        (b"", "500"),
        (b"MAIL FROM:<a\x00b@client.test>", "50"),
        (b"MAIL FROM:<\xff\xfe@client.test>", "5"),
        (b"MAIL FROM:<\xc3\xbc@client.test>", "5"),  # UTF-8 without SMTPUTF8
        (b"MAIL FROM:<a@client.test> SIZE=99999999999999999999999999", "5"),
        (b"MAIL FROM:<a@client.test> SIZE=-1", "501"),
        (b"MAIL FROM:<a@client.test> SIZE=", "501"),
        (b"MAIL FROM:<a@client.test> BODY=PANCAKE", "501"),
        (b"MAIL FROM:<a@client.test> NEVER=HEARD", "555"),
        (b"MAIL FROM:<a@client.test> " + b"X" * 1500, "555"),
        (b"MAIL FROM:<" + b"a" * 1500 + b"@client.test>", "5"),
        (b"MAIL FROM:<a@client.test> ENVID=" + b"x" * 500, "501"),
        (b"MAIL FROM:<a@client.test> RET=SOME", "501"),
        (b"MAIL FROM:", "501"),
        (b"MAIL", "50"),
        (b"RCPT TO:<alice@example.test>", "503"),
        (b"DATA", "503"),
        (b"HELO", "501"),
        (b"EHLO", "501"),
        (b"VRFY alice", "252"),
        (b"EXPN list", "50"),
        (b"NOOP " + b"x" * 3000, "500 5.5.2"),
    ],
    ids=lambda value: repr(value)[2:32] if isinstance(value, bytes) else value,
)
def test_a_wrong_command_gets_its_answer(hostile: Server, line: bytes, answers: str) -> None:
    with Client(hostile.port) as client:
        client.say("EHLO client.test")
        assert client.say(line).startswith(answers)
        assert client.say("NOOP").startswith("250")


def test_another_protocol_is_told_and_closed(hostile: Server) -> None:
    with Client(hostile.port) as client:
        client.say("EHLO client.test")
        assert client.say(b"\x00\x00\x00") == "421 4.7.0 This is an SMTP server"


def test_a_line_of_a_megabyte_is_not_collected(hostile: Server) -> None:
    with Client(hostile.port) as client:
        try:
            client.send(b"X" * 2**20)
            client.send(b"\r\n")
            assert code(client.reply()) in ("500", "421")
        except (BrokenPipeError, ConnectionResetError):
            pass  # closing is an answer too


def test_a_message_line_of_ten_megabytes_is_refused(hostile: Server) -> None:
    with Client(hostile.port) as client:
        client.say("EHLO client.test")
        for command in ("MAIL FROM:<s@client.test>", "RCPT TO:<alice@example.test>", "DATA"):
            client.say(command)
        try:
            for _ in range(160):
                client.send(b"X" * 65_536)
            reply = client.say("\r\n.")
        except (BrokenPipeError, ConnectionResetError):
            return
        assert reply == "" or reply[0] == "5"


@pytest.mark.parametrize("end", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r"])
def test_only_crlf_dot_crlf_ends_a_message(hostile: Server, end: bytes) -> None:
    with Client(hostile.port) as client:
        client.say("EHLO client.test")
        for command in ("MAIL FROM:<s@client.test>", "RCPT TO:<alice@example.test>", "DATA"):
            client.say(command)
        smuggled = b"MAIL FROM:<evil@client.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"
        client.send(b"Subject: outer\r\n\r\nx" + end + smuggled + b"\r\n.\r\n")
        assert client.reply()[0] == "5"  # one answer to one message; bare line ends are refused
        assert client.say("NOOP").startswith("250")
    wait_for(lambda: hostile.queue() == [], "an empty queue")
    assert not any(b"outer" in mail for mail in hostile.mailbox("alice"))
    assert hostile.mailbox("bob") == []


def test_ten_thousand_recipients_are_bounded(serve: Serve) -> None:
    with Sink() as sink:
        server = serve(relay={"host": sink.next_hop})
        before = memory(server)
        with Client(server.port) as client:
            client.say("EHLO client.test")
            client.say("MAIL FROM:<s@client.test>")
            replies = []
            for i in range(10_000):
                client.send(b"RCPT TO:<user%d@remote.test>\r\n" % i)
                if i % 500 == 499:
                    replies += [client.reply() for _ in range(500)]
            taken = [r for r in replies if r.startswith("250 ")]
            assert len(taken) == 1000
            late = [r for r in replies[1000:] if r.startswith(("452 4.5.3", "421"))]
            assert len(late) == len([r for r in replies[1000:] if r])
            assert late
            if not any(r.startswith("421") for r in replies):
                assert client.say("DATA").startswith("354")
                assert client.say("Subject: x\r\n\r\nx\r\n.").startswith("250 ")
                wait_for(lambda: sum(len(m.recipients) for m in sink.messages) == 1000, "1000 recipients")
        assert memory(server) - before < MEMORY_LIMIT


STATES = {
    "greeting": b"",
    "half a command": b"EHL",
    "EHLO": b"EHLO client.test\r\n",
    "MAIL": b"EHLO client.test\r\nMAIL FROM:<s@client.test>\r\n",
    "RCPT": b"EHLO client.test\r\nMAIL FROM:<s@client.test>\r\nRCPT TO:<alice@example.test>\r\n",
    "DATA": b"EHLO client.test\r\nMAIL FROM:<s@client.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n",
    "half a message": b"EHLO client.test\r\nMAIL FROM:<s@client.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nSubj",
}


def test_a_client_that_stalls_is_sent_away_in_every_state(serve: Serve) -> None:
    server = serve(limits={"idle_timeout": "1s"})
    clients = {state: Client(server.port) for state in STATES}
    try:
        for state, said in STATES.items():
            clients[state].send(said)
        assert send(server.port, "alice@example.test") == {}  # meanwhile
        for state, client in clients.items():
            said = client.lines.read()
            assert b"\r\n421 4.4.2 " in said, state
    finally:
        for client in clients.values():
            client.close()
    assert len(server.wait_mail("alice")) == 1


def test_clients_that_hang_up_in_every_state_leave_nothing(hostile: Server) -> None:
    before = len(hostile.mailbox("alice"))
    for said in STATES.values():
        for _ in range(20):
            with Client(hostile.port) as client:
                client.send(said)
    assert len(hostile.mailbox("alice")) == before
    assert hostile.queue() == []


def test_a_half_closed_client_gets_the_answer_to_what_it_said(hostile: Server) -> None:
    """It sends a whole message and closes its sending side: what it hears is true."""
    with Client(hostile.port) as client:
        client.say("EHLO client.test")
        client.send(b"MAIL FROM:<s@client.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n")
        assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        client.send(b"Subject: half closed\r\n\r\nx\r\n.\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        reply = client.reply()
        # The answer may be lost with the connection; then the mail may have been taken or not, as RFC 5321 §4.1.1.10 has it.
        assert reply == "" or reply.startswith("250 ")
        if reply:
            wait_for(lambda: any(b"half closed" in mail for mail in hostile.mailbox("alice")), "its mail")
    wait_for(lambda: hostile.queue() == [], "an empty queue")


def test_a_half_closed_client_in_the_middle_of_a_message_is_forgotten(hostile: Server) -> None:
    before = len(hostile.mailbox("alice"))
    with Client(hostile.port) as client:
        client.send(STATES["half a message"])
        client.socket.shutdown(socket.SHUT_WR)
        client.lines.read()  # until the server closes
    assert len(hostile.mailbox("alice")) == before
    assert hostile.queue() == []


def test_a_client_that_never_reads_is_not_answered_for_ever(hostile: Server) -> None:
    """Commands without end, replies never read: the server stops reading, its memory stays where it is."""
    before = memory(hostile)
    with socket.create_connection(("127.0.0.1", hostile.port)) as connection:
        connection.settimeout(1)
        try:
            for _ in range(2000):
                connection.sendall(b"NOOP\r\n" * 5000)
        except OSError:
            pass  # blocked, or sent away
        assert memory(hostile) - before < MEMORY_LIMIT


def test_after_too_many_errors_the_client_is_sent_away(hostile: Server) -> None:
    with Client(hostile.port) as client:
        replies = []
        for _ in range(50):
            try:
                replies.append(client.say("NONSENSE"))
            except OSError:
                break
            if replies[-1] == "":
                break
        assert any(r.startswith("421 4.7.0") for r in replies)
        assert len(replies) <= 22


def test_more_sessions_than_allowed_are_told_so(serve: Serve) -> None:
    server = serve(limits={"sessions_per_client": 5}, relay={"networks": []})
    clients = [Client(server.port) for _ in range(8)]
    try:
        greetings = [client.reply() for client in clients]
    finally:
        for client in clients:
            client.close()
    assert sorted(g[:3] for g in greetings) == ["220"] * 5 + ["421"] * 3
    wait_for(lambda: not _refused(server.port), "the sessions to be given back")


def _refused(port: int) -> bool:
    with Client(port) as client:
        return not client.greeting.startswith("220")


def test_bad_clients_do_not_disturb_a_good_one(serve: Serve) -> None:
    server = serve()
    stop = threading.Event()

    def misbehave(said: bytes) -> None:
        while not stop.is_set():
            try:
                with Client(server.port) as client:
                    client.send(said)
                    client.send(b"X" * 100_000)
            except OSError:
                continue

    threads = [threading.Thread(target=misbehave, args=(s,)) for s in (b"", STATES["EHLO"], STATES["half a message"])]
    for thread in threads:
        thread.start()
    try:
        for i in range(20):
            assert send(server.port, "alice@example.test", subject=f"number {i}") == {}
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert len(server.wait_mail("alice", 20)) == 20
