"""The DATA scanner: where a message ends, what it holds, what is refused; for every split of its bytes."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailflow.smtp.data import BARE_NEWLINE, LONG_LINE, TOO_BIG, DataScanner, WholeMessages
from mailflow.smtp.reply import Reply

Outcome = tuple[bytes, bytes | None, Reply | None]


def scan(pieces: list[bytes], scanner: DataScanner | None = None) -> Outcome:
    """(message, what stands behind its end or None when it has not ended, trouble)."""
    scanner = scanner or DataScanner(100_000, 998)
    message = b""
    for i, data in enumerate(pieces):
        piece, end = scanner.feed(data)
        message += piece
        if end >= 0:
            rest = data[end:] + b"".join(pieces[i + 1 :])
            return (message if scanner.trouble is None else b""), rest, scanner.trouble
    return (message if scanner.trouble is None else b""), None, scanner.trouble


def scan_ways(data: bytes, size: int = 100_000, line: int = 998, *, normalise: bool = False) -> Outcome:
    """The same outcome whole, byte by byte, and cut in two at every place."""

    def scanner() -> DataScanner:
        return DataScanner(size, line, normalise=normalise)

    outcome = scan([data], scanner())
    whole = WholeMessages(size, line).take(data)
    assert whole is None or (whole, b"", None) == outcome
    assert scan([data[i : i + 1] for i in range(len(data))], scanner()) == outcome
    if len(data) < 100:
        for cut in range(1, len(data)):
            assert scan([data[:cut], data[cut:]], scanner()) == outcome, cut
    return outcome


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"a\r\n\r\n\r\n.\r\n", b"a\r\n\r\n\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"a\r\n..\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\r\n..b\r\n....\r\n.\r\n", b"a\r\n.b\r\n...\r\n"),
        (b"a\r\n.b\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a.\r\n.\r\n", b"a.\r\n"),
        (b"nul \0 and \xff\r\n.\r\n", b"nul \0 and \xff\r\n"),
    ],
)
@pytest.mark.parametrize("rest", [b"", b"M", b"QUIT\r\n", b".\r\n"])
def test_message_ends_and_dots_are_undone(wire: bytes, message: bytes, rest: bytes) -> None:
    for normalise in (False, True):
        assert scan_ways(wire + rest, normalise=normalise) == (message, rest, None)


@pytest.mark.parametrize("wire", [b"a", b"a\r\n", b"a\r\n.", b"a\r\n.\r", b".", b".\r", b"\r", b"..\r\n"])
def test_message_has_not_ended(wire: bytes) -> None:
    assert scan_ways(wire)[1:] == (None, None)


SMUGGLING = [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r\r\n.\n", b"\r\n\0.\r\n"]


@pytest.mark.parametrize("fake_end", SMUGGLING)
def test_no_fake_end_ends_a_message(fake_end: bytes) -> None:
    """SMTP smuggling (CVE-2023-51764 and its like): only CR LF . CR LF counts."""
    inner = b"MAIL FROM:<evil@x>\r\n"
    _, rest, trouble = scan_ways(b"a" + fake_end + inner + b".\r\nREST")
    assert rest == b"REST"
    assert trouble == (None if fake_end == b"\r\n\0.\r\n" else BARE_NEWLINE)
    message, rest, trouble = scan_ways(b"a" + fake_end + inner + b".\r\nREST", normalise=True)
    assert (rest, trouble) == (b"REST", None)
    assert inner in message
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", message)


def test_bare_newlines_are_normalised() -> None:
    assert (
        scan_ways(b"a\nb\rc\r\nd\r\r\n\n..e\n.\r\n.\r\n", normalise=True)[0]
        == b"a\r\nb\r\nc\r\nd\r\n\r\n\r\n.e\r\n\r\n"
    )


@pytest.mark.parametrize("length", [997, 998, 999, 1000, 1500, 2000])
@pytest.mark.parametrize("before", [b"", b"x\r\n", b"x" * 998 + b"\r\n", b"x\r\n" * 400])
@pytest.mark.parametrize("after", [b"", b"y\r\n", b"y\r\n" * 400])
def test_line_length_is_exact(length: int, before: bytes, after: bytes) -> None:
    trouble = LONG_LINE if length > 998 else None
    wire = before + b"z" * length + b"\r\n" + after + b".\r\n"
    assert scan([wire])[2] == trouble
    assert scan([wire[i : i + 1] for i in range(len(wire))])[2] == trouble
    assert scan([wire[i : i + 700] for i in range(0, len(wire), 700)])[2] == trouble


def test_size_is_exact_and_the_rest_is_swallowed() -> None:
    fits = b"a" * 98 + b"\r\n"
    assert scan_ways(fits + b".\r\nX", size=100) == (fits, b"X", None)
    assert scan_ways(b"a" + fits + b".\r\nX", size=100) == (b"", b"X", TOO_BIG)
    assert scan_ways(b"..\r\n" * 33 + b".\r\nX", size=100)[2] is None


def test_nothing_more_comes_out_once_the_message_is_too_big() -> None:
    scanner = DataScanner(1000, 998)
    given_out = sum(len(scanner.feed(b"x" * 98 + b"\r\n")[0]) for _ in range(10_000))
    assert given_out <= 1000
    assert scanner.feed(b"\r\n.\r\n") == (b"", 5)
    assert scanner.trouble == TOO_BIG


def test_the_short_way_takes_what_is_whole_and_in_order_and_nothing_else() -> None:
    messages = WholeMessages(1000, 998)
    fits = b"a" * 996 + b"\r\n"
    assert messages.take(fits + b".\r\n") == fits
    for other in (
        b"a" + fits + b".\r\n",  # perhaps too long a line
        b".a\r\n.\r\n",
        b"a\r\n..b\r\n.\r\n",
        b"a\r\n.\r\nNOOP\r\n.\r\n",
        b"a\nb\r\n.\r\n",
        b"a\rb\r\n.\r\n",
        b"a\n\r\n.\r\n",
        b"a\r\n",
        b".\r\n",
    ):
        assert messages.take(other) is None, other
        assert messages.take(b"a\r\n.\r\n") == b"a\r\n", other


def naive(wire: bytes) -> tuple[bytes, bytes | None]:
    """The standard's words, line by line: what the message is, and what is behind it."""
    message, rest = b"", wire
    while True:
        line, newline, rest = rest.partition(b"\r\n")
        if not newline:
            return message, None
        if line == b".":
            return message, rest
        message += (line[1:] if line.startswith(b".") else line) + b"\r\n"


WIRE = st.lists(st.sampled_from([b"\r\n", b".", b"a", b"\r\n.\r\n", b"..", b"xy"]), max_size=40).map(b"".join)


@given(WIRE.filter(bool), st.lists(st.integers(1, 9), max_size=20))
@example(b".\r\n.\r\n", [1])
def test_any_split_gives_what_the_standard_says(wire: bytes, cuts: list[int]) -> None:
    pieces, left = [], wire
    for cut in cuts:
        if left:
            pieces.append(left[:cut])
            left = left[cut:]
    pieces += [left] if left else []
    message, rest, trouble = scan(pieces)
    expected, expected_rest = naive(wire)
    assert (rest, trouble) == (expected_rest, None)
    if rest is not None:
        assert message == expected


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\0", b"\r\n.\r\n"]), min_size=1, max_size=25).map(b"".join)
)
def test_anything_is_scanned_alike_for_every_split(wire: bytes) -> None:
    for normalise in (False, True):
        message, rest, trouble = scan_ways(wire, size=12, line=5, normalise=normalise)
        if trouble is None and rest is not None:
            assert not re.search(rb"(?<!\r)\n|\r(?!\n)", message)
            assert len(message) <= 12
