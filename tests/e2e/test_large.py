"""Large messages stream: in to a file, out from it, and memory stays bounded."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.server import Server
from tests.support.sink import Received, Sink
from tests.support.waiting import wait_for

Serve = Callable[..., Server]
SIZE = 20 * 2**20
LINE = b"0123456789abcdef" * 4 + b"\r\n"


def peak(server: Server) -> int:
    """Bytes of memory that the server has had at most."""
    text = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]


def send_large(port: int, recipient: str, size: int = SIZE) -> str:
    """Sends without ever having the message in memory."""
    block = LINE * 1000
    with Client(port, timeout=120) as client:
        client.say("EHLO client.test")
        for command in ("MAIL FROM:<s@client.test>", f"RCPT TO:<{recipient}>", "DATA"):
            answer = client.say(command)
            assert answer[0] in "23", answer
        client.send(b"Subject: large\r\n\r\n")
        for _ in range(size // len(block)):
            client.send(block)
        return client.say(b"..last line\r\n.")


def lines_of(message: Received) -> tuple[int, bytes]:
    _, _, text = message.data.partition(b"\r\n\r\n")
    return text.count(LINE), text[-12:]


def test_twenty_megabytes_pass_in_bounded_memory(serve: Serve) -> None:
    with Sink() as sink:
        server = serve(relay={"host": sink.next_hop}, limits={"message_size": "30MiB"})
        before = peak(server)
        assert send_large(server.port, "user@remote.test").startswith("250 ")
        [message] = sink.wait(1, 60)
        assert lines_of(message) == (SIZE // (len(LINE) * 1000) * 1000, b".last line\r\n"[-12:])
        assert peak(server) - before < SIZE
        wait_for(lambda: server.queue() == [], "an empty queue")


def content_files(server: Server) -> list[str]:
    """Names of the files that hold, or held and will hold again, large messages."""
    return sorted(p.name for p in (server.folder / "spool" / "content").iterdir())


@pytest.mark.wish(85)
def test_the_file_of_a_large_message_is_used_again(serve: Serve, sink: Sink) -> None:
    server = serve(relay={"host": sink.next_hop})
    for i in range(3):
        assert send_large(server.port, "user@remote.test", 3 * 2**20).startswith("250 ")
        sink.wait(i + 1)
        wait_for(lambda: server.queue() == [], "an empty queue")
        assert len(content_files(server)) == 1
    assert len({m.size for m in sink.messages}) == 1


def test_ten_large_messages_at_once_stay_in_memory_bounds(serve: Serve) -> None:
    with Sink(keep=False) as sink:
        server = serve(relay={"host": sink.next_hop}, limits={"message_size": "30MiB"})
        before = peak(server)
        replies: list[str] = []
        threads = [
            threading.Thread(target=lambda i=i: replies.append(send_large(server.port, f"u{i}@remote.test", SIZE // 2)))  # type: ignore[misc]
            for i in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert [r[:4] for r in replies] == ["250 "] * 10
        sink.wait(10, 60)
        assert peak(server) - before < 60 * 2**20


def test_a_message_over_the_limit_is_refused_while_it_streams(serve: Serve) -> None:
    server = serve(limits={"message_size": "5MiB"})
    for _ in range(3):
        reply = send_large(server.port, "alice@example.test")
        assert reply.startswith("552 5.3.4")
    assert server.mailbox("alice") == []
    assert send_large(server.port, "alice@example.test", 3 * 2**20).startswith("250 ")
    server.wait_mail("alice")
    assert len(content_files(server)) <= 2, "the file of a refused message is used again, if it is free by then"


def test_a_large_message_to_a_maildir_is_whole(serve: Serve) -> None:
    server = serve()
    assert send_large(server.port, "alice@example.test").startswith("250 ")
    [stored] = server.wait_mail("alice", timeout=60)
    text = stored.partition(b"\n\n")[2]
    assert text.count(LINE.replace(b"\r", b"")) == SIZE // (len(LINE) * 1000) * 1000
    assert text.endswith(b"\n.last line\n")


def test_a_large_message_survives_a_kill(serve: Serve, sink: Sink) -> None:
    sink.answer = lambda verb, argument: b"451 later\r\n" if verb == "MAIL" else None
    server = serve(relay={"host": sink.next_hop}, queue={"backoff": ["200ms", "400ms"]})
    assert send_large(server.port, "user@remote.test").startswith("250 ")
    server.wait_log("deferred")
    server.kill()
    sink.answer = lambda verb, argument: None
    server.start()
    [message] = sink.wait(1, 60)
    assert lines_of(message)[0] == SIZE // (len(LINE) * 1000) * 1000


def test_what_a_kill_left_half_written_is_used_again(serve: Serve) -> None:
    server = serve()
    with Client(server.port) as client:
        client.say("EHLO client.test")
        for command in ("MAIL FROM:<s@client.test>", "RCPT TO:<alice@example.test>", "DATA"):
            client.say(command)
        client.send(b"Subject: half\r\n\r\n" + LINE * 80_000)
        wait_for(lambda: content_files(server), "a content file")
        server.kill()
    server.start()
    assert server.queue() == []
    assert send_large(server.port, "alice@example.test", 3 * 2**20).startswith("250 ")
    [stored] = server.wait_mail("alice")
    assert stored.endswith(b"\n.last line\n")
    assert len(content_files(server)) == 1
