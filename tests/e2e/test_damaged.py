"""A queue on a failing disk, from the operator's side: what is delivered, what is said, what a repair leaves (wish 82)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.queue.test_aside import spoil
from tests.support.client import Client
from tests.support.server import Server
from tests.support.sink import Sink
from tests.support.waiting import wait_for


def later(verb: str, argument: str) -> bytes | None:
    del argument
    return b"451 4.3.0 Not now\r\n" if verb == "MAIL" else None


def hand_in(server: Server, name: str, lines: int) -> None:
    with Client(server.port) as client:
        client.say("EHLO client.test")
        answer = client.message(
            [f"{name}@remote.test"], b"Subject: x\r\n\r\n" + (b"y" * 70 + b"\r\n") * lines, "alice@example.test"
        )
        assert answer.startswith("250")


@pytest.mark.wish(82)
def test_mail_that_a_damaged_database_does_not_let_go_is_delivered_once_however_often_the_server_starts(
    tmp_path: Path, sink: Sink
) -> None:
    usual, sink.answer = sink.answer, later
    with Server(tmp_path / "server", relay={"host": sink.next_hop}, queue={"backoff": ["200ms", "200ms"]}) as server:
        for name, lines in (("small", 1), ("large", 1400), ("third", 1)):
            hand_in(server, name, lines)
        server.wait_log("deferred", 3)
        server.stop()
        spoil(server.folder / "spool")
        sink.answer = usual
        server.start()
        assert {r.recipients[0] for r in sink.wait(3)} == {
            f"{name}@remote.test" for name in ("small", "large", "third")
        }
        (told,) = server.wait_log("error")  # the level; all errors are warnings
        assert "queue check --repair" in told["reason"]
        wait_for(lambda: len(server.queue()) == 1, "the others to leave")
        assert [(r["state"], r["due"]) for r in server.queue()[0]["recipients"]] == [("aside", None)]
        assert "done with" in server.run("queue", "show", told["id"])
        for _ in range(3):
            server.stop()
            server.start()
            hand_in(server, "more", 1)
        assert len(sink.wait(6)) == 6
        server.stop()
        assert "done with" in server.run("queue", "check", expect=1)
        assert "taken out of the queue" in server.run("queue", "check", "--repair")
        assert server.run("queue", "check").strip() == "The queue is whole"
        server.start()
        assert server.queue() == []
        server.stop()
    assert len(sink.wait(6)) == 6
