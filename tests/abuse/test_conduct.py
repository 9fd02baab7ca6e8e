"""What becomes of an offence."""

from __future__ import annotations

import pytest

from mailflow.ingress.stage import Stage
from mailflow.smtp.handler import Offence
from tests.abuse.fakes import Clock, FakeSession, abuse

HTTP = b"GET / HTTP/1.1\r\nHost: mx.test\r\n\r\n"


@pytest.mark.wish(28)
@pytest.mark.parametrize(
    ("offence", "key"),
    [
        (Offence.EARLY, "early_talk"),
        (Offence.AHEAD, "pipelining"),
        (Offence.DEAF, "ignored_errors"),
        (Offence.STRANGE, "non_smtp"),
    ],
)
@pytest.mark.parametrize(
    ("consequence", "lines", "slowed", "code"),
    [("ignore", 0, [], None), ("log", 1, [], None), ("slow", 1, [9.0], None), ("close", 1, [], 421)],
)
def test_the_settings_say_what_follows(
    offence: Offence, key: str, consequence: str, lines: int, slowed: list[float], code: int | None
) -> None:
    who, settings = FakeSession(), {key: consequence, "tolerated_offences": 1, "delay": "9s"}
    answer = abuse(**settings).conduct.offended(who, offence, HTTP if offence is Offence.STRANGE else b"")
    assert (answer and answer.code) == code
    assert who.slowed == slowed
    assert [event["event"] for event in who.events] == ["offence"] * lines
    assert who.offences == lines


@pytest.mark.parametrize("offence", [Offence.AHEAD, Offence.DEAF])
def test_some_offences_are_tolerated_first(offence: Offence) -> None:
    conduct = abuse(pipelining="close", ignored_errors="close", tolerated_offences=3).conduct
    who = FakeSession()
    assert [conduct.offended(who, offence, b"") is None for _ in range(4)] == [True, True, False, False]
    assert conduct.offended(FakeSession(), offence, b"") is None


def test_who_talks_http_before_the_greeting_talks_http() -> None:
    who = FakeSession()
    answer = abuse(early_talk="ignore").conduct.offended(who, Offence.EARLY, HTTP)
    assert answer is not None
    assert answer.text == "421 4.7.0 This is an SMTP server"
    assert who.events[0]["reason"] == "does not speak SMTP: HTTP"


@pytest.mark.wish(30)
def test_what_the_log_shows_is_bounded_and_harmless() -> None:
    who = FakeSession()
    data = b"\x16\x03\x01\n\xff" + b"x" * 1000
    answer = abuse().conduct.offended(who, Offence.STRANGE, data)
    assert answer is not None
    assert answer.text == "421 4.7.0 TLS on a plaintext port: use STARTTLS, or the port for TLS"
    shown = r"\x16\x03\x01\n\xff" + "x" * 43
    assert who.events == [
        {"event": "offence", "level": 30, "reason": "TLS on a plaintext port", "action": "close", "data": shown}
    ]


@pytest.mark.parametrize("data", [b"\r\n", b"\xff\xfb\x1f\xff\xfb\x20\xff\xfb\x18"])
def test_a_person_at_a_terminal_is_not_thrown_out(data: bytes) -> None:
    who = FakeSession()
    assert abuse().conduct.offended(who, Offence.STRANGE, data) is None
    assert len(who.events) == 1


def test_what_is_no_other_protocol_is_no_offence() -> None:
    who = FakeSession()
    assert abuse().conduct.offended(who, Offence.STRANGE, b"EHLO client.test\r\nMAIL") is None
    assert abuse().conduct.offended(who, Offence.STRANGE, b"") is None
    assert who.events == []


@pytest.mark.parametrize(
    ("commands", "data", "closed"),
    [
        (["GET"], b"get\r\n", True),
        (["xyzzy"], b"XYZZY now\r\n", True),
        ([], b"XYZZY now\r\n", False),
        ([], HTTP, True),
    ],
)
def test_forbidden_commands_are_a_list(commands: list[str], data: bytes, closed: bool) -> None:
    conduct = abuse(forbidden_commands=commands).conduct
    assert (conduct.offended(FakeSession(), Offence.STRANGE, data) is not None) is closed


def test_a_password_never_reaches_the_log() -> None:
    who = FakeSession()
    conduct = abuse().conduct
    conduct.offended(who, Offence.EARLY, b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n")
    conduct.offended(who, Offence.STRANGE, b"GET / HTTP/1.1\r\nAuthorization: Basic AGFsaWNlAHNlY3JldA==\r\n")
    assert [event["data"] for event in who.events] == ["AUTH", "GET / HTTP/1.1"]


@pytest.mark.parametrize("command", ["mail", "STARTTLS", "", "GET /", "ü"])
def test_commands_that_cannot_be_forbidden(command: str) -> None:
    with pytest.raises(ValueError, match="is not a command of another protocol"):
        abuse(forbidden_commands=[command])


def test_offences_count_as_errors_of_the_client() -> None:
    parts = abuse(client={"errors": "3/1h"})
    question = parts.guards[0].at(Stage.CONNECT)
    for _ in range(3):
        assert question(FakeSession()) is None
        parts.conduct.offended(FakeSession(), Offence.AHEAD, b"")
    assert question(FakeSession()) is not None


def test_a_flood_of_offences_is_one_line_a_minute() -> None:
    clock, who = Clock(), FakeSession()
    conduct = abuse(clock).conduct
    for _ in range(1000):
        conduct.offended(who, Offence.DEAF, b"")
    assert len(who.events) == 1
    clock.now += 60
    conduct.offended(who, Offence.DEAF, b"")
    assert [event.get("left_out") for event in who.events] == [None, 999]
    assert who.offences == 1001


def test_who_is_too_slow_is_named_in_the_log() -> None:
    who = FakeSession()
    abuse().conduct.slow(who, "a message comes too slowly")
    assert who.events == [{"event": "offence", "level": 30, "reason": "a message comes too slowly"}]
