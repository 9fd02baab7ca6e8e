"""SASLprep (RFC 4013): the one form of a login or password that may be typed in several ways.

Made with the tables of the standard library (RFC 3454). PRECIS (RFC 8265) has replaced it, but SCRAM (RFC 5802 §2.2) and
all its clients in use name SASLprep, and both give the same for what people type.
"""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable

_PROHIBITED: tuple[Callable[[str], bool], ...] = (
    # RFC 4013 §2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str) -> str:
    """The prepared form of `text`, unassigned code points allowed (a "query" of RFC 3454 §7).

    Raises ValueError for characters that a login or password may not hold, and for mixed writing directions.
    """
    if text.isascii():
        if not text.isprintable():
            raise ValueError("a control character")
        return text
    # §2.1: non-ASCII spaces become spaces, what is commonly mapped to nothing goes; §2.2: NFKC
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    prepared = unicodedata.normalize("NFKC", mapped)
    if any(prohibited(c) for c in prepared for prohibited in _PROHIBITED):
        raise ValueError("a prohibited character")
    if any(map(stringprep.in_table_d1, prepared)) and (
        # RFC 3454 §6
        any(map(stringprep.in_table_d2, prepared))
        or not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1]))
    ):
        raise ValueError("mixed writing directions")
    return prepared
