"""Which answers of a DNS list mean "listed". Pure; RFC 5782 §2.3, and the error codes of the large lists.

Never counted, whatever a filter says: what is outside of 127.0.0.0/8 (a provider that answers every name, an abandoned
zone that was bought by somebody), 127.0.0.1 (RFC 5782 §5 keeps it free; surbl.org and uribl.com say "blocked" with it) and
127.255.255.0/24 (spamhaus.org: mistyped zone, public resolver, too many queries).

A filter is an address, a network, or a pattern of four parts: `127.0.0.2`, `127.0.0.0/24`, `127.0.0.[2..11]`,
`127.0.[0..255].[1;3;5..9]`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable

Accepts = Callable[[str], bool]

OVER_QUOTA = "127.0.0.255"
"""dnswl.org: too many queries. Never counts for a list that speaks in a client's favour."""

_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
_ERRORS = ipaddress.IPv4Network("127.255.255.0/24")
_FREE = ipaddress.IPv4Address("127.0.0.1")
_PART = re.compile(r"\d{1,3}|\[\d{1,3}(?:\.\.\d{1,3})?(?:;\d{1,3}(?:\.\.\d{1,3})?)*\]")
_PATTERN = re.compile(rf"({_PART.pattern})\.({_PART.pattern})\.({_PART.pattern})\.({_PART.pattern})")
_ACCEPTED = 'accepted: "127.0.0.2", "127.0.0.0/24", "127.0.0.[2..11]", "127.0.[0..255].[1;3;5..9]"'


def is_error(answer: str) -> bool:
    """Whether an answer is a list's way to say that it does not answer (127.255.255.0/24)."""
    return ipaddress.IPv4Address(answer) in _ERRORS


def usable(answer: str) -> bool:
    """Whether an answer can mean "listed" at all."""
    address = ipaddress.IPv4Address(answer)
    return address in _LOOPBACK and address not in _ERRORS and address != _FREE


def parse_filter(text: str) -> Accepts:
    """The test that a filter stands for. Raises ValueError with the accepted forms."""
    if "/" in text:
        try:
            network = ipaddress.IPv4Network(text)
        except ValueError:
            raise ValueError(f'"{text}" is not a reply filter ({_ACCEPTED})') from None
        return lambda answer: ipaddress.IPv4Address(answer) in network
    match = _PATTERN.fullmatch(text)
    if not match:
        raise ValueError(f'"{text}" is not a reply filter ({_ACCEPTED})')
    first, second, third, fourth = (_numbers(part, text) for part in match.groups())

    def accepts(answer: str) -> bool:
        a, b, c, d = map(int, answer.split("."))
        return a in first and b in second and c in third and d in fourth

    return accepts


def any_of(filters: Iterable[str]) -> Accepts:
    """What at least one filter accepts; everything when there is none. Raises ValueError."""
    tests = [parse_filter(text) for text in filters]
    return (lambda answer: any(test(answer) for test in tests)) if tests else (lambda _answer: True)


def _numbers(part: str, text: str) -> frozenset[int]:
    """The numbers of one part: "7", or "[1;3;5..9]"."""
    numbers: set[int] = set()
    for piece in part.strip("[]").split(";"):
        low, _, high = piece.partition("..")
        first, last = int(low), int(high or low)
        if first > last or last > 255:
            raise ValueError(f'"{text}" is not a reply filter: {piece} is no range of 0..255 ({_ACCEPTED})')
        numbers.update(range(first, last + 1))
    return frozenset(numbers)
