"""Between objects and rows: the columns of message and recipient, and the compact text of peer and options. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from mailflow.envelope import HELD, PLAIN, Message, Options, Peer, Recipient
from mailflow.ids import format_id
from mailflow.store.values import QueuedMessage, QueuedRecipient

MESSAGE_COLUMNS = "id, arrived, size, remaining, sender, peer, options"
RECIPIENT_COLUMNS = "message_id, number, due, attempts, destination, address, original, orcpt, notify, reason"

_PEER_FIELDS = tuple(field.name for field in fields(Peer))
_OPTIONS_FIELDS = tuple(field.name for field in fields(Options))

_encode = json.JSONEncoder(separators=(",", ":")).encode


def checksum(id: int, data: bytes | memoryview, start: int | None = None) -> int:
    """CRC-32 of a content, begun with its id, so that another message's content does not match (wish 82).

    `start` is the value so far when the content comes in pieces.
    """
    return zlib.crc32(data, zlib.crc32(id.to_bytes(8, "big")) if start is None else start)


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


def add_message(flat: list[Any], message: Message) -> None:
    """Appends the values of MESSAGE_COLUMNS."""
    flat += (
        message.id,
        message.arrived,
        message.size,
        len(message.recipients),
        message.sender,
        peer_text(message.peer),
        options_text(message.options),
    )


def recipient_row(id: int, r: Recipient) -> tuple[Any, ...]:
    """The values of RECIPIENT_COLUMNS for a recipient of message `id`."""
    return (id, r.number, r.due, r.attempts, r.destination, r.address, r.original, r.orcpt, r.notify, r.reason)


def read_recipient(row: Sequence[Any]) -> Recipient:
    """A Recipient from RECIPIENT_COLUMNS."""
    _, number, due, attempts, destination, address, original, orcpt, notify, reason = row
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
    """A listing's line from RECIPIENT_COLUMNS."""
    _, number, due, attempts, destination, address, original, _, _, reason = row
    state = "held" if due >= HELD else "deferred" if attempts else "queued"
    return QueuedRecipient(number, address, destination, original, state, due, attempts, reason)


def listed_message(row: Sequence[Any], recipients: list[QueuedRecipient]) -> QueuedMessage:
    """A listing's entry from MESSAGE_COLUMNS."""
    key, arrived, size, remaining, sender, peer, _ = row
    return QueuedMessage(key, format_id(key), sender, size, arrived, read_peer(peer), remaining, tuple(recipients))
