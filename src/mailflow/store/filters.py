"""From an administrator's selection to conditions in SQL, and to and from JSON for the control socket. Pure.

The conditions name columns of `recipient` and `message` only, and all values are bound, never written into the text.
`*` becomes LIKE's `%`; LIKE ignores the case of ASCII letters, as an operator expects of addresses.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, NamedTuple

from mailflow.envelope import HELD
from mailflow.ids import format_id, parse_id
from mailflow.store.values import Selection

_STATES = {
    "queued": "attempts = 0 AND due < :held",
    "deferred": "attempts > 0 AND due < :held",
    "held": "due >= :held",
    "due": "due <= :now",
}
_TEXTS = frozenset({"destination", "sender", "recipient", "client", "state", "reason"})
_NUMBERS = frozenset({"before", "after", "larger", "smaller", "limit"})


class Conditions(NamedTuple):
    """A selection in SQL, its ids left out."""

    recipient: str
    """On columns of `recipient`; "TRUE" when there is none."""
    message: str
    """On columns of `message`; "" when there is none, and then the table need not be looked at."""
    values: dict[str, Any]
    """What both need bound."""

    @property
    def tables(self) -> str:
        """What stands behind FROM. CROSS: only the recipients of messages that fulfil their conditions are looked at."""
        return "message CROSS JOIN recipient ON message_id = id" if self.message else "recipient"

    @property
    def both(self) -> str:
        """What stands behind WHERE."""
        return f"{self.recipient} AND {self.message}" if self.message else self.recipient


def conditions(selection: Selection, now: float) -> Conditions:
    """What a recipient and its message have to fulfil; `now` in seconds since 1970."""
    s = selection
    values: dict[str, Any] = {"held": HELD, "now": now}
    recipient, message = [], []
    if s.destination is not None:
        recipient.append(_text("destination", "destination", s.destination, values))
    if s.recipient is not None:
        by_original = _text("original", "recipient", s.recipient, values)
        recipient.append(f"({_text('address', 'recipient', s.recipient, values)} OR {by_original})")
    if s.reason is not None:
        values["reason"] = f"%{_like(s.reason)}%"
        recipient.append(r"reason LIKE :reason ESCAPE '\'")
    if s.state is not None:
        recipient.append(f"({_STATES[s.state]})")
    if s.sender is not None:
        message.append(_text("sender", "sender", s.sender, values))
    if s.client is not None:
        message.append(_client(s.client, values))
    for name, test in (
        ("before", "arrived <="),
        ("after", "arrived >="),
        ("larger", "size >="),
        ("smaller", "size <="),
    ):
        if (value := getattr(s, name)) is not None:
            values[name] = value
            message.append(f"{test} :{name}")
    return Conditions(" AND ".join(recipient) or "TRUE", " AND ".join(message), values)


def exact_destination(selection: Selection) -> str | None:
    """The one destination that is meant, for which there is an index; None when it is none or many."""
    name = selection.destination
    return None if name is None or "*" in name else name


def _like(pattern: str) -> str:
    r"""A pattern for LIKE … ESCAPE '\'."""
    escaped = pattern.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return escaped.replace("*", "%")


def _text(column: str, name: str, pattern: str, values: dict[str, Any]) -> str:
    if name == "destination" and "*" not in pattern:
        values[name] = pattern
        return f"{column} = :{name}"
    values[name] = _like(pattern)
    return rf"{column} LIKE :{name} ESCAPE '\'"


def _client(pattern: str, values: dict[str, Any]) -> str:
    """On the two forms that `rows.peer_text` writes: fields with tabs between, or JSON.

    The cheap tests come first, and nearly always say no: the pattern is nowhere in it, and it is not JSON.
    """
    values["client_part"] = f"%{_like(pattern)}%"
    values["client"] = f"%\t{_like(pattern)}\t%"
    values["client_json"] = f'[%"{_like(json.dumps(pattern)[1:-1])}"%'
    return (
        r"((peer LIKE :client_part ESCAPE '\' AND char(9) || peer || char(9) LIKE :client ESCAPE '\')"
        r" OR (peer >= '[' AND peer < '\' AND peer LIKE :client_json ESCAPE '\'))"
    )


def to_json(selection: Selection) -> dict[str, Any]:
    """A selection as the control socket takes it: what is given, ids in their text form, "all" for everything."""
    given = {f.name: getattr(selection, f.name) for f in fields(selection)}
    given["ids"] = None if selection.ids is None else [format_id(i) for i in selection.ids]
    given["all"] = given.pop("everything") or None
    return {name: value for name, value in given.items() if value is not None}


def from_json(given: dict[str, Any]) -> Selection:
    """What `to_json` wrote. Raises ValueError for what is no selection: unknown names, wrong types, nothing at all."""
    values = dict(given)
    everything = values.pop("all", False)
    ids = values.pop("ids", None)
    if not isinstance(everything, bool):
        raise ValueError("all: true or false expected")  # noqa: TRY004 - of the data, not of our code
    if ids is not None and not (isinstance(ids, list) and ids and all(isinstance(i, str) for i in ids)):
        raise ValueError("ids: a list of queue ids expected")
    for name, value in values.items():
        _check(name, value)
    return Selection(ids=None if ids is None else tuple(map(parse_id, ids)), everything=everything, **values)


def _check(name: str, value: object) -> None:
    if name in _TEXTS:
        if not isinstance(value, str):
            raise ValueError(f"{name}: text expected")
    elif name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: a number expected")
    else:
        raise ValueError(f"{name}: no such condition (accepted: all, ids, {', '.join(sorted(_TEXTS | _NUMBERS))})")
