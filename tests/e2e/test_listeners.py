"""Several listeners of one server process: ports with TLS, a UNIX socket with LMTP, sockets that were handed over."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ingress.tls import Authority
from tests.support.server import Server
from tests.support.waiting import wait_for

Serve = Callable[..., Server]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def pair(authority: Authority, name: str) -> dict[str, str]:
    return {key: str(path) for key, path in authority.issue(name, to="shown").items()}


def received(message: bytes) -> str:
    found = re.search(rb"^Received: (?:.*\n[ \t])*.*\n", message, re.MULTILINE)
    assert found
    return " ".join(found[0].decode().split())


@pytest.mark.wish(20)
def test_tls_is_in_the_trace_and_renewed_on_reload(serve: Serve, authority: Authority) -> None:
    server = serve(
        listener=[{"bind": "127.0.0.1:0"}, {"bind": "127.0.0.1:0", "protocol": "submissions"}],
        tls={"certificate": [pair(authority, "mx.example.test")], "check_interval": "1m"},
    )
    (_, clear), (_, first) = server.addresses
    context = authority.client()
    context.check_hostname = False
    with smtplib.SMTP("127.0.0.1", clear, "client.test") as client:
        client.starttls(context=context)
        client.sendmail("a@client.test", ["alice@example.test"], b"Subject: x\r\n\r\nx\r\n")
    [stored] = server.wait_mail("alice")
    assert (
        "from client.test (unknown [127.0.0.1]) (using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))"
        " by mx.example.test with ESMTPS id"
    ) in received(stored)

    def shown() -> str:
        with socket.create_connection(("127.0.0.1", first)) as sock, context.wrap_socket(sock) as secure:
            certificate = secure.getpeercert()
            assert certificate is not None
            return str(certificate["subjectAltName"][0][1])

    assert shown() == "mx.example.test"
    pair(authority, "new.example.test")
    os.kill(server.pid, signal.SIGHUP)
    server.wait_log("reload")
    server.wait_log("tls-certificates", state="renewed")
    assert shown() == "new.example.test"
    assert server.stop() == 0


def test_lmtp_on_a_unix_socket(serve: Serve) -> None:
    server = serve(listener=[{"bind": "unix:lmtp.sock", "protocol": "lmtp"}])
    path = server.folder / "lmtp.sock"
    assert f"unix:{path}" in server.ready_line
    with smtplib.LMTP(str(path), local_hostname="client.test") as client:
        client.sendmail("a@client.test", ["alice@example.test"], b"Subject: x\r\n\r\nx\r\n")
    [stored] = server.wait_mail("alice")
    assert "from client.test (by a UNIX socket) by mx.example.test with LMTP id" in received(stored)
    assert server.wait_log("disconnect")[0]["client"] == "unix"
    assert server.stop() == 0
    assert not path.exists()


HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "smtp"}
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_socket_that_systemd_has_bound(tmp_path: Path) -> None:
    both = {"family": socket.AF_INET6, "dualstack_ipv6": True}  # as "ListenStream=25" makes it
    with socket.create_server(("::ffff:127.0.0.1", 0), **both) as sock:
        sock.set_inheritable(True)
        server = Server(tmp_path / "server", listener=[{"bind": "fd:smtp"}])
        script = tmp_path / "hand_over.py"
        script.write_text(HAND_OVER)
        server.wrap = [sys.executable, str(script), str(sock.fileno())]
        server.inherited = (sock.fileno(),)
        with server:
            assert server.port == sock.getsockname()[1]
            with smtplib.SMTP("127.0.0.1", server.port, "client.test") as client:
                client.sendmail("a@client.test", ["alice@example.test"], b"Subject: x\r\n\r\nx\r\n")
            [stored] = server.wait_mail("alice")
            assert "(unknown [127.0.0.1])" in received(stored)


def test_config_check_tells_about_certificates(serve: Serve, authority: Authority) -> None:
    server = Server(authority.folder / "config", tls={"certificate": [pair(authority, "mx.example.test")]})
    (authority.folder / "shown.key").chmod(0o644)
    server.run("config", "check")
    authority.issue("other.test", to="other")["key"].replace(authority.folder / "shown.key")
    server.run("config", "check", expect=2)
    server.launch()
    wait_for(lambda: server.ended, "the end of the server")
    assert server.wait_exit() == 2
    assert "tls.certificate[0].key" in server.output
