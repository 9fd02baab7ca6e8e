"""Regular expressions that cannot run away. Pure.

Python's `re` backtracks and has no time limit, and it holds the loop while it runs. So the time is bounded by what is allowed.
No repetition and no choice ("a|b") may stand inside of another repetition: that is what makes time exponential
("(a+)+", "(a|a)*"). Back-references are not allowed either. What is left tries at worst each length of each
repetition together with each of the others, on keys of at most `KEY_CHARACTERS`; that product is bounded by `STEPS`.
"""

from __future__ import annotations

import re
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from mailflow.tables.table import KEY_CHARACTERS

LENGTHS = KEY_CHARACTERS + 1
"""Of a repetition without a bound."""
STEPS = LENGTHS**3
"""Three repetitions without a bound; some 30 ms at worst. A pattern that may begin anywhere has one of them already."""

_ANCHORS = (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING)
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)


class Unbounded(ValueError):
    """The pattern is no pattern, or could take too long; the words say why."""


def compile_bounded(text: str) -> re.Pattern[str]:
    """The compiled pattern, without regard to case. Raises Unbounded."""
    try:
        tree = _parser.parse(text, re.IGNORECASE)
        anchored = len(tree) > 0 and tree[0][0] is _constants.AT and tree[0][1] in _ANCHORS
        steps = _steps(tree, repeated=False) * (1 if anchored else LENGTHS)
        compiled = re.compile(text, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise Unbounded(f"not a regular expression: {error}") from None
    if steps > STEPS:
        accepted = '3 "*" or "+" in a pattern that begins with "^", 2 in another, more with bounds such as "{0,9}"'
        raise Unbounded(f"too many repetitions (accepted: {accepted})")
    return compiled


def _steps(tree: Any, *, repeated: bool) -> int:
    """How many ways there are to go through a pattern. Raises Unbounded for one repetition inside of another."""
    ways = 1
    for operation, argument in tree:
        if operation in _REPEATS:
            least, most, inner = argument
            most = min(most, KEY_CHARACTERS)
            if repeated:
                raise Unbounded('a repetition inside of another (accepted: "[a-z.]+" in place of "([a-z]+.)+")')
            ways *= max(1, most - least + 1) * _steps(inner, repeated=most > 1)
        elif operation is _constants.BRANCH:
            if repeated:
                raise Unbounded(
                    'a choice inside of a repetition (accepted: "[ab]+" in place of "(a|b)+", or two entries)'
                )
            ways *= sum(_steps(branch, repeated=False) for branch in argument[1])
        elif operation in (_constants.GROUPREF, _constants.GROUPREF_EXISTS):
            raise Unbounded("a back-reference (accepted: patterns without)")
        else:
            for part in _parts(argument):
                ways *= _steps(part, repeated=repeated)
    return ways


def _parts(argument: Any) -> list[Any]:
    """The patterns within an operation's argument: groups, look-ahead and the like."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [part for part in argument if isinstance(part, _parser.SubPattern)]
    return []
