"""AUTH as dialogue scripts (`tests/ingress/scripts.py`), against a real listener. "@" gives a setting of `[auth]`,
and "S: 250 * TEXT" stands for a reply that has TEXT among its lines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.auth.fakes import Known, Tokens, authenticator
from tests.ingress.fakes import Client, FakeIntake, listening
from tests.ingress.scripts import matches, read

SCRIPTS = sorted((Path(__file__).parent / "dialogues").glob("*.txt"))


async def converse(path: Path, size: int) -> None:
    script = read(path)
    auth = authenticator(Known(alice="open sesame"), tokens=Tokens(t0ken="alice"), **script.limits)
    async with (
        asyncio.timeout(20),
        listening(FakeIntake(), trusted=False, auth=auth) as listener,
        await Client.connect(listener) as client,
    ):
        for step in script.steps:
            if isinstance(step, bytes):
                for start in range(0, len(step), size):
                    client.send(step[start : start + size])
                    await client.writer.drain()
            else:
                line = (await client.reader.readline()).decode().rstrip("\r\n")
                if step and step.startswith("250 * "):
                    lines = [line]
                    while lines[-1][3] == "-":
                        lines.append((await client.reader.readline()).decode().rstrip("\r\n"))
                    assert step.removeprefix("250 * ") in [line[4:] for line in lines]
                    continue
                assert line == "" if step is None else matches(line, step), f"{line!r} is not {step!r}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [10**9, 1])
def test_dialogue(path: Path, size: int) -> None:
    asyncio.run(converse(path, size))
