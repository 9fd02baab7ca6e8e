"""Client records and options survive their text form, whatever is in them."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mailflow.envelope import Options, Peer
from mailflow.store.rows import checksum, options_text, peer_text, read_options, read_peer

texts = st.text(alphabet=st.characters(codec=None), max_size=8)


@pytest.mark.wish(50)
@given(texts, st.integers(0, 65535), texts, texts, texts, texts, texts)
def test_any_peer(address: str, port: int, name: str, helo: str, protocol: str, tls: str, login: str) -> None:
    peer = Peer(address, port, name, helo, protocol, tls, login)
    text = peer_text(peer)
    assert read_peer(text) == peer
    text.encode()  # SQLite must be able to take it, lone surrogates included


@given(texts, st.booleans(), texts, texts)
def test_any_options(body: str, utf8: bool, ret: str, envid: str) -> None:
    options = Options(body, utf8, ret, envid)
    assert read_options(options_text(options)) == options
    options_text(options).encode()


def test_a_checksum_belongs_to_its_id_and_comes_in_pieces_too() -> None:
    whole = checksum(7, b"hello world")
    assert whole != checksum(8, b"hello world")
    assert whole == checksum(7, b" world", checksum(7, b"hello"))
    assert checksum(7, b"") != checksum(8, b"")
