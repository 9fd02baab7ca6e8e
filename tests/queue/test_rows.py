"""Client records and options survive their text form, whatever is in them."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mailflow.envelope import Options, Peer
from mailflow.store.rows import checksum, options_text, peer_text, read_options, read_peer

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
    whole = checksum(7, b"hello world")
    assert whole != checksum(8, b"hello world")
    assert whole == checksum(7, b" world", checksum(7, b"hello"))
    assert checksum(7, b"") != checksum(8, b"")
