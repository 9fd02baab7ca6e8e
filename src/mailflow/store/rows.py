"""Between objects and rows: the columns of message and recipient, and the compact text of peer and options. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from mailflow.envelope import HELD, PLAIN, Message, Options, Peer, Recipient
from mailflow.ids import format_id
from mailflow.store import checksums
from mailflow.store.values import QueuedMessage, QueuedRecipient

MESSAGE_COLUMNS = "id, arrived, size, remaining, sender, peer, options"
RECIPIENT_COLUMNS = "message_id, number, due, attempts, destination, address, original, orcpt, notify, reason"
"""What is to be seen of a recipient."""
RECIPIENT_ROW = f"{RECIPIENT_COLUMNS}, envelope_crc"
"""All of its row: with the checksum of its envelope (checksums.py)."""

NOTHING = -0.5
"""What stands where a row of a batch has no value: no id, count, text or blob is equal to it. Not None, for which Python's
sqlite3 looks for an adapter each time, with the interpreter lock: ten times what it costs to bind a number."""
TEXTS_KEPT = 512
"""Objects whose text is known: some hundred bytes each."""

_PEER_FIELDS = tuple(field.name for field in fields(Peer))
_OPTIONS_FIELDS = tuple(field.name for field in fields(Options))

_encode = json.JSONEncoder(separators=(",", ":")).encode


def peer_text(peer: Peer) -> str:
    """The client record in one text: its fields with tabs between, which costs a sixth of JSON; JSON where that fails."""
    text = f"{peer.address}\t{peer.port}\t{peer.name}\t{peer.helo}\t{peer.protocol}\t{peer.tls}\t{peer.login}"
    tabs = 6
    if peer.reverse or peer.certificate or peer.via:
        text += f"\t{peer.reverse}\t{peer.certificate}\t{peer.via}"
        tabs = 9
    if text.isascii() and text.count("\t") == tabs and text[0] != "[":
        return text
    return _encode([getattr(peer, name) for name in _PEER_FIELDS])


def read_peer(text: str) -> Peer:
    """What `peer_text` wrote."""
    if text.startswith("["):
        return Peer(*json.loads(text))
    address, port, *rest = text.split("\t")
    return Peer(address, int(port), *rest)


def options_text(options: Options) -> str:
    """The envelope's options as JSON; "" for the plain message."""
    if options is PLAIN or options == PLAIN:
        return ""
    values = [getattr(options, name) for name in _OPTIONS_FIELDS]
    return _encode(values if any(values[4:]) else values[:4])


def read_options(text: str) -> Options:
    """What `options_text` wrote."""
    return Options(*json.loads(text)) if text else PLAIN


class Texts:
    """What `write` makes of the objects seen last. A session has one client record for all its mail, and nearly all mail
    has one of a few options. Known by identity, for to compare two records costs as much as to write one."""

    def __init__(self, write: Callable[[Any], str]) -> None:
        self._write = write
        self._known: dict[int, tuple[str, object]] = {}
        """With the object, so that it lives and no other gets its identity."""

    def of(self, thing: object) -> str:
        """Its text, new or known."""
        known = self._known.get(id(thing))
        if known is None:
            if len(self._known) >= TEXTS_KEPT:
                self._known.clear()
            known = self._known[id(thing)] = (self._write(thing), thing)
        return known[0]


