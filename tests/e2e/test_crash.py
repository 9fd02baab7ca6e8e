"""The promise: what was acknowledged arrives, whenever the process is killed and whatever the disk says.

SIGKILL at random moments under load, at single sync calls (strace makes the kernel do it), a sync that fails, and a
disk that is full. The short forms run always; the long ones with `make torture`. A seed is printed with each failure.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import PROBES, QUICK
from tests.support.client import Client
from tests.support.flood import Flood, body, check
from tests.support.server import Server
from tests.support.sink import Sink
from tests.support.tools import free_port, smtp_source, source_command, strace
from tests.support.waiting import wait_for

Serve = Callable[..., Server]
SESSIONS = 20
REPEATED = 400
"""Messages that a crash may deliver twice, at most: what was under way, and outcomes not yet committed."""
ROUNDS = int(os.environ.get("MAILFLOW_TORTURE_ROUNDS", "60"))
SYNCS = "fsync,fdatasync"
torture = pytest.mark.skipif("MAILFLOW_TORTURE" not in os.environ, reason="long: make torture")


def drained(server: Server, sink: Sink, acknowledged: list[str]) -> None:
    """Starts the server on what is left, and waits until the queue is empty and all has arrived."""
    with Server(server.folder, **server.settings) as again:
        wait_for(lambda: again.queue() == [], "an empty queue", 60)
        counts = check(acknowledged, list(sink.messages))
        assert sum(counts.values()) - len(counts) <= REPEATED
        assert again.stop() == 0


def kill_under_load(server: Server, sink: Sink, prefix: str, wait: float, size: int) -> list[str]:
    """One round: starts, floods, kills after `wait` seconds with mail acknowledged. Gives what was."""
    server.start()
    with Flood(server.port, SESSIONS, prefix, size) as flood:
        wait_for(lambda: flood.acknowledged, "the first message to be acknowledged")
        time.sleep(wait)  # the random moment of the crash: the thing under test
        server.kill()
    return flood.acknowledged


def kill_rounds(tmp_path: Path, sink: Sink, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    server = Server(tmp_path / "server", relay={"host": sink.next_hop}, queue=QUICK, scheduler=PROBES)
    acknowledged: list[str] = []
    for i in range(rounds):
        size = chance.choice([200, 2_000, 30_000])
        acknowledged += kill_under_load(server, sink, f"{seed}-{i}", chance.uniform(0.0, 0.5), size)
    assert len(acknowledged) >= rounds
    drained(server, sink, acknowledged)


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path, sink: Sink) -> None:
    kill_rounds(tmp_path, sink, 4, seed=random.randrange(10**6))


@pytest.mark.slow
@torture
@pytest.mark.parametrize("part", range(4))
def test_nothing_acknowledged_is_lost_in_many_kills(tmp_path: Path, sink: Sink, part: int) -> None:
    kill_rounds(tmp_path, sink, ROUNDS // 4, seed=random.randrange(10**6) + part)


def test_nothing_is_lost_when_nobody_takes_the_mail_until_after_the_kill(tmp_path: Path) -> None:
    with Sink() as gone:
        port = gone.port
    relay = {"host": f"[127.0.0.1]:{port}"}
    server = Server(tmp_path / "server", relay=relay, queue=QUICK, scheduler=PROBES)
    acknowledged = []
    for i in range(2):
        server.start()
        with Flood(server.port, SESSIONS, f"down-{i}") as flood:
            wait_for(lambda flood=flood: len(flood.acknowledged) > 200, "some mail in the queue")  # type: ignore[misc]
            server.kill()
        acknowledged += flood.acknowledged
    with Sink(port=port) as back:
        drained(server, back, acknowledged)
        assert len(back.messages) <= len(acknowledged) + 2 * SESSIONS


def test_smtp_source_and_a_kill(tmp_path: Path, sink: Sink) -> None:
    """With the real load tool: its counter (-c) says how many of its DATA commands were answered; at most one message
    a session was still without its 250."""
    server = Server(tmp_path / "server", relay={"host": sink.next_hop}, queue=QUICK, scheduler=PROBES).start()
    command = source_command(server.port, "-c", "-d", messages=100_000, sessions=SESSIONS)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as source:
        try:
            wait_for(lambda: len(sink.messages) > 300, "mail at the sink")
        finally:
            server.kill()
        said, _ = source.communicate(timeout=60)
    acknowledged = int((re.findall(r"\d+", said) or ["0"])[-1]) - SESSIONS
    assert acknowledged > 300 - SESSIONS
    with Server(server.folder, **server.settings) as again:
        wait_for(lambda: again.queue() == [], "an empty queue", 60)
    assert len({m.recipients[0] for m in sink.messages}) >= acknowledged


def kill_at_sync(tmp_path: Path, sink: Sink, number: int) -> None:
    wrap = strace("-o", "/dev/null", "-e", f"trace={SYNCS}", "-e", f"inject={SYNCS}:signal=SIGKILL:when={number}")
    folder = tmp_path / f"at{number}"
    server = Server(folder, wrap=wrap, relay={"host": sink.next_hop}, queue=QUICK, scheduler=PROBES).launch()
    acknowledged: list[str] = []
    try:
        wait_for(lambda: server.ready_line or server.ended, "the server to start or die")
        if server.ready_line:
            with Flood(server.port, 5, f"sync-{number}") as flood:
                wait_for(lambda: server.ended, f"sync call {number}", 30)
            acknowledged = flood.acknowledged
    finally:
        server.kill()
    with Server(folder, **server.settings) as again:
        wait_for(lambda: again.queue() == [], "an empty queue", 60)
        check(acknowledged, [m for m in sink.messages if m.recipients[0].startswith(f"sync-{number}-")])


@pytest.mark.parametrize("number", [1, 4, 30])
def test_killed_at_a_sync_call(tmp_path: Path, sink: Sink, number: int) -> None:
    kill_at_sync(tmp_path, sink, number)


@pytest.mark.slow
@torture
def test_killed_at_every_sync_call(tmp_path: Path, sink: Sink) -> None:
    for number in range(1, ROUNDS):
        kill_at_sync(tmp_path, sink, number)


def test_the_client_hears_250_after_the_disk_has_it(tmp_path: Path, sink: Sink) -> None:
    """By the kernel's own record: the reply is written after a sync call that began after the message came."""
    record = tmp_path / "trace"
    wrap = strace("-o", str(record), "-s", "200", "-e", f"trace={SYNCS},read,recvfrom,write,sendto,writev,sendmsg")
    with Server(tmp_path / "server", wrap=wrap, relay={"host": sink.next_hop}) as server, Client(server.port) as client:
        client.say("EHLO client.test")
        assert client.message(["user@remote.test"], b"Subject: the marked one\r\n\r\nx").startswith("250 ")
        sink.wait(1)
    lines = record.read_text().splitlines()
    came = next(i for i, line in enumerate(lines) if "the marked one" in line and re.search(r"read|recvfrom", line))
    told = next(i for i, line in enumerate(lines) if "Ok: queued as" in line and re.search(r"write|send", line))
    synced = [line for line in lines[came:told] if re.search(r"f(data)?sync.*= 0", line)]
    assert synced, "\n".join(lines[came : told + 1])


