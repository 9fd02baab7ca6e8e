"""Regular expressions that cannot run away. Pure.

Python's `re` backtracks and has no time limit, and it holds the loop while it runs. So the time is bounded by what is allowed:
keys have at most `KEY_CHARACTERS`, a pattern at most `REPEATS` repetitions without a bound, and none of them, nor a
choice ("a|b"), may stand inside of another: that is what makes time exponential ("(a+)+", "(a|a)*"). Back-references are
not allowed either. What is left takes at worst a number of steps of the order of the key's length to the power of REPEATS.
"""

from __future__ import annotations

import re
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

REPEATS = 3
"""Repetitions without a bound in one pattern; leading and trailing ".*" are not needed, as patterns are searched for."""
BOUNDED = 64
"""A repetition "{m,n}" up to this n is bounded."""


class Unbounded(ValueError):
    """The pattern is no pattern, or could take too long; the words say why."""


def compile_bounded(text: str) -> re.Pattern[str]:
    """The compiled pattern, without regard to case. Raises Unbounded."""
    try:
        tree = _parser.parse(text, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise Unbounded(f"not a regular expression: {error}") from None
    if _repeats(tree, inside=False) > REPEATS:
        raise Unbounded(f'more than {REPEATS} repetitions without a bound (accepted: fewer "*" and "+", or "{{0,20}}")')
    return re.compile(text, re.IGNORECASE)


def _repeats(tree: Any, *, inside: bool) -> int:
    """How many repetitions without a bound there are. Raises Unbounded for one inside of another."""
    count = 0
    for operation, argument in tree:
        if operation in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            _least, most, repeated = argument
            wide = most > BOUNDED
            several = most > 1
            if inside and several:
                raise Unbounded('a repetition inside of another (accepted: "[a-z.]+" in place of "([a-z]+.)+")')
            count += wide
            count += _repeats(repeated, inside=inside or several)
        elif operation is _constants.BRANCH:
            if inside:
                raise Unbounded(
                    'a choice inside of a repetition (accepted: "[ab]+" in place of "(a|b)+", or two entries)'
                )
            count += max(_repeats(branch, inside=inside) for branch in argument[1])
        elif operation in (_constants.GROUPREF, _constants.GROUPREF_EXISTS):
            raise Unbounded("a back-reference (accepted: patterns without)")
        else:
            count += sum(_repeats(part, inside=inside) for part in _parts(argument))
    return count


def _parts(argument: Any) -> list[Any]:
    """The patterns within an operation's argument: groups, look-ahead and the like."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [part for part in argument if isinstance(part, _parser.SubPattern)]
    return []
