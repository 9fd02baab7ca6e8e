"""The wire form of a message: dots doubled only where a line begins, CRLF.CRLF at the end, in whatever pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.dots import DotStuffer, wire_form

CASES = {
    b"": b".\r\n",
    b"a\r\n": b"a\r\n.\r\n",
    b"a": b"a\r\n.\r\n",
    b".": b"..\r\n.\r\n",
    b".\r\n": b"..\r\n.\r\n",
    b"a\r\n.\r\nb\r\n": b"a\r\n..\r\nb\r\n.\r\n",
    b"a\r\n..b\r\n\r\n.": b"a\r\n...b\r\n\r\n..\r\n.\r\n",
    b"a.b\r\nc.\r\n": b"a.b\r\nc.\r\n.\r\n",
    b"a\n.b\r\n": b"a\n.b\r\n.\r\n",
    b"\r\n.\r\n.\r\n": b"\r\n..\r\n..\r\n.\r\n",
}


def stuffed(pieces):
    stuffer = DotStuffer()
    return b"".join(buffer for piece in pieces for buffer in stuffer.feed(piece)) + stuffer.end()


@pytest.mark.parametrize("content", CASES)
def test_whole_and_in_pieces(content):
    assert b"".join(wire_form(content)) == CASES[content]
    assert stuffed([content]) == CASES[content]
    assert stuffed([content[i : i + 1] for i in range(len(content))]) == CASES[content]


def test_a_content_without_dots_is_not_copied():
    content = b"x" * 1000 + b"\r\n"
    assert wire_form(content)[0] is content


@given(st.text(".\r\nx", max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_pieces_do_not_matter(text, cuts):
    content = text.encode()
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = [content[a:b] for a, b in pairwise(edges)]
    assert stuffed(pieces) == b"".join(wire_form(content))
