"""Messages of which it can be told, wherever they turn up, which one it is and whether it is whole.

A letter has a name. It is in its recipients, so that each recipient is there once in a run; in its sender, to which a bounce
comes back; and in its header, with the checksum of its text. What is to become of a recipient is in its address:

  NAME@remote.test         the next hop takes it
  NAME.late@remote.test    the next hop says 451 the first time
  NAME.no@remote.test      the next hop says 550: a bounce goes to NAME.back@remote.test
  alice@example.test       ours: it goes to a Maildir
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass

SIZES = ((1_000, 60), (12_000, 15), (60_000, 12), (300_000, 8), (1_200_000, 4), (2_000_000, 1))
"""Bytes of text, and how often: what lives in the database, in segments and in files of its own."""
LOCAL = "alice@example.test"
_NAME = re.compile(rb"^X-Letter: (\S+) ([0-9a-f]{64})\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Letter:
    """One message to be sent."""

    name: str
    recipients: tuple[str, ...]
    size: int

    @property
    def sender(self) -> str:
        """Where its bounce goes."""
        return f"{self.name}.back@remote.test"

    @property
    def data(self) -> bytes:
        """The message, without the final CRLF."""
        width = 70 if self.size < 100_000 else 900
        line = b"%s %%0%dd\r\n" % (self.name.encode(), width)
        text = b"".join(line % i for i in range(self.size // (width + len(self.name) + 3) + 1))
        head = f"Subject: {self.name}\r\nX-Letter: {self.name} {checksum(text)}\r\n\r\n"
        return (head.encode() + text).removesuffix(b"\r\n")


def checksum(text: bytes) -> str:
    """Of a text, whichever line ends it has."""
    return hashlib.sha256(text.replace(b"\r\n", b"\n")).hexdigest()


def make(name: str, chance: random.Random, *, largest: int = SIZES[-1][0]) -> Letter:
    """A letter by chance: its size, and to whom it goes."""
    sizes = [(size, often) for size, often in SIZES if size <= largest]
    size = chance.choices([s for s, _ in sizes], [often for _, often in sizes])[0]
    recipients = [f"{name}@remote.test"]
    recipients += [f"{name}.late@remote.test"] if chance.random() < 0.1 else []
    recipients += [f"{name}.no@remote.test"] if chance.random() < 0.1 else []
    recipients += [LOCAL] if chance.random() < 0.1 else []
    return Letter(name, tuple(recipients), size)


def identify(data: bytes) -> tuple[str, bool]:
    """A letter's name, and whether it is whole; "" when there is no whole header of one."""
    head, _, text = data.replace(b"\r\n", b"\n").partition(b"\n\n")
    found = _NAME.search(head)
    if found is None:
        return "", False
    return found[1].decode(), checksum(text) == found[2].decode()
