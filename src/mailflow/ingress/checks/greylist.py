"""Greylisting as a decision: who is one and the same, and who has waited long enough. Pure; times are arguments.

A triplet is client network, sender and recipient; it and the client's network are known by a hash, so that every
entry has the same small size and no address lies about on disk. Sources: Evan Harris, "The Next Step in the Spam
Control War: Greylisting" (2003); RFC 6647.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from mailflow.ingress.checks.subjects import plain_address

KEY_BYTES = 16
REFRESH_FRACTION = 32
"""What has passed is written anew only when this part of its lifetime has gone by, not for each message."""


class Entry(NamedTuple):
    """What is known of a triplet, or of a client's network. Times are whole seconds since 1970."""

    first: int
    """The first attempt."""
    last: int
    """About when it was last seen."""
    passed: int
    """For a triplet: whether it has passed; for a network: how many of its triplets have."""

    def until(self, rules: Rules) -> int:
        """When it is forgotten."""
        return self.last + rules.lifetime if self.passed else self.first + rules.retry_window


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings, in whole seconds."""

    delay: int
    retry_window: int
    lifetime: int
    auto_allow: int


def wait(entry: Entry | None, now: int, rules: Rules) -> tuple[Entry, int]:
    """What becomes of a triplet that is seen now, and how many seconds it has still to wait: 0 when it may pass."""
    if entry is None or now >= entry.until(rules) or entry.first > now:  # the clock may have been set back
        return Entry(now, now, 0), rules.delay
    if entry.passed:
        return seen(entry, now, rules), 0
    left = entry.first + rules.delay - now
    return (entry, left) if left > 0 else (Entry(entry.first, now, 1), 0)


def seen(entry: Entry, now: int, rules: Rules) -> Entry:
    """The same entry with a later end, if it is worth writing."""
    return entry._replace(last=now) if now - entry.last > rules.lifetime // REFRESH_FRACTION else entry


def one_more(entry: Entry | None, now: int, rules: Rules) -> Entry:
    """A client's network, one more of whose triplets has passed."""
    if entry is None or now >= entry.until(rules) or entry.first > now:
        return Entry(now, now, 1)
    return Entry(entry.first, now, entry.passed + 1)


def is_allowed(entry: Entry | None, now: int, rules: Rules) -> bool:
    """Whether a client's network has earned that its mail passes at once."""
    return rules.auto_allow > 0 and entry is not None and entry.passed >= rules.auto_allow and now < entry.until(rules)


def network_of(address: str, ipv4_prefix: int, ipv6_prefix: int) -> str:
    """The network that a client counts as, "192.0.2.0"; the text itself for what is no address."""
    parsed = plain_address(address)
    if parsed is None:
        return address
    bits, prefix = (32, ipv4_prefix) if parsed.version == 4 else (128, ipv6_prefix)
    return str(type(parsed)(int(parsed) >> (bits - prefix) << (bits - prefix)))


def fold(sender: str) -> str:
    """A sender without what may differ between the messages of one sender.

    Left out are the extension behind "+" (RFC 5233), the hash and time of SRS and BATV, and all numbers.
    """
    local, at, domain = sender.lower().rpartition("@")
    local = re.sub(r"^(srs[01])[=+-].*", r"\1", local)
    local = re.sub(r"^prvs=[^=]*=", "prvs=", local)
    local = local.partition("+")[0] or local
    # a word with digits behind a separator is a tag, such as "a3f09c" in "bounce-a3f09c"
    local = re.sub(r"(?<=[-=_.])(?=[a-z]*[0-9])[a-z0-9]+|[0-9]+", "#", local)
    return local + at + domain


def triplet_key(network: str, sender: str, recipient: str) -> bytes:
    """The key of a triplet; `sender` folded or not."""
    return _key(b"t", network, sender.lower(), recipient.lower())


def network_key(network: str) -> bytes:
    """The key of a client's network."""
    return _key(b"n", network)


def _key(kind: bytes, *parts: str) -> bytes:
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=KEY_BYTES, person=kind).digest()
