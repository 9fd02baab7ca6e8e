"""What those try who want our name on their mail: relaying through us, and messages smuggled inside of others."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.e2e.conftest import PROBES, QUICK
from tests.support.client import Client
from tests.support.server import Server
from tests.support.sink import Sink
from tests.support.tools import tool

# What some server takes for the end of a message (Longin 2023, "SMTP Smuggling", and what was found in its wake).
ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\r\n.\r\r\n",
    b"\n\n.\r\n",
    b"\r\n.\r\r\n",
    b"\x85.\x85",
]
SMUGGLED = b"MAIL FROM:<boss@example.test>\r\nRCPT TO:<victim@remote.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nPay!\r\n"
COMMANDS = [b"DATA", b"BDAT"]


@pytest.fixture
def outlet(serve: Callable[..., Server]):
    """A server whose next hop ends lines at any LF: what must never be given a line of its own there is a dot."""

    def start(sink: Sink, **limits: object) -> Server:
        return serve(relay={"host": sink.next_hop}, queue=QUICK, scheduler=PROBES, limits=limits)

    return start


def deliver(client: Client, command: bytes, content: bytes) -> str:
    """One message by DATA or BDAT; the reply to its end."""
    for line in (b"MAIL FROM:<a@client.test>", b"RCPT TO:<x@remote.test>"):
        client.send(line + b"\r\n")
        assert client.reply().startswith("250 ")
    if command == b"DATA":
        client.send(b"DATA\r\n")
        assert client.reply().startswith("354 ")
        client.send(content + b"\r\n.\r\n")
    else:
        client.send(b"BDAT %d LAST\r\n" % (len(content) + 2) + content + b"\r\n")
    return client.reply()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("bare_newlines", ["refuse", "normalise"])
def test_no_message_is_smuggled_in_or_on(outlet, sink: Sink, command: bytes, bare_newlines: str) -> None:
    server = outlet(sink, bare_newlines=bare_newlines)
    taken = 0
    with Client(server.port) as client:
        client.say("EHLO client.test")
        for end in ENDS:
            reply = deliver(client, command, b"Subject: x\r\n\r\nfirst" + end + SMUGGLED)
            assert reply[:3] in ("250", "554"), (end, reply)
            taken += reply.startswith("250 ")
        assert deliver(client, command, b"Subject: last\r\n\r\nthe end").startswith("250 ")
    arrived = sink.wait(taken + 1)
    server.stop()
    assert len(arrived) == len(sink.messages) == taken + 1, "each is one message, here and at the next hop"
    assert all(m.recipients == ["x@remote.test"] for m in arrived)
    assert sum(m.data.endswith(b"\r\n\r\nthe end\r\n") for m in arrived) == 1, "whichever connection brought it first"


def test_nmap_finds_no_open_relay(serve: Callable[..., Server]) -> None:
    server = serve(relay={"networks": []})
    command = [tool("nmap"), "-Pn", "-n", "-p", str(server.port), "--script", "+smtp-open-relay", "-v", "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Server doesn't seem to be an open relay, all tests failed" in done.stdout, done.stdout
