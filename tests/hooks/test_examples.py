"""The programs in examples/ run, and docs/embedding.md shows them as they are."""

from __future__ import annotations

import re
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.client import mail
from tests.support.server import environment
from tests.support.sink import Sink

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@contextmanager
def running(name: str, folder: Path, *words: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The program in a process of its own, and the port it listens on."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / name), str(folder / "spool"), "127.0.0.1:0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline().rpartition(":")[2]), process
    finally:
        process.terminate()
        process.stdout.close()
        process.wait()


def test_filter(tmp_path: Path) -> None:
    plain, program = mail("plain", to="joe@remote.test"), mail("program", to="joe@remote.test")
    program.add_attachment(b"MZ", maintype="application", subtype="octet-stream", filename="Invoice.EXE")
    with Sink() as sink, running("filter.py", tmp_path, sink.next_hop) as (port, process):
        with smtplib.SMTP("127.0.0.1", port, local_hostname="c.test") as client:
            client.sendmail("ann@example.org", ["joe@remote.test"], program.as_bytes())
            client.sendmail("ann@example.org", ["joe@remote.test"], plain.as_bytes())
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail("x@junk.example", ["joe@remote.test"], plain.as_bytes())
        [arrived] = sink.wait(1)
        assert process.stdout is not None
        assert [process.stdout.readline().split()[0] for _ in range(2)] == ["queued", "queued"]
    assert b"X-Filter: passed\r\n" in arrived.data
    assert b"Subject: plain\r\n" in arrived.data


def test_tickets(tmp_path: Path) -> None:
    with running("tickets.py", tmp_path) as (port, process):
        with smtplib.SMTP("127.0.0.1", port, local_hostname="c.test") as client:
            refused = client.sendmail(
                "ann@example.org", ["ticket+17@any.test", "ticket+18@any.test"], mail("it is out now").as_bytes()
            )
        assert refused == {"ticket+18@any.test": (550, b"5.1.1 There is no such ticket")}
        assert process.stdout is not None
        assert "it is out now" in process.stdout.readline()


def test_newsletter(tmp_path: Path) -> None:
    with Sink() as sink, running("newsletter.py", tmp_path, sink.next_hop) as (port, process):
        [started] = sink.wait(1)
        assert process.stdout is not None
        assert process.stdout.readline() == "delivered True\n"
        letter = mail("News", to="news@lists.example.org").as_bytes()
        with smtplib.SMTP("127.0.0.1", port, local_hostname="c.test") as client:
            with pytest.raises(smtplib.SMTPSenderRefused, match="Log in first"):
                client.sendmail("ann@example.org", ["news@lists.example.org"], letter)
            client.login("ann", "correct horse battery staple")
            client.sendmail("ann@example.org", ["news@lists.example.org"], letter)
        copies = sink.wait(2)[1:]
    assert started.recipients == ["ann@example.org"]
    assert sorted(r for copy in copies for r in copy.recipients) == ["bob@example.net", "carol@example.com"]
    assert {copy.sender for copy in copies} == {"bounces@lists.example.org"}
    assert all(b"List-Id: <news.lists.example.org>\r\n" in copy.data for copy in copies)


def test_the_guide_shows_the_examples() -> None:
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embedding.md").read_text(), re.DOTALL)
    assert len(EXAMPLES) == 3
    for path in EXAMPLES:
        assert path.read_text() in shown, f"docs/embedding.md does not show {path.name} as it is"