def test_a_sync_that_fails_is_not_acknowledged(tmp_path: Path, sink: Sink) -> None:
    """EIO from some sync calls: what waited for them is refused; what was acknowledged before and after arrives.

    The server may mend its store, or stop and say so with exit code 1; it may not pretend.
    """
    failing = f"inject={SYNCS}:error=EIO:when=30..36"
    by_thread = "inject=io_setup:error=ENOSYS"  # strace does not see the syncs that the kernel makes for us
    wrap = strace("-o", "/dev/null", "-e", f"trace={SYNCS},io_setup", "-e", failing, "-e", by_thread)
    server = Server(tmp_path / "server", wrap=wrap, relay={"host": sink.next_hop}, queue=QUICK).start()
    acknowledged: list[str] = []
    refused = ""
    try:
        with Client(server.port) as client:
            client.say("EHLO client.test")
            while len(acknowledged) < 200 and not refused:
                recipient = f"eio-{len(acknowledged)}@remote.test"
                reply = client.message([recipient], body(recipient, 500).removesuffix(b"\r\n"))
                if reply.startswith("250 "):
                    acknowledged.append(recipient)
                else:
                    refused = reply
            assert acknowledged
            assert refused.startswith(("451 4.3.0", "421 "))
        try:
            assert server.stop() in (0, 1)
        except (OSError, IndexError):
            assert server.wait_exit() == 1  # it had stopped already
    finally:
        server.kill()
    drained(server, sink, acknowledged)


