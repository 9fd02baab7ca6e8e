"""The form of log lines: text and JSON, quoting, and that no value can forge a line or a field."""

import json
import re
import shlex
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.observe.lines import VALUE_LIMIT, Clock, Event, JsonFormatter, Level, TextFormatter, quote

AT = 1_700_000_000.1239


def text(*events: Event) -> str:
    return TextFormatter().format(list(events)).decode()


def one(name: str = "delivered", level: int = Level.INFO, **fields: object) -> Event:
    return (AT, level, name, fields)


def body(line: str) -> str:
    """The line without its time."""
    return line.partition(" ")[2]


def test_a_plain_line() -> None:
    line = text(one(id="1js8he3dc00", from_="a@example.test", size=1024, delays="0.1/0/0/0.2"))
    assert body(line) == "info delivered id=1js8he3dc00 from=a@example.test size=1024 delays=0.1/0/0/0.2\n"


def test_time_is_iso_8601_with_milliseconds_and_zone() -> None:
    stamp = text(one()).split(" ")[0]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.123[+-]\d\d:\d\d", stamp)


def test_clock_follows_the_time() -> None:
    clock = Clock()
    stamps = [clock.stamp(t)[17:23] for t in (60.0, 60.0004, 60.001, 61.5, 60.25)]
    assert stamps == ["00.000", "00.000", "00.001", "01.500", "00.250"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("a=b", '"a=b"'),
        ("back\\slash", '"back\\\\slash"'),
        ("line\r\nbreak", '"line\\r\\nbreak"'),
        ("esc\x1b[2J", '"esc\\x1b[2J"'),
        ("c1\x9b", '"c1\\x9b"'),
        ("bidi\u202e", '"bidi\\u202e"'),
        ("line\u2028separator", '"line\\u2028separator"'),
        ("mark\x1fgap\x1e", '"mark\\x1fgap\\x1e"'),
        ("broken\udcff", '"broken\\udcff"'),
        ("grüße@example.test", "grüße@example.test"),
        (None, "None"),
        (1.5, "1.5"),
    ],
)
def test_values_are_quoted_and_escaped_where_needed(value: object, shown: str) -> None:
    assert quote(value) == shown
    assert body(text(one(helo=value, id="x"))) == f"info delivered helo={shown} id=x\n"


def test_a_client_cannot_forge_a_line_or_a_field() -> None:
    evil = "x\n2026-01-01T00:00:00.000+00:00 info delivered id=forged"
    lines = text(one("connect", helo=evil), one("connect", helo="y\x1fstatus\x1esent"), one("connect", helo="z"))
    assert lines.count("\n") == 3
    assert "status=sent" not in lines
    assert " id=forged" not in lines.replace("delivered id=forged", "")
    assert [shlex.split(line)[3].split("=", 1)[0] for line in lines.splitlines()] == ["helo"] * 3


def test_a_long_value_keeps_its_beginning_and_its_end() -> None:
    line = text(one(helo="a" * 50_000 + "b" * 50_000))
    assert "a" * (VALUE_LIMIT // 2) + "…" + "b" * (VALUE_LIMIT // 2) in line
    assert len(line) < VALUE_LIMIT + 100


def test_percent_signs_are_only_text() -> None:
    assert body(text(one("50%s", helo="100%", **{"k%d": "%s"}))) == "info 50%s helo=100% k%d=%s\n"


def test_an_unknown_level_is_shown_as_info() -> None:
    assert body(text(one(level=25))) == "info delivered\n"


class TestEveryValue:
    values: ClassVar = st.lists(st.one_of(st.text(), st.text(alphabet=' "=\\\x1e\x1f\n%ab'), st.integers()), max_size=6)

    @given(st.lists(values, min_size=1, max_size=4))
    def test_fast_and_careful_ways_agree(self, rows: list[list[object]]) -> None:
        events = [one(**{f"k{i}": v for i, v in enumerate(row)}) for row in rows]
        expected = "".join(
            " ".join(["info delivered", *(f"k{i}={quote(v)}" for i, v in enumerate(row))]) + "\n" for row in rows
        )
        assert "".join(body(line) + "\n" for line in text(*events).split("\n")[:-1]) == expected

    @given(values)
    def test_json_reads_back(self, row: list[object]) -> None:
        line = JsonFormatter().format([one(**{f"k{i}_": v for i, v in enumerate(row)})])
        assert line.count(b"\n") == 1
        record = json.loads(line)
        assert record["event"] == "delivered"
        assert record["level"] == "info"
        assert [record[f"k{i}"] for i in range(len(row))] == row


def test_json_of_many_events_is_one_object_a_line() -> None:
    evil = 'x"},{"time":"forged'
    data = JsonFormatter().format([one(helo=evil, n=1), one(n=2), one(helo="a\nb", n=3)])
    records = [json.loads(line) for line in data.splitlines()]
    assert [record["n"] for record in records] == [1, 2, 3]
    assert [record.get("helo") for record in records] == [evil, None, "a\nb"]


def test_json_cuts_long_values_and_shows_strange_ones() -> None:
    record = json.loads(JsonFormatter().format([one(a="x" * 5000, b=True, c={1, 2}, d=None)]))
    assert len(record["a"]) == VALUE_LIMIT + 1
    assert record["d"] is None
    assert record["c"] == "{1, 2}"
