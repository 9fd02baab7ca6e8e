"""What docs/ingress.md shows of these checks works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mailflow.settings import Settings
from tests.checks.fakes import FakeSituation, in_loop

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ingress.md"
SECTION = PAGE.read_text().partition("## What others say about a client")[2].partition("\n## ")[0]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)


@pytest.mark.parametrize("block", blocks("toml"))
def test_settings(block, tmp_path):
    file = tmp_path / "mailflow.toml"
    file.write_text('hostname = "mx.example.test"\n' + block)
    Settings.load(file, environment={})


@in_loop
async def test_the_function():
    [code] = blocks("python")
    names = {}
    exec(code, names)
    assert (await names["check"](FakeSituation(helo="mail.bad.example"))).reply.code == 550
    assert await names["check"](FakeSituation()) is None


def test_there_is_something_to_look_at():
    assert len(blocks("toml")) == 3
