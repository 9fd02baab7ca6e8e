"""Replies out of bytes: whole, byte by byte, with trailing bytes; bounds; garbage."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.reply import Reply
from mailflow.smtp.reply_parser import MAX_LINE, MAX_LINES, MAX_REMEMBERED, ReplyError, ReplyParser, is_status

CASES = {
    b"250 Ok\r\n": Reply(250, "", ("Ok",)),
    b"250 2.1.0 Ok\r\n": Reply(250, "2.1.0", ("Ok",)),
    b"250 2.1.0\r\n": Reply(250, "2.1.0", ("",)),
    b"250\r\n": Reply(250, "", ("",)),
    b"250 \r\n": Reply(250, "", ("",)),
    b"354 go on\n": Reply(354, "", ("go on",)),
    b"550 5.1.1 <a@b>: no such user\r\n": Reply(550, "5.1.1", ("<a@b>: no such user",)),
    b"550 4.1.1 class does not agree\r\n": Reply(550, "", ("4.1.1 class does not agree",)),
    b"550 5.1.1.1 x\r\n": Reply(550, "", ("5.1.1.1 x",)),
    b"550 5.7.509 x\r\n": Reply(550, "5.7.509", ("x",)),
    b"250-mx.example\r\n250-SIZE 100\r\n250 PIPELINING\r\n": Reply(250, "", ("mx.example", "SIZE 100", "PIPELINING")),
    b"550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n": Reply(550, "5.7.1", ("one", "two", "three")),
    b"550-5.7.1 one\r\n550 two\r\n": Reply(550, "5.7.1", ("one", "two")),
    b"220-a\r\n421 b\r\n": Reply(421, "", ("a", "b")),
    b"250-\r\n250 \r\n": Reply(250, "", ("", "")),
    b"550 \xff\x00\x1b[2J\tx\r\n": Reply(550, "", ("\\xff  [2J x",)),
    "550 größer\r\n".encode(): Reply(550, "", ("größer",)),
}
NEXT = b"451 4.3.0 later\r\n"


@pytest.mark.parametrize("data", CASES)
def test_whole(data):
    assert ReplyParser().feed(data) == [CASES[data]]


@pytest.mark.parametrize("data", CASES)
def test_byte_by_byte(data):
    parser = ReplyParser()
    replies = [reply for i in range(len(data)) for reply in parser.feed(data[i : i + 1])]
    assert replies == [CASES[data]]


@pytest.mark.parametrize("data", CASES)
def test_with_trailing_bytes(data):
    parser = ReplyParser()
    assert parser.feed(data + NEXT + b"250") == [CASES[data], Reply(451, "4.3.0", ("later",))]
    assert parser.feed(b" x\r\n") == [Reply(250, "", ("x",))]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"25 x\r\n",
        b"2500 x\r\n",
        b"250_x\r\n",
        b"150 x\r\n",
        b"600 x\r\n",
        b"250-x\r\nx\r\n",
        "٢٥٠ x\r\n".encode(),
        b"-250 x\r\n",
    ],
)
def test_garbage_is_an_error(data):
    with pytest.raises(ReplyError):
        ReplyParser().feed(data)


def test_replies_before_the_garbage_are_not_lost():
    with pytest.raises(ReplyError) as caught:
        ReplyParser().feed(b"250 Ok\r\nnonsense\r\n250 not trusted\r\n")
    assert caught.value.replies == [Reply(250, "", ("Ok",))]


def test_a_line_without_end_is_bounded():
    parser = ReplyParser()
    parser.feed(b"250 " + b"x" * (MAX_LINE - 6))
    with pytest.raises(ReplyError):
        parser.feed(b"xx")


def test_a_line_that_is_too_long_is_refused_whole_too():
    with pytest.raises(ReplyError):
        ReplyParser().feed(b"250 " + b"x" * MAX_LINE + b"\r\n")


def test_the_number_of_lines_is_bounded():
    parser = ReplyParser()
    parser.feed(b"250-x\r\n" * MAX_LINES)
    with pytest.raises(ReplyError):
        parser.feed(b"250-x\r\n")


def test_what_is_remembered_is_bounded():
    parser = ReplyParser()
    for number in range(10 * MAX_REMEMBERED):
        assert parser.feed(b"250 queued as %d\r\n" % number) == [Reply(250, "", (f"queued as {number}",))]
    assert len(parser._remembered) <= MAX_REMEMBERED


@pytest.mark.parametrize(("text", "code"), [("2.0.0", 250), ("4.123.999", 450), ("5.1.10", 556)])
def test_status(text, code):
    assert is_status(text, code)


@pytest.mark.parametrize(
    "text", ["", "5", "5.1", "5.1.", "5..1", "5.1.1234", "6.1.1", "5.1.x", "5.1.\u0661", "3.1.1", "4.1.1"]
)
def test_no_status(text):
    assert not is_status(text, 550)
    assert not is_status(text, 354)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=6))
def test_any_bytes_in_any_pieces_give_the_same(data, cuts):
    assert _outcome([data]) == _outcome(_pieces(data, cuts))


_line = st.tuples(
    st.sampled_from([b"250", b"354", b"451", b"550"]), st.sampled_from([b" ", b"-", b""]), st.binary(max_size=20)
)


@given(st.lists(_line, max_size=8), st.lists(st.integers(0, 300), max_size=6))
def test_nearly_replies_in_any_pieces_give_the_same(lines, cuts):
    data = b"".join(code + separator + text + b"\r\n" for code, separator, text in lines)
    assert _outcome([data]) == _outcome(_pieces(data, cuts))


def _pieces(data, cuts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def _outcome(pieces):
    parser, replies = ReplyParser(), []
    for piece in pieces:
        try:
            replies += parser.feed(piece)
        except ReplyError as error:
            return replies + error.replies, "garbage"
    return replies, "fine"
