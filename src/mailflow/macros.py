"""Texts with `${name}` in them (wish 49): greetings, trace fields, reports.

    ${name}        the value
    ${name?text}   text, when there is a value
    ${name:text}   text, when there is none
    $$             a dollar sign

A text behind "?" or ":" may hold macros itself; its braces must match. `Template` reads a text once, when it is
configured, and raises ValueError for what is none; `expand` cannot fail then. Values are put in as they are: who writes
them into a protocol sees to it that they fit there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

DEPTH = 8
"""Macros within macros."""

_TOKEN = re.compile(r"\$\$|\$\{([a-z_][a-z0-9_]*)([?:}])|\$|\}", re.ASCII)

# A piece is literal text, or (name, wanted, pieces): "" wanted: the value; "?" or ":": the pieces, if there is one or none.
_Piece = str | tuple[str, str, list["_Piece"]]


class Template:
    """A text with macros, read."""

    __slots__ = ("_pieces", "names", "text")

    def __init__(self, text: str, names: Collection[str]) -> None:
        """`names` are those that there will be values for. Raises ValueError, with the accepted forms."""
        self.text = text
        self.names = frozenset(names)
        self._pieces, end = self._read(0, 0)
        if end != len(text):
            raise ValueError(f'"}}" without "${{" at character {end}')

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def expand(self, values: Mapping[str, str]) -> str:
        """The text with values; a name without one is empty."""
        return _expand(self._pieces, values)

    def _read(self, start: int, depth: int) -> tuple[list[_Piece], int]:
        """Pieces from `start` to the end, or to the brace that closes them; and where that is."""
        pieces: list[_Piece] = []
        text = self.text
        while (token := _TOKEN.search(text, start)) is not None:
            if (token[0] == "}") and not depth:
                return pieces, token.start()
            pieces.append(text[start : token.start()])
            if token[0] == "}":
                return pieces, token.start()
            start = token.end()
            if token[0] == "$$":
                pieces.append("$")
            else:
                piece, start = self._macro(token, depth)
                pieces.append(piece)
        if depth:
            raise ValueError('"${" that is not closed')
        pieces.append(text[start:])
        return pieces, len(text)

    def _macro(self, token: re.Match[str], depth: int) -> tuple[_Piece, int]:
        name, kind = token[1], token[2]
        if name is None:
            raise ValueError('"$" by itself (accepted: ${name}, ${name?text}, ${name:text}, and $$ for a dollar sign)')
        if name not in self.names:
            raise ValueError(f"${{{name}}} is not known here (accepted: {', '.join(sorted(self.names))})")
        if kind == "}":
            return (name, "", []), token.end()
        if depth >= DEPTH:
            raise ValueError(f"more than {DEPTH} macros within each other")
        inner, end = self._read(token.end(), depth + 1)
        return (name, kind, inner), end + 1


def _expand(pieces: list[_Piece], values: Mapping[str, str]) -> str:
    done = []
    for piece in pieces:
        if isinstance(piece, str):
            done.append(piece)
            continue
        name, kind, inner = piece
        value = values.get(name, "")
        if not kind:
            done.append(value)
        elif bool(value) == (kind == "?"):
            done.append(_expand(inner, values))
    return "".join(done)