class EnteringRows:
    """Makes the rows of messages that enter: `statements.BATCH_COLUMNS`."""

    def __init__(self) -> None:
        self._peer_text = Texts(peer_text).of
        self._options_text = Texts(options_text).of

    def row(
        self,
        m: Message,
        crc: float,
        data: bytes | float,
        segment: float = NOTHING,
        page: float = NOTHING,
        extent: float = NOTHING,
    ) -> tuple[Any, ...]:
        """A message, its first recipient, and its content in `data` or in an extent or, when neither is given, in a file."""
        return *_sealed(self._fields(m)), crc, data, segment, page, extent, NOTHING

    def values(self, m: Message) -> tuple[Any, ...]:
        """A message with one recipient and its content in memory, for the redo log: MESSAGE_COLUMNS, RECIPIENT_COLUMNS but the
        id, and the content's checksum. `row_of` makes the row of it."""
        return *self._fields(m), checksums.content(m.id, m.content)  # type: ignore[arg-type]

    def _fields(self, m: Message) -> tuple[Any, ...]:
        """MESSAGE_COLUMNS, and RECIPIENT_COLUMNS but the id of the first."""
        recipients = m.recipients
        r = recipients[0]
        return (
            m.id,
            m.arrived,
            m.size,
            len(recipients),
            m.sender,
            *self._texts(m),
            r.number,
            r.due,
            r.attempts,
            r.destination,
            r.address,
            r.original,
            r.orcpt,
            r.notify,
            r.reason,
        )

    def others(self, m: Message) -> Iterator[tuple[Any, ...]]:
        """The values of RECIPIENT_ROW for its recipients behind the first."""
        start = checksums.envelope(m.id, m.arrived, m.size, m.sender, *self._texts(m))
        for at in range(1, len(m.recipients)):
            yield _recipient_row(m.id, m.recipients[at], start)

    def _texts(self, m: Message) -> tuple[str, str]:
        return self._peer_text(m.peer), "" if m.options is PLAIN else self._options_text(m.options)


def row_of(values: Sequence[Any], content: bytes) -> tuple[Any, ...]:
    """The row of a message in the redo log, as `EnteringRows.row` makes it."""
    return *_sealed(values[:-1]), values[-1], content, NOTHING, NOTHING, NOTHING, NOTHING


def _sealed(row: Sequence[Any]) -> tuple[Any, ...]:
    """The fields with the checksum of the envelope behind them."""
    key, arrived, size, _, sender, peer, options = row[:7]
    number, _, _, destination, address, original, orcpt, notify, _ = row[7:]
    start = checksums.envelope(key, arrived, size, sender, peer, options)
    return *row, checksums.recipient(start, number, destination, address, original, orcpt, notify)


def _recipient_row(id: int, r: Recipient, start: int) -> tuple[Any, ...]:
    crc = checksums.recipient(start, r.number, r.destination, r.address, r.original, r.orcpt, r.notify)
    return (id, r.number, r.due, r.attempts, r.destination, r.address, r.original, r.orcpt, r.notify, r.reason, crc)


def read_recipient(row: Sequence[Any]) -> Recipient:
    """A Recipient from RECIPIENT_ROW."""
    _, number, due, attempts, destination, address, original, orcpt, notify, reason, _ = row
    return Recipient(number, address, destination, original, orcpt, notify, due, attempts, reason)


def read_message(row: Sequence[Any], recipients: list[Recipient]) -> Message:
    """A Message from MESSAGE_COLUMNS, without content."""
    key, arrived, size, remaining, sender, peer, options = row
    return Message(
        key,
        sender,
        recipients,
        None,
        arrived=arrived,
        size=size,
        peer=read_peer(peer),
        options=read_options(options),
        remaining=remaining,
    )


def listed_recipient(row: Sequence[Any]) -> QueuedRecipient:
    """A listing's line from RECIPIENT_COLUMNS, of a damaged row too."""
    _, number, due, attempts, destination, address, original, _, _, reason = row
    due, attempts = HELD if due == HELD else _number(due), int(_number(attempts))
    state = "held" if due == HELD else "deferred" if attempts else "queued"
    address, destination, original = str(address), str(destination), str(original)
    return QueuedRecipient(int(_number(number)), address, destination, original, state, due, attempts, str(reason))


def listed_message(row: Sequence[Any], recipients: list[QueuedRecipient]) -> QueuedMessage:
    """A listing's entry from MESSAGE_COLUMNS, of a damaged row too."""
    key, arrived, size, remaining, sender, peer, _ = row
    try:
        client = read_peer(peer)
    except (ValueError, TypeError, AttributeError):
        client = Peer(name=str(peer))
    size, remaining = int(_number(size)), int(_number(remaining))
    return QueuedMessage(key, format_id(key), str(sender), size, _number(arrived), client, remaining, tuple(recipients))


def _number(value: object) -> float:
    """What stood in the place of a number, or 0 where it is none any more."""
    return value if isinstance(value, int | float) and abs(value) < _LARGE else 0


_LARGE = 1e12
"""A date in the year 33,000, or a terabyte: larger numbers are damage, but for a hold."""
