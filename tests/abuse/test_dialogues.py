"""Conversations with clients that do not behave, against the core in memory and the real listener, as flights: split otherwise
they would be other offences."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.abuse.fakes import abused
from tests.ingress.fakes import Client, FakeLog
from tests.ingress.scripts import Script, matches, read

SCRIPTS = sorted((Path(__file__).parent / "dialogues").glob("*.txt"))
TROUBLE = {"ahead": "does not wait for a reply", "deaf": "ignores error replies"}


def settings(script: Script) -> dict[str, Any]:
    return {key.removeprefix("abuse."): value for key, value in script.limits.items()}


async def converse(path: Path) -> FakeLog:
    script, log = read(path), FakeLog()
    async with (
        asyncio.timeout(20),
        abused(log, **settings(script)) as (listener, _),
        await Client.connect(listener) as client,
    ):
        for step in script.steps:
            if isinstance(step, bytes):
                client.send(step)
                continue
            if step == "(extensions)":
                assert (await client.reply()).startswith("250-mx.test\n250-PIPELINING\n")
                continue
            line = (await client.reader.readline()).decode().rstrip("\r\n")
            assert line == "" if step is None else matches(line, step), f"{line!r} is not {step!r}"
    return log


@pytest.mark.wish(28)
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_listener(path: Path, run: Any) -> None:
    reasons = [str(event["reason"]) for event in run(converse(path)).named("offence")]
    kind = path.stem.partition("_")[0]
    if path.stem == "ahead_proper":
        assert reasons == []
    else:
        assert reasons
        assert reasons[0] == TROUBLE.get(kind, reasons[0])


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 13
