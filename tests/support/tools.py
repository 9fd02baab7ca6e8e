"""Debian's mail tools as peers; a test that needs one that is missing is skipped with the package's name."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess

import pytest

SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PACKAGES = {"smtp-source": "postfix", "smtp-sink": "postfix", "swaks": "swaks", "strace": "strace"} | {
    name: name for name in ("msmtp", "gsasl", "nmap")
}


def tool(name: str) -> str:
    """The path of a tool; skips the test when it is not installed."""
    path = shutil.which(name, path=SEARCH)
    if path is None:
        pytest.skip(f"{name} is missing: install Debian's package {PACKAGES[name]}")
    return path


def source_command(
    port: int, *options: str, messages: int, sessions: int = 5, to: str = "user@remote.test"
) -> list[str]:
    """The words of an smtp-source run; every recipient is another one (a number before `to`)."""
    command = [tool("smtp-source"), "-4", "-N", "-s", str(sessions), "-m", str(messages), "-f", "sender@client.test"]
    return [*command, "-t", to, *options, f"127.0.0.1:{port}"]


def smtp_source(port: int, *options: str, messages: int, sessions: int = 5) -> None:
    """Sends with smtp-source; returns when every message was acknowledged, fails when one was not."""
    command = source_command(port, *options, messages=messages, sessions=sessions)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def swaks(port: int, *options: str, expect: int = 0) -> str:
    """swaks against 127.0.0.1; what it printed."""
    command = [tool("swaks"), "--server", "127.0.0.1", "--port", str(port), "--helo", "client.test", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == expect, f"swaks ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def strace(*options: str) -> list[str]:
    """The words before a command that run it under strace; skips where tracing is not allowed."""
    path = tool("strace")
    if subprocess.run([path, "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here (ptrace is forbidden)")
    return [path, "-f", "-qq", *options]


def free_port() -> int:
    """A port that nobody listens on now; for the few tests that must know it before their server starts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
