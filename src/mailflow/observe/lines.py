"""The form of log lines: events in, bytes out.

Pure; called by the log's writer thread with slices of events, so that its cost is paid beside the loop.

Text form: `2026-11-22T07:52:22.123+00:00 info delivered id=1js8he3dc00 to=bob@example.test status=sent`.
A value is quoted when it holds a space, quote, "=" or backslash or a character that is not printable; inside quotes
these are escaped (`\\"`, `\\\\`, `\\n`, `\\x1b`, `\\u202e`). So one event is always one line, and no client can
write a line or a field of its own (log injection). `reason` is free text: always quoted, always last. JSON form: one
object a line, keys `time`, `level`, `event`, then the fields. Of values longer than `VALUE_LIMIT` characters the middle is left out.

Why the text form is built the way it is: at 40,000 lines/s the writer thread shares the GIL with the loop, and
looking at each value costs 3 µs a line. So a whole slice is made by one %-operator, and its values are checked together:
all characters that would have to be quoted are picked out of the lines. The templates have so many of them, and so many
are in the free texts, where spaces and "=" may stand; if they are no more than that, no other value has any. Where that
fails, it is done again with few events at a time, and with those that fail again the slow, exact way.
"""

from __future__ import annotations

import json
import time
from enum import IntEnum
from typing import Any, Protocol

