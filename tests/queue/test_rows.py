"""Client records and options survive their text form, whatever is in them."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mailflow.envelope import Message, Options, Peer, Recipient
from mailflow.store import checksums, statements
from mailflow.store.rows import (
    TEXTS_KEPT,
    EnteringRows,
    Texts,
    options_text,
    peer_text,
    read_options,
    read_peer,
)

texts = st.text(alphabet=st.characters(codec=None), max_size=8)


@pytest.mark.wish(50)
@given(texts, st.integers(0, 65535), st.lists(texts, min_size=5, max_size=8))
def test_any_peer(address: str, port: int, others: list[str]) -> None:
    peer = Peer(address, port, *others)
    text = peer_text(peer)
    assert read_peer(text) == peer
    text.encode()  # SQLite must be able to take it, lone surrogates included


times = st.floats(0, 2**40)


@given(st.tuples(texts, st.booleans(), texts, texts, st.booleans(), times, texts, times, texts))
def test_any_options(values: tuple[str | bool | float, ...]) -> None:
    options = Options(*values)
    assert read_options(options_text(options)) == options
    options_text(options).encode()


def test_a_checksum_belongs_to_its_id_and_comes_in_pieces_too() -> None:
    whole = checksums.content(7, b"hello world")
    assert whole != checksums.content(8, b"hello world")
    assert whole == checksums.content(7, b" world", checksums.content(7, b"hello"))
    assert checksums.content(7, b"") != checksums.content(8, b"")


def test_a_known_text_is_not_written_again_and_few_are_kept() -> None:
    written: list[Peer] = []

    def write(peer: Peer) -> str:
        written.append(peer)
        return peer_text(peer)

    texts = Texts(write)
    peers = [Peer("192.0.2.7", port) for port in range(TEXTS_KEPT)]
    for peer in peers * 2:
        assert texts.of(peer) == peer_text(peer)
    assert len(written) == TEXTS_KEPT
    twin = Peer("192.0.2.7", 0)
    assert texts.of(twin) == texts.of(peers[0]) == peer_text(twin)
    assert len(written) == TEXTS_KEPT + 2  # there was no room for the twin, so all were forgotten


def test_texts_of_objects_that_come_and_go() -> None:
    texts = Texts(peer_text)
    for port in range(3 * TEXTS_KEPT):  # each may get the place in memory of one that is gone
        assert texts.of(Peer("192.0.2.7", port)) == peer_text(Peer("192.0.2.7", port))


@pytest.mark.parametrize("options", [Options(), Options("8BITMIME"), Options(envid="x", by=7.0)])
def test_a_row_has_a_value_for_each_column_in_order(options: Options) -> None:
    peer = Peer("192.0.2.7", 25)
    to = [Recipient(0, "a@b", "smtp:b", "A@b", "rfc822;a", "NEVER", 5.0, 1, "why"), Recipient(1, "c@d", "smtp:d")]
    message = Message(7, "s@e", to, b"x", arrived=1.0, size=3, peer=peer, options=options)
    row = dict(zip(statements.BATCH_COLUMNS.split(", "), EnteringRows().row(message, 9, b"x", 1, 2, 3), strict=True))
    first = ["number", "due", "attempts", "destination", "address", "original", "orcpt", "notify", "reason"]
    assert row == {
        "id": 7,
        "arrived": 1.0,
        "size": 3,
        "remaining": 2,
        "sender": "s@e",
        "peer": peer_text(peer),
        "options": options_text(options),
        **{name: getattr(to[0], name) for name in first},
        "envelope_crc": checksums.recipient(
            checksums.envelope(7, 1.0, 3, "s@e", peer_text(peer), options_text(options)),
            *(0, "smtp:b", "a@b", "A@b", "rfc822;a", "NEVER"),
        ),
        "crc": 9,
        "data": b"x",
        "segment": 1,
        "page": 2,
        "extent": 3,
        "gone": statements.NOTHING,
    }