@pytest.mark.wish(85)
def test_no_file_is_made_or_removed_for_a_message(tmp_path: Path, sink: Sink) -> None:
    record = tmp_path / "trace"
    calls = "openat,open,creat,unlink,unlinkat,rename,renameat,renameat2,link,linkat,mkdir,mkdirat,ftruncate"
    wrap = strace("-o", str(record), "-e", f"trace={calls}")
    with Server(tmp_path / "server", wrap=wrap, relay={"host": sink.next_hop}) as server:
        for _ in range(2):  # the first hundred is the warming up
            before = len(record.read_text().splitlines())
            arrived = len(sink.messages)
            smtp_source(server.port, "-d", messages=100)
            sink.wait(arrived + 100)
            wait_for(lambda: server.queue() == [], "an empty queue")
        steady = record.read_text().splitlines()[before:]
    spool = str(server.folder / "spool")
    changing = [c for c in steady if spool in c and ("O_CREAT" in c or not re.search(r"\bopen(at)?\(", c))]
    assert len(changing) <= 2, "\n".join(changing[:10])  # for a hundred messages


@pytest.mark.wish(77)
def test_a_message_is_written_once_not_moved(tmp_path: Path) -> None:
    """Bytes written to the spool for a large message that is deferred and delivered later: about its size, once."""
    with Sink(answer=lambda verb, argument: b"451 later\r\n" if verb == "MAIL" else None) as sink:
        server = Server(tmp_path, relay={"host": sink.next_hop}, queue=QUICK, scheduler=PROBES)
        with server:
            size = 400_000
            before = _written(server.pid)
            with Client(server.port) as client:
                client.say("EHLO client.test")
                assert client.message(["user@remote.test"], body("x", size)).startswith("250 ")
            server.wait_log("deferred", 4)
            spent = _written(server.pid) - before
    # The write-ahead log and, after a checkpoint, the database: twice at most, not once for every state.
    assert size <= spent < 3 * size


def _written(pid: int) -> int:
    """Bytes that a process has caused to be written to disk."""
    text = Path(f"/proc/{pid}/io").read_text()
    return int(re.search(r"^write_bytes: (\d+)", text, re.MULTILINE)[1])  # type: ignore[index]


@pytest.fixture
def small_disk(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A file system of 8 MiB; skips where mounting is forbidden."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(server: Server) -> list[str]:
    """Sends until the disk is full; the recipients that were acknowledged before."""
    acknowledged = []
    for i in range(200):
        recipient = f"full-{i}@remote.test"
        with Client(server.port) as client:
            client.say("EHLO client.test")
            reply = client.message([recipient], body(recipient, 100_000).removesuffix(b"\r\n"))
        if not reply.startswith("250 "):
            assert reply.startswith("452 4.3.1")
            assert len(acknowledged) > 10
            return acknowledged
        acknowledged.append(recipient)
    raise AssertionError("the disk was never full")


def drain(server: Server, port: int, acknowledged: list[str]) -> None:
    """The next hop comes up: all that was acknowledged arrives, once, and new mail is taken again."""
    with Sink(port=port) as sink:
        sink.wait(len(acknowledged))
        wait_for(lambda: server.queue() == [], "an empty queue")
        assert set(check(acknowledged, list(sink.messages)).values()) == {1}
        with Client(server.port) as client:
            client.say("EHLO client.test")
            assert client.message(["after@remote.test"], body("after", 50_000)).startswith("250 ")
        sink.wait(len(acknowledged) + 1)


def on_small_disk(small_disk: Path, tmp_path: Path, port: int, reserve: str) -> Server:
    return Server(
        tmp_path / "server",
        spool=str(small_disk / "spool"),
        relay={"host": f"[127.0.0.1]:{port}"},
        queue=QUICK | {"reserve": reserve},
        scheduler=PROBES,
    )


def test_mail_is_refused_before_the_reserve_is_used_and_the_queue_drains(small_disk: Path, tmp_path: Path) -> None:
    port = free_port()
    with on_small_disk(small_disk, tmp_path, port, reserve="2MiB") as server:
        drain(server, port, fill(server))
        assert server.stop() == 0


def test_a_disk_without_a_byte_left_is_452_and_nothing_is_lost(small_disk: Path, tmp_path: Path) -> None:
    """No reserve: the disk itself says no. When there is room again, all goes on without a restart."""
    port = free_port()
    with on_small_disk(small_disk, tmp_path, port, reserve="0B") as server:
        acknowledged = fill(server)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        drain(server, port, acknowledged)
        assert server.stop() == 0
