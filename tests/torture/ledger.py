"""What every case demands: who was promised what, what arrived, and whether that is right.

`Ledger.check(case, …)` fails unless
- every acknowledged letter reached every recipient, whole: the next hop, the Maildir, or its sender as a bounce;
- nothing arrived that is not whole;
- a refused recipient has one bounce, not none and not two (the same bounce delivered twice is a duplicate);
- what was refused for want of room (452) stayed out;
- every duplicate is explained: the delivery before it got its 250 less than `WINDOW_SECONDS` before a crash, or while the
  disk refused everything.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.sink import Received, Sink, _address
from tests.torture import letters
from tests.torture.letters import LOCAL, Letter

WINDOW_SECONDS = float(os.environ.get("MAILFLOW_TORTURE_WINDOW", "2"))
"""A delivery may be repeated when the crash came so soon after its 250: a commit or two, on a busy machine."""
CLOCKS_SECONDS = 0.1
"""How far the notes of two threads about one moment may be apart."""
_FAILED = re.compile(rb"^Final-Recipient: rfc822; ?(\S+)\.no@remote\.test\r?$", re.MULTILINE | re.IGNORECASE)
_MESSAGE_ID = re.compile(rb"^Message-ID: <([^>]+)>", re.MULTILINE | re.IGNORECASE)


@dataclass
class Row:
    """What a case has to show; one line of the table."""

    case: str
    rounds: int = 0
    acknowledged: int = 0
    delivered: int = 0
    lost: int = 0
    partial: int = 0
    duplicates: int = 0
    window: float = 0.0
    """Seconds between the oldest repeated 250 and its crash."""
    seconds: float = 0.0
    note: str = ""


@dataclass
class Ledger:
    """The books of one case; several threads write them."""

    crashes: list[tuple[float, float]] = field(default_factory=list)
    """Since when nothing could be written (mostly the same moment), and when the server died (time.monotonic)."""
    identify: Callable[[bytes], tuple[str, bool]] = letters.identify
    """Tells a message that is no bounce: its name, and whether it is whole."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Replies to letters that were not taken, and how often."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: dict[str, Letter] = {}
        self._acknowledged: dict[str, Letter] = {}
        self._no_room: set[str] = set()
        self._arrivals: dict[tuple[str, str], list[float]] = defaultdict(list)
        """(recipient, the bounce's id or "") → when each copy was taken."""
        self._partial: list[str] = []
        self._bounces: dict[str, set[str]] = defaultdict(set)
        self._tried: set[str] = set()

    # Written by senders and sink

    def sent(self, letter: Letter) -> None:
        """It is about to be sent."""
        self._sent[letter.name] = letter

    def acknowledged(self, letter: Letter) -> None:
        """It got its 250."""
        self._acknowledged[letter.name] = letter

    def refused(self, letter: Letter, reply: str) -> None:
        """It got another reply."""
        with self._lock:
            self.refusals[reply] += 1
            if reply.startswith("452"):
                self._no_room.add(letter.name)

    @property
    def promised(self) -> int:
        """Letters that were acknowledged so far."""
        return len(self._acknowledged)

    def crashed(self, since: float | None = None) -> None:
        """The server is dead as of now; `since` (time.monotonic) it could write nothing."""
        now = time.monotonic()
        self.crashes.append((now if since is None else since, now))

    def first_try(self, recipient: str) -> bool:
        """Whether this recipient is named for the first time."""
        with self._lock:
            new = recipient not in self._tried
            self._tried.add(recipient)
            return new

    def arrived(self, recipients: list[str], data: bytes) -> None:
        """The next hop takes a message now."""
        at = time.monotonic()
        bounced = _FAILED.search(data)
        bounce = ""
        if bounced and recipients[0].endswith(".back@remote.test"):
            found = _MESSAGE_ID.search(data)
            bounce, whole = found[1].decode() if found else "?", data.rstrip().endswith(b"--")
            name = bounced[1].decode()
        else:
            name, whole = self.identify(data)
        with self._lock:
            if not whole:
                self._partial.append(recipients[0])
            if bounce:
                self._bounces[name].add(bounce)
            for recipient in recipients:
                self._arrivals[recipient, bounce].append(at)

    # Read at the end

    def missing(self, mailbox: Path) -> set[str]:
        """The names of acknowledged letters that did not reach everybody."""
        filed = self._filed(mailbox)
        return {name for name, letter in self._acknowledged.items() if self._missing(letter, filed)}

    def check(self, case: str, rounds: int, mailbox: Path, kept: Collection[str] = ()) -> Row:
        """The row of the case; the letters `kept` are known to be in the queue still, and stay there.

        Raises AssertionError with what is wrong, and some examples.
        """
        filed = self._filed(mailbox)
        lost = {
            name: missing for name, letter in self._acknowledged.items() if (missing := self._missing(letter, filed))
        }
        lost = {name: missing for name, missing in lost.items() if name not in kept}
        again, unexplained, window = self._duplicates()
        row = Row(
            case,
            rounds,
            self.promised,
            self.promised - len(kept) - len(lost),
            len(lost),
            len(self._partial),
            again,
            window,
        )
        faults = {
            "lost": [f"{name}: {' '.join(missing)}" for name, missing in lost.items()],
            "not whole": self._partial,
            "damaged, and delivered": [name for name in kept if (f"{name}@remote.test", "") in self._arrivals],
            "bounced twice": [name for name, ids in self._bounces.items() if len(ids) > 1],
            "delivered twice without a crash soon after": unexplained,
            "refused with 452, and delivered": [
                name for name in self._no_room if (f"{name}@remote.test", "") in self._arrivals
            ],
        }
        text = "; ".join(f"{len(found)} {what}: {found[:4]}" for what, found in faults.items() if found)
        assert not text, f"{row}: {text}"
        return row

    def _missing(self, letter: Letter, filed: set[str]) -> list[str]:
        missing = []
        for recipient in letter.recipients:
            if recipient == LOCAL:
                there = letter.name in filed
            elif recipient.endswith(".no@remote.test"):
                there = letter.name in self._bounces
            else:
                there = (recipient, "") in self._arrivals
            if not there:
                missing.append(recipient)
        return missing

    def _filed(self, mailbox: Path) -> set[str]:
        """The names of the letters in a Maildir."""
        names = set()
        for path in (mailbox / "new").glob("*"):
            name, whole = letters.identify(path.read_bytes())
            names.add(name)
            if not whole:
                self._partial.append(f"{name}: {path.name}")
        return names

    def _duplicates(self) -> tuple[int, list[str], float]:
        """How many copies were too many, those that no crash explains, and the longest time before a crash."""
        count, unexplained, longest = 0, [], 0.0
        for (recipient, _), times in self._arrivals.items():
            for at in sorted(times)[:-1]:
                count += 1
                ends = [since - at for since, end in self.crashes if end - at > -CLOCKS_SECONDS]
                after = max(0.0, min(ends)) if ends else None
                if after is None or after > WINDOW_SECONDS:
                    unexplained.append(f"{recipient} ({after and round(after, 2)} s)")
                else:
                    longest = max(longest, after)
        return count, unexplained, longest


class Hop(Sink):
    """The next hop: it takes, refuses and puts off by the recipient's address, and keeps the ledger."""

    def __init__(self, ledger: Ledger, port: int = 0) -> None:
        super().__init__(answer=self._judge, port=port)
        self._ledger = ledger

    def _judge(self, verb: str, argument: str) -> bytes | None:
        if verb == "RCPT":
            recipient = _address(argument)
            if recipient.endswith(".no@remote.test"):
                return b"550 5.1.1 No such user\r\n"
            if recipient.endswith(".late@remote.test") and self._ledger.first_try(recipient):
                return b"451 4.2.1 Not yet\r\n"
        return None

    def _take(self, connection: object, lines: object, message: Received) -> bool:
        parts: list[bytes] = []
        for line in iter(lines.readline, b""):  # type: ignore[attr-defined]
            if line == b".\r\n":
                self._ledger.arrived(message.recipients, b"".join(parts))
                connection.sendall(b"250 2.0.0 Ok: taken\r\n")  # type: ignore[attr-defined]
                return True
            parts.append(line[1:] if line.startswith(b".") else line)
        return False
