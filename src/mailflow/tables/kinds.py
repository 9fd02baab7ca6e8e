"""The kinds of tables. Pure: entries in, a table out; where they were read is `opening.py`'s business."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from mailflow.setting import parse_network
from mailflow.tables.patterns import Unbounded, compile_bounded
from mailflow.tables.table import KEY_CHARACTERS, Table, TableError

Entry = tuple[str, str, int]
"""Key, value, and the line of the file it stands on (0: no file)."""


class Exact:
    """Each key by itself."""

    __slots__ = ("_values",)

    patterns = False

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._values: dict[str, str] = {}
        for key, value, _ in entries:
            self._values.setdefault(key.lower(), value)

    def __repr__(self) -> str:
        return f"<Exact {len(self._values)}>"

    def get(self, key: str, /) -> str | None:
        """The value of the key."""
        return self._values.get(key.lower())


class Cidr:
    """The first network that holds the address. IPv4 addresses inside of IPv6 count as what they are."""

    __slots__ = ("_networks",)

    patterns = True

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Raises TableError."""
        self._networks: list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]] = []
        for key, value, line in entries:
            try:
                self._networks.append((parse_network(key), value))
            except ValueError as error:
                raise TableError(f'"{key}": {error}', line) from None

    def __repr__(self) -> str:
        return f"<Cidr {len(self._networks)}>"

    def get(self, key: str, /) -> str | None:
        """The value of the first network; None for a key that is no address."""
        address = address_of(key)
        if address is None:
            return None
        return next((value for network, value in self._networks if address in network), None)


class Patterns:
    """The first pattern that is found in the key, which is cut at no place: patterns look at all of it."""

    __slots__ = ("_patterns",)

    patterns = True

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Raises TableError."""
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for key, value, line in entries:
            try:
                self._patterns.append((compile_bounded(key), value))
            except Unbounded as error:
                raise TableError(f"{key}: {error}", line) from None

    def __repr__(self) -> str:
        return f"<Patterns {len(self._patterns)}>"

    def get(self, key: str, /) -> str | None:
        """The value of the first pattern."""
        if len(key) > KEY_CHARACTERS:
            return None
        return next((value for pattern, value in self._patterns if pattern.search(key)), None)


KINDS: dict[str, type[Exact | Cidr | Patterns]] = {
    "inline": Exact,
    "text": Exact,
    "cidr": Cidr,
    "regexp": Patterns,
}


def make(kind: str, entries: Iterable[Entry]) -> Table:
    """A table of a kind. Raises TableError."""
    return KINDS[kind](entries)


def read_entries(kind: str, text: str) -> Iterable[Entry]:
    """The entries of a table's file: "key value" on each line, "#" in front of a comment, patterns between slashes.

    Raises TableError for a pattern without slashes.
    """
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        if kind == "regexp":
            match = re.fullmatch(r"/(.*)/(?:\s+(.*))?", words)
            if match is None:
                raise TableError("not a pattern (accepted: the pattern between slashes, then its value)", number)
            yield match[1], match[2] or "", number
        else:
            key, *value = words.split(None, 1)
            yield key, value[0] if value else "", number


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text is, IPv4 inside of IPv6 undone; None when it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