VALUE_LIMIT = 1024
_LINE_LIMIT = 4096  # longer ones are looked at value by value, so that VALUE_LIMIT holds
_TEMPLATES_LIMIT = 1000  # event names and keys stand in our code, so this is never reached
_SLICE = 16  # events looked at again together, when something among many more needs to be quoted
_FREE = "reason"  # the one field that holds sentences
_PLAIN = bytes(b for b in range(33, 127) if b not in b'="\\')
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Level(IntEnum):
    """How much an event matters."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


_WORDS = {level.value: level.name.lower() for level in Level}

Event = tuple[float, int, str, dict[str, object]]
"""Time in seconds since 1970, level, name, fields."""


class Formatter(Protocol):
    """Turns a slice of events into the bytes to write."""

    def format(self, events: list[Event]) -> bytes: ...


class Clock:
    """Local time as ISO 8601 with milliseconds and zone; the parts are kept while the time does not change."""

    __slots__ = ("_millisecond", "_second", "_start", "_text", "_zone")

    def __init__(self) -> None:
        self._second = self._millisecond = -1
        self._start = self._zone = self._text = ""

    def stamp(self, at: float) -> str:
        """The text for `at` seconds since 1970: "2026-11-22T07:52:22.123+00:00"."""
        millisecond = int(at * 1000)
        if millisecond != self._millisecond:
            second = millisecond // 1000
            if second != self._second:
                local = time.localtime(second)
                self._start = time.strftime("%Y-%m-%dT%H:%M:%S.", local)
                zone = time.strftime("%z", local)
                self._zone = f"{zone[:3]}:{zone[3:5]}"
                self._second = second
            self._millisecond = millisecond
            self._text = f"{self._start}{millisecond - second * 1000:03d}{self._zone}"
        return self._text


def key_of(name: str) -> str:
    """The key that a keyword stands for: "from_" -> "from", because Python has that word for itself."""
    return name.removesuffix("_")


def _shortened(text: str) -> str:
    """VALUE_LIMIT characters of a longer text: its beginning, and its end, where a traceback says what happened."""
    half = VALUE_LIMIT // 2
    return f"{text[:half]}…{text[-half:]}"


def quote(value: object) -> str:
    """One value in text form, quoted and escaped where that is needed."""
    text = value if isinstance(value, str) else str(value)
    if len(text) > VALUE_LIMIT:
        text = _shortened(text)
    if '"' in text or "\\" in text or not text.isprintable():
        return f'"{"".join(map(_escape, text))}"'
    return f'"{text}"' if " " in text or "=" in text else text


def _escape(char: str) -> str:
    if char.isprintable():
        return f"\\{char}" if char in '"\\' else char
    code = ord(char)
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote_always(value: object) -> str:
    """One value of free text, always in quotes."""
    text = quote(value)
    return text if text.startswith('"') else f'"{text}"'


_Template = tuple[list[str] | None, int, str, int, int]
"""How events of one level, name and list of keys are written: the keys and the level; the line for the %-operator, of time
and all values, the free text last; how many of its characters are not plain (its spaces, "=", quotes and line end); and
the place of the free text among the values, from the end, 0 when there is none."""
_NO_TEMPLATE: _Template = (None, 0, "", 0, 0)


class TextFormatter:
    """Lines of key=value. Free text comes last and is always quoted."""

    def __init__(self) -> None:
        self._stamp = Clock().stamp
        self._templates: dict[str, _Template] = {}
        """The last one of each event name: nearly always the next event of that name has the same keys."""

    def format(self, events: list[Event]) -> bytes:
        """The lines of some events, each ended by LF."""
        data = self._plain(events)
        if data is not None:
            return data
        if len(events) <= _SLICE:
            return "".join(map(self._careful, events)).encode()
        return b"".join([self.format(events[i : i + _SLICE]) for i in range(0, len(events), _SLICE)])

    def _plain(self, events: list[Event]) -> bytes | None:
        """The lines, if no value in them needs to be quoted, and no free text to be escaped; else None."""
        text, said, marks = self._fill(events)
        if not text.isascii() or _is_long(text, said):
            return None
        free = "".join(said).encode().translate(None, _PLAIN)
        data = text.encode()
        if free.translate(None, b" =") or len(data.translate(None, _PLAIN)) != marks + len(free):
            return None
        return data

    def _fill(self, events: list[Event]) -> tuple[str, list[str], int]:
        """The lines as if nothing had to be quoted, the free texts in them, and the marks of their templates."""
        lines: list[str] = []
        values: list[Any] = []
        said: list[str] = []
        find, stamped, low, high, marks = self._templates.get, "", 0.0, 0.0, 0
        for at, level, name, fields in events:
            millisecond = at * 1000
            if not low <= millisecond < high:
                stamped, low = self._stamp(at), millisecond // 1
                high = low + (low >= 0)  # before 1970 numbers are rounded up, so nothing is known of the next event
            keys, made_for, line, count, free = find(name, _NO_TEMPLATE)
            if keys != [*fields] or made_for != level:
                _, _, line, count, free = self._template(level, name, [*fields])
            lines.append(line)
            marks += count
            values.append(stamped)
            values += fields.values()
            if free:
                if free != -1 or type(values[-1]) is not str:
                    values.append(str(values.pop(free)))
                said.append(values[-1])
        return "".join(lines) % tuple(values), said, marks

    def _template(self, level: int, name: str, keys: list[str]) -> _Template:
        """Made anew whenever events of the same name have other keys than the last one had."""
        if len(self._templates) >= _TEMPLATES_LIMIT:
            self._templates.clear()
        words = ["%s", _WORDS.get(level, "info"), name.replace("%", "%%")]
        words += [f"{key_of(k).replace('%', '%%')}=%s" for k in keys if k != _FREE]
        free = keys.index(_FREE) - len(keys) if _FREE in keys else 0
        text = " ".join([*words, f'{_FREE}="%s"'] if free else words) + "\n"
        marks = len(text.encode().translate(None, _PLAIN))
        made: _Template = (keys, level, text, marks, free)
        self._templates[name] = made
        return made

    def _careful(self, event: Event) -> str:
        """The slow, exact way, for a line in which something needs to be quoted."""
        at, level, name, fields = event
        pairs = [f"{key_of(k)}={quote(v)}" for k, v in fields.items() if k != _FREE]
        if _FREE in fields:
            pairs.append(f"{_FREE}={quote_always(fields[_FREE])}")
        return " ".join([self._stamp(at), _WORDS.get(level, "info"), name, *pairs]) + "\n"


def _is_long(text: str, said: list[str]) -> bool:
    """Whether a line or a free text is so long that some value may have to be cut."""
    if not _has_longer_line(text, VALUE_LIMIT):
        return False
    return _has_longer_line(text, _LINE_LIMIT) or any(len(words) > VALUE_LIMIT for words in said)


def _has_longer_line(text: str, limit: int) -> bool:
    """Whether a line is longer than that, its end included; looks at a few places of the text only."""
    start = 0
    while len(text) - start > limit:
        end = text.rfind("\n", start, start + limit)
        if end < 0:
            return True
        start = end + 1
    return False


class JsonFormatter:
    """One JSON object a line. All that is not ASCII is escaped, as JSON allows."""

    def __init__(self) -> None:
        self._stamp = Clock().stamp
        self._encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

    def format(self, events: list[Event]) -> bytes:
        """The lines of some events, each ended by LF."""
        # One call of the encoder for all: making it ready costs as much as a line. A quote inside of a string is always
        # escaped, so an unescaped quote behind a brace begins a key, and only a record's first key is "time".
        records = self._encode([self._record(event) for event in events])
        return records[1:-1].replace('},{"time":', '}\n{"time":').encode() + b"\n"

    def _record(self, event: Event) -> dict[str, object]:
        at, level, name, fields = event
        record: dict[str, object] = {"time": self._stamp(at), "level": _WORDS.get(level, "info"), "event": name}
        for key, value in fields.items():
            if type(value) is str and len(value) > VALUE_LIMIT:
                value = _shortened(value)
            elif type(value) is not str and type(value) is not int and value is not None and type(value) is not float:
                value = str(value)
            record[key_of(key)] = value
        return record
