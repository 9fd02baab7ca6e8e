"""On which line of a TOML file does a key stand?

`tomllib` reads values and forgets where they stood. `positions` walks over the same text, which `tomllib` has
already accepted, and notes the line of every table, key, array element and key of an inline table. Paths
are tuples: `[[listener]]` then `bind = …` is `("listener", 0, "bind")`. Pure. It does not check syntax or read values.
"""

from __future__ import annotations

import re

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^\s,\]}#]+(?: \d[^\s,\]}#]*)?")  # a date and a time may have a space between them
_ESCAPE = re.compile(r'\\(["\\btnfre]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})')
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b", '"': '"', "\\": "\\"}


def positions(text: str) -> dict[KeyPath, int]:
    """The line, counted from 1, of everything in a valid TOML text that has a name or an index."""
    return _Walk(text).document()


def format_key(path: KeyPath) -> str:
    """The path as people write it: `listener[0].bind`; parts that are no bare keys are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part if _BARE.fullmatch(part) else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
            text += f".{bare}" if text else bare
    return text


class _Walk:
    """One pass over the text; `at` is the place reached."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.found: dict[KeyPath, int] = {}
        self.lengths: dict[KeyPath, int] = {}  # of arrays of tables

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip()
        return self.found

    def _header(self) -> KeyPath:
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        line = self._line()
        path: KeyPath = ()
        keys = self._keys()
        for i, key in enumerate(keys):
            path += (key,)
            if array and i == len(keys) - 1:
                self.lengths[path] = self.lengths.get(path, 0) + 1
            if path in self.lengths:
                path += (self.lengths[path] - 1,)
        self._skip()
        self.at += 2 if array else 1
        self._note(path, line)
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table + tuple(self._keys())
        self._skip()
        self.at += 1  # the equals sign
        for end in range(len(table) + 1, len(path) + 1):
            self._note(path[:end], line)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip()
        char = self.text[self.at]
        if char == "[":
            self._array(path)
        elif char == "{":
            self._inline_table(path)
        else:
            match = (_STRING if char in "\"'" else _SCALAR).match(self.text, self.at)
            self.at = match.end() if match else len(self.text)

    def _array(self, path: KeyPath) -> None:
        index = 0
        while self._more("]"):
            self._note((*path, index), self._line())
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        while self._more("}"):
            self._pair(path)

    def _more(self, close: str) -> bool:
        """Steps over the opening bracket or a comma; False behind the closing bracket."""
        if self.text[self.at] != close:
            self.at += self.text[self.at] in "[{,"
            self._skip()
        if self.at < len(self.text) and self.text[self.at] == ",":
            return self._more(close)
        if self.at >= len(self.text) or self.text[self.at] == close:
            self.at += 1
            return False
        return True

    def _keys(self) -> list[str]:
        keys = [self._key()]
        self._skip()
        while self.text[self.at] == ".":
            self.at += 1
            keys.append(self._key())
            self._skip()
        return keys

    def _key(self) -> str:
        self._skip()
        match = _STRING.match(self.text, self.at) or _BARE.match(self.text, self.at)
        if match is None:
            self.at = len(self.text)
            return ""
        self.at = match.end()
        word = match[0]
        if word[0] == "'":
            return word[1:-1]
        return _ESCAPE.sub(_unescape, word[1:-1]) if word[0] == '"' else word

    def _skip(self) -> None:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def _note(self, path: KeyPath, line: int) -> None:
        self.found.setdefault(path, line)


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    return _ESCAPED[code] if code in _ESCAPED else chr(int(code[1:], 16))
