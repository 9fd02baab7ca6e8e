r"""Reads dialogue scripts (`tests/dialogues/*.txt`).

# a remark
@ trusted no                 the client is a stranger
@ under tls                  TLS came first (these run against the core only)
@ waits yes                  the server has to wait for answers (these run against the listener only)
@ listener lmtp              the listener's protocol
@ protocol.vrfy "known"      a key of [protocol] and its value in TOML; any other word is a key of [limits]
C: EHLO client.test          the client sends this line; lines in a row are one flight
C~ a\nb\0{3000*x}\r\n        the client sends exactly this: Python escapes, {count*text} repeats
S: 250 2.1.0 Ok              the server answers this; "..." at the end stands for anything
S.                           the server has closed
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "dialogues"


@dataclass
class Script:
    """What is sent (bytes), expected (text) or closed (None), in order."""

    trusted: bool = True
    tls: bool = False
    waits: bool = False
    listener: str = "smtp"
    protocol: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    steps: list[bytes | str | None] = field(default_factory=list)

    def send(self, data: bytes) -> None:
        if self.steps and isinstance(last := self.steps[-1], bytes):
            self.steps[-1] = last + data
        else:
            self.steps.append(data)


def _raw(text: str) -> bytes:
    text = re.sub(r"\{(\d+)\*(.+?)\}", lambda m: m[2] * int(m[1]), text)
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def read(path: Path) -> Script:
    script = Script()
    for line in path.read_text("utf-8").splitlines():
        kind, text = line[:2], line[2:].removeprefix(" ")
        if kind == "C:":
            script.send(text.encode() + b"\r\n")
        elif kind == "C~":
            script.send(_raw(text))
        elif kind == "S:":
            script.steps.append(text)
        elif kind == "S.":
            script.steps.append(None)
        elif kind == "@ ":
            key, _, value = text.partition(" ")
            if key == "trusted":
                script.trusted = value != "no"
            elif key == "waits":
                script.waits = True
            elif key == "under":
                script.tls = True
            elif key == "listener":
                script.listener = value
            elif key.startswith("protocol."):
                script.protocol |= tomllib.loads(f"{key[9:]} = {value}")
            else:
                script.limits[key] = int(value) if value.isdigit() else value
        else:
            assert not line or line.startswith("#"), line
    return script


def matches(line: str, expected: str) -> bool:
    return line.startswith(expected[:-3]) if expected.endswith("...") else line == expected
