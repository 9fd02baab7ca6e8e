"""The dialogue scripts, against the core with its session in memory, and against the real listener over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from mailflow.ingress.profiles import make_profile
from mailflow.ingress.session import Session
from mailflow.ingress.settings import LimitsSettings, ProtocolSettings
from mailflow.smtp.reply import Reply
from mailflow.smtp.server import ServerCore
from tests.ingress.fakes import Client, FakeIntake, listening, make_listener
from tests.ingress.scripts import FOLDER, Script, matches, read

SCRIPTS = sorted(FOLDER.glob("*.txt"))


def names(path: Path) -> str:
    return path.stem


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 10


class NoWire:
    """The connection of a session whose intake always answers at once."""

    def answer(self, answer: Reply) -> None:
        raise AssertionError("nothing was pending")

    def hold(self) -> None: ...

    def go_on(self) -> None: ...


def core_for(script: Script) -> ServerCore:
    listener = make_listener(
        FakeIntake(), trusted=script.trusted, kind=script.listener, protocol=script.protocol, **script.limits
    )
    hall = listener.halls[0]
    session = Session(hall.desk, NoWire(), "127.0.0.1", 4321)
    profile = hall.profile_for(session)
    if script.tls:
        session.identify(tls="TLSv1.3")
        protocol = ProtocolSettings(**script.protocol)
        secured = make_profile("mx.test", LimitsSettings(), trusted=True, tls="offer", protocol=protocol).secured
        assert secured is not None
        profile = secured
    return ServerCore(profile, session, tls=script.tls)


@pytest.mark.parametrize("path", [path for path in SCRIPTS if not read(path).waits], ids=names)
@pytest.mark.parametrize("size", [10**9, 1, 7])
def test_core(path: Path, size: int) -> None:
    script = read(path)
    core = core_for(script)
    lines: Iterator[str] = iter(core.take().decode().splitlines())
    for step in script.steps:
        if isinstance(step, bytes):
            assert next(lines, None) is None, f"more was answered before {step!r}"
            for start in range(0, len(step), size):
                core.feed(step[start : start + size])
            lines = iter(core.take().decode().splitlines())
        elif step is None:
            assert core.closing
        else:
            line = next(lines, "(nothing)")
            assert matches(line, step), f"{line!r} is not {step!r}"
    assert next(lines, None) is None


async def converse(path: Path) -> None:
    script = read(path)
    async with (
        asyncio.timeout(20),
        listening(
            FakeIntake(), trusted=script.trusted, kind=script.listener, protocol=script.protocol, **script.limits
        ) as listener,
        await Client.connect(listener) as client,
    ):
        for step in script.steps:
            if isinstance(step, bytes):
                client.send(step)
            else:
                line = (await client.reader.readline()).decode().rstrip("\r\n")
                assert line == "" if step is None else matches(line, step), f"{line!r} is not {step!r}"


@pytest.mark.parametrize("path", [path for path in SCRIPTS if not read(path).tls], ids=names)
def test_listener(path: Path) -> None:
    uvloop.run(converse(path))


def test_listener_without_uvloop() -> None:
    asyncio.run(converse(FOLDER / "ordinary.txt"))
