"""The text form, made in one go for a whole slice, against a plain description of it: byte for byte."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.observe.lines import VALUE_LIMIT, Event, Level, TextFormatter

ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
WORDS = {10: "debug", 20: "info", 30: "warning", 40: "error"}
LINE_LIMIT = 4096
"""Up to here, a line of plain values is written as it is."""


def escaped(char: str) -> str:
    if char in ESCAPES or char.isprintable():
        return ESCAPES.get(char, char)
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown(key: str, value: object) -> str:
    text = str(value)
    if len(text) > VALUE_LIMIT:
        text = text[: VALUE_LIMIT // 2] + "…" + text[-VALUE_LIMIT // 2 :]
    quoted = "".join(map(escaped, text))
    return f'"{quoted}"' if key == "reason" or quoted != text or " " in text or "=" in text else text


def stamp(at: float) -> str:
    milliseconds = int(at * 1000)
    local = time.localtime(milliseconds // 1000)
    zone = time.strftime("%z", local)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{milliseconds % 1000:03d}{zone[:3]}:{zone[3:5]}"


def reference(events: list[Event]) -> Iterator[bytes]:
    for at, level, name, fields in events:
        pairs = sorted(fields.items(), key=lambda pair: pair[0] == "reason")  # stable: only the free text moves
        words = [f"{key.removesuffix('_')}={shown(key, value)}" for key, value in pairs]
        yield " ".join([stamp(at), WORDS.get(level, "info"), name, *words]).encode() + b"\n"


class Shown:
    """A value that is put into words only by the writer."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


texts = st.one_of(
    st.text(alphabet="abcxyz09@.-[]:<>", max_size=20),
    st.text(alphabet=st.characters(codec=None), max_size=8),  # lone surrogates among them
    st.text(alphabet=' "=\\\x00\x1b\x7f\x9b\n\r\tab%sé\u2028\u202e', max_size=8),
)
values = st.one_of(
    *(texts, texts.map(Shown), st.integers(), st.floats(), st.booleans(), st.none(), st.binary(max_size=5)),
    *(st.lists(texts, max_size=2), st.tuples(texts), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)),
)
plain = st.one_of(st.text(alphabet="abcxyz09@.-[]:<>", max_size=20), st.integers(), st.floats())
keys = st.sampled_from(["id", "from_", "to", "size", "reason", "delays", "k%s"])
times = st.one_of(st.floats(0, 4e9), st.sampled_from([0.0, 0.0005, 0.001, 1_800_000_000.1239, 1_800_000_000.124]))
levels = st.sampled_from([*Level, 10, 20, 30, 40, 25])


def events_of(kind: st.SearchStrategy[object], most: int) -> st.SearchStrategy[list[Event]]:
    """Events of few names, so that a name comes again with other keys and in another order."""
    fields = st.lists(st.tuples(keys, kind), max_size=6).map(dict)
    names = st.sampled_from(["received", "delivered", "100%s"])
    return st.lists(st.tuples(times, levels, names, fields), min_size=1, max_size=most)


@given(st.lists(st.one_of(events_of(plain, 40), events_of(values, 5)), min_size=1, max_size=3))
def test_any_events(slices: list[list[Event]]) -> None:
    formatter = TextFormatter()
    for events in slices:
        assert formatter.format(events) == b"".join(reference(events))


@given(events_of(plain, 30), st.integers(0, 30), events_of(values, 1))
def test_one_strange_event_among_many_plain_ones(events: list[Event], place: int, strange: list[Event]) -> None:
    events = events[:place] + strange + events[place:]
    assert TextFormatter().format(events) == b"".join(reference(events))


@pytest.mark.parametrize("length", [VALUE_LIMIT - 1, VALUE_LIMIT, VALUE_LIMIT + 1, LINE_LIMIT, 2 * LINE_LIMIT])
@pytest.mark.parametrize("beside", [0, 1, 50])
def test_long_free_text_is_cut(length: int, beside: int) -> None:
    short: Event = (1_800_000_000.0, 20, "removed", {"id": "1js8he3dc00", "reason": "done"})
    long: Event = (
        1_800_000_000.0,
        20,
        "delivered",
        {"id": "1js8he3dc00", "reason": "x " * (length // 2) + "x" * (length % 2)},
    )
    events = [short] * beside + [long] + [short] * beside
    assert TextFormatter().format(events) == b"".join(reference(events))


@pytest.mark.parametrize("beside", [0, 1, 50])
@pytest.mark.parametrize("missing", [0, 1])
def test_a_plain_value_is_cut_when_its_line_is_too_long(beside: int, missing: int) -> None:
    short: Event = (1_800_000_000.0, 20, "queued", {"id": "1js8he3dc00"})
    around = len(next(reference([(1_800_000_000.0, 20, "queued", {"helo": ""})])))
    value = "x" * (LINE_LIMIT - around + 1 - missing)
    lines = TextFormatter().format(
        [short] * beside + [(1_800_000_000.0, 20, "queued", {"helo": value})] + [short] * beside
    )
    assert (f"helo={value}\n" if missing else f"helo={value[:512]}…{value[-512:]}\n").encode() in lines
