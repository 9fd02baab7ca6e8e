"""BDAT in the server core (RFC 3030): order, sizes, and that it gives what DATA would have given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.dots import DotStuffer, wire_form
from mailflow.smtp.handler import State
from mailflow.smtp.profile import Offers
from mailflow.smtp.reply import reply
from mailflow.smtp.server import ServerCore
from mailflow.smtp.verbs_content import FREE_CHUNKS
from tests.smtp_server.fakes import Recorder, bring, drive, profile, singly, three_ways
from tests.smtp_server.test_server_core import ENVELOPE, HELLO, MAIL, RCPT, codes

NO = reply(451, "4.3.0", "no")
BINARY = Offers(binarymime=True)
BINARY_ENVELOPE = b"EHLO x\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\n" + RCPT


def bdat(*chunks: bytes) -> bytes:
    """The commands for a message in chunks, the last one marked."""
    last = len(chunks) - 1
    return b"".join(b"BDAT %d%s\r\n%s" % (len(c), b" LAST" if i == last else b"", c) for i, c in enumerate(chunks))


def test_a_message_in_chunks():
    lines, handler = three_ways(ENVELOPE + bdat(b"Subject: x\r\n\r\n", b".\r\n", b"", b"y\r\n") + MAIL)
    assert handler.messages == [b"Subject: x\r\n\r\n.\r\ny\r\n"]
    assert codes(lines)[3:] == ["250 2.0.0"] * 4 + ["250 2.1.0"]
    assert lines[6] == "250 2.0.0 Ok: queued"


@pytest.mark.parametrize("chunks", [[b""], [b"", b""], [b"x\r\n", b""], [b"x"], [b"a", b"\r", b"\n", b""]])
def test_chunks_of_every_size(chunks):
    assert three_ways(ENVELOPE + bdat(*chunks), trailing=b"")[1].messages == [b"".join(chunks)]


def test_the_command_may_be_written_otherwise():
    assert three_ways(ENVELOPE + b"bdat  1\r\nxBDAT 1   last \r\ny", trailing=b"")[1].messages == [b"xy"]


@pytest.mark.parametrize(
    ("commands", "last", "messages"),
    [
        # Order: the bytes are swallowed, whatever the answer
        (bdat(b"QUIT\r\n"), "503 5.5.1", 0),
        (HELLO + bdat(b"QUIT\r\n"), "503 5.5.1", 0),
        (HELLO + MAIL + bdat(b"QUIT\r\n"), "554 5.5.1", 0),
        (ENVELOPE + b"BDAT 1\r\nxDATA\r\n", "503 5.5.1", 0),
        (ENVELOPE + b"BDAT 1\r\nx" + RCPT, "503 5.5.1", 0),
        (ENVELOPE + b"BDAT 1\r\nx" + MAIL, "503 5.5.1", 0),
        (ENVELOPE + b"BDAT 1\r\nxNOOP\r\n", "250 2.0.0", 0),
        (ENVELOPE + b"BDAT 1\r\nxRSET\r\nBDAT 1 LAST\r\ny", "503 5.5.1", 0),
        (ENVELOPE + b"BDAT 1\r\nx" + HELLO + b"BDAT 1 LAST\r\ny", "503 5.5.1", 0),
        (ENVELOPE + bdat(b"x") + bdat(b"QUIT\r\n"), "503 5.5.1", 1),
        (ENVELOPE + b"DATA\r\nBDAT 3\r\n.\r\n" + bdat(b"QUIT\r\n"), "503 5.5.1", 1),
        # A refusal in between does not end the message
        (ENVELOPE + b"BDAT 1\r\nxDATA\r\nBDAT 1 LAST\r\ny", "250 2.0.0", 1),
        (ENVELOPE + b"BDAT 1\r\nxBOO\r\nBDAT 1 LAST\r\ny", "250 2.0.0", 1),
        # Chunks behind a refused one are refused
        (ENVELOPE + b"BDAT 3\r\na\nbBDAT 3\r\nxyzBDAT 0 LAST\r\n", "503 5.5.1", 0),
        # Sizes
        (ENVELOPE + b"BDAT 100001 LAST\r\n" + b"x" * 100_001, "552 5.3.4", 0),
        (ENVELOPE + b"BDAT 60000\r\n" + b"x" * 60_000 + b"BDAT 60000\r\n" + b"y" * 60_000, "552 5.3.4", 0),
        (ENVELOPE + b"BDAT 70000 LAST\r\n" + b"x" * 70_000, "554 5.6.0", 0),
    ],
)
def test_last_answer(commands, last, messages):
    for sent in (commands, commands + b"NOOP\r\n"):
        out, handler, core = drive([sent], message_size=100_000)
        answers = codes(out.decode().split("\r\n")[1:-1])
        assert answers[-1 if sent is commands else -2] == last
        assert len(handler.messages) == messages
        assert not core.closing
    if len(commands) < 1000:
        three_ways(commands, trailing=b"", message_size=100_000)


@pytest.mark.parametrize(
    "rest", [b"", b" ", b" x", b" -1", b" 1 FIRST", b" 1 LAST LAST", b" 1,5", b" 0x10", b" " + b"9" * 21]
)
def test_what_cannot_be_counted_ends_the_session(rest):
    """Its bytes would be taken for commands."""
    lines, handler = three_ways(ENVELOPE + b"BDAT" + rest + b"\r\nMAIL FROM:<evil@x>\r\n")
    assert codes(lines)[3:] == ["521 5.5.4"]
    assert [e[0] for e in handler.events].count("mail") == 1


def test_not_offered_is_swallowed_all_the_same():
    lines, handler = three_ways(ENVELOPE + bdat(MAIL) + b"NOOP\r\n", offers=Offers(chunking=False))
    assert codes(lines)[3:] == ["502 5.5.1", "250 2.0.0"]
    assert [e[0] for e in handler.events].count("mail") == 1


def test_too_large_is_told_before_it_comes():
    core = ServerCore(profile(message_size=1000), handler := Recorder())
    core.feed(ENVELOPE + b"BDAT 900\r\n" + b"x" * 98 + b"\r\n")
    core.take()
    core.feed((b"x" * 98 + b"\r\n") * 8 + b"BDAT 101 LAST\r\n")
    assert core.take().endswith(b"552 5.3.4 Message size exceeds the fixed limit\r\n")
    assert handler.events[-1] == ("abort",)
    core.feed(b"MAIL FROM:<evil@x>\r\n".ljust(101, b"x") + b"NOOP\r\n")
    assert core.take() == b"250 2.0.0 Ok\r\n"


class Refusing(Recorder):
    def data(self):
        return self._answer("data", NO)


@pytest.mark.parametrize("pending", [(), ("data",)])
def test_a_refused_data_question_refuses_the_chunk(pending):
    core = ServerCore(profile(), handler := Refusing(pending))
    core.take()
    core.feed(ENVELOPE)
    core.take()
    core.feed(b"BDAT 6\r\nQUIT\r\nBDAT 1 LAST\r\nx")
    assert core.take() + bring(core, handler) == b"451 4.3.0 no\r\n503 5.5.1 Need MAIL command\r\n"
    assert core.state is State.READY


def test_many_small_chunks_are_refused():
    small = b"BDAT 1\r\nx" * (FREE_CHUNKS + 1)
    out, _, core = drive([ENVELOPE + small])
    assert out.endswith(b"552 5.5.0 Too many small chunks\r\n")
    assert out.count(b"250 2.0.0 Ok, go on") == FREE_CHUNKS
    assert core.state is State.READY


def test_the_gravest_trouble_is_told_however_the_chunk_is_split():
    """Line ends that are mended make it too big, behind a line that is too long (found by fuzzing)."""
    chunk = bdat(b"x" * 21 + b"\n" * 60)
    lines, _ = three_ways(ENVELOPE + chunk, trailing=b"", message_size=100, data_line=20, normalise=True)
    assert codes(lines)[-1] == "552 5.3.4"


def test_a_question_may_follow_a_pending_one_at_once():
    """The empty chunk is allowed, and so the message complete: nothing is read before that is answered (found by fuzzing)."""
    core = ServerCore(profile(), handler := Recorder(("data", "end")))
    core.take()
    core.feed(ENVELOPE + b"BDAT 0 LAST\r\n" + MAIL)
    core.take()
    out = bring(core, handler)
    assert out == b"250 2.0.0 Ok: queued\r\n250 2.1.0 Ok\r\n"


def test_chunks_keep_no_memory():
    core = ServerCore(profile(message_size=10**9), Recorder())
    core.feed(ENVELOPE + b"BDAT 100000000 LAST\r\n")
    for _ in range(100):
        core.feed((b"x" * 62 + b"\r\n") * 16)
        assert core.input == b""


# Binary

BYTES = bytes(range(256)) * 3 + b"\n.\n\r.\r\r\n.\r\n\n"


def test_binary_passes_as_it_is():
    _, handler = three_ways(BINARY_ENVELOPE + bdat(BYTES[:300], BYTES[300:]), offers=BINARY, trailing=b"")
    assert handler.messages == [BYTES]


def test_binary_needs_bdat_and_an_offer():
    assert codes(three_ways(BINARY_ENVELOPE + b"DATA\r\n", offers=BINARY)[0])[-1] == "503 5.5.1"
    assert codes(three_ways(b"EHLO x\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\n")[0])[-1] == "501 5.5.4"
    lines, handler = three_ways(
        BINARY_ENVELOPE + b"RSET\r\n" + MAIL + RCPT + bdat(b"a\nb"), offers=BINARY, trailing=b""
    )
    assert codes(lines)[-1] == "554 5.6.0"
    assert handler.messages == []


def test_binary_is_measured():
    out, handler, _ = drive([BINARY_ENVELOPE + bdat(b"x" * 60, b"y" * 60)], offers=BINARY, message_size=100)
    assert out.endswith(b"552 5.3.4 Message size exceeds the fixed limit\r\n")
    assert handler.messages == []


# Smuggling (Longin, "SMTP Smuggling", 2023; CVE-2023-51764, -51765, -51766, and what was found since)

ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\r\n.\r\r\n",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\n.\r\x00\n",
    b"\x00\r\n.\n",
    b"\n\n.\n\n",
    b"\r\n.\r\r\n",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\x85.\x85",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\r\n .\r\n",
]
INNER = b"MAIL FROM:<evil@x>\r\nRCPT TO:<victim@x>\r\nDATA\r\nevil\r\n"


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_nothing_but_the_end_ends_data(end, normalise):
    lines, handler = three_ways(ENVELOPE + b"DATA\r\nhello" + end + INNER + b".\r\nNOOP\r\n", normalise=normalise)
    assert [e[0] for e in handler.events].count("mail") == 1
    assert len(lines) == 6
    assert len(handler.messages) <= 1
    for message in handler.messages:
        leaves_whole(message)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("end", [*ENDS, b"\r\n.\r\n"])
def test_what_comes_by_bdat_cannot_end_data_when_it_leaves(end, normalise):
    content = b"hello" + end + INNER
    lines, handler = three_ways(ENVELOPE + bdat(content) + b"NOOP\r\n", normalise=normalise)
    assert [e[0] for e in handler.events].count("mail") == 1
    assert len(lines) == 5
    for message in handler.messages:
        leaves_whole(message)
    for cut in range(1, len(end) + 6):
        parts = three_ways(ENVELOPE + bdat(content[:cut], content[cut:]), normalise=normalise, trailing=b"")
        assert parts[1].messages == handler.messages


def leaves_whole(message: bytes) -> None:
    """What was accepted has no bare CR or LF, and leaves by DATA as one message."""
    assert message.replace(b"\r\n", b"").count(b"\r") == message.replace(b"\r\n", b"").count(b"\n") == 0
    sent = b"".join(wire_form(message))
    assert sent.find(b"\r\n.\r\n") == len(sent) - 5
    for cut in range(len(message) + 1):
        stuffer = DotStuffer()
        assert b"".join([*stuffer.feed(message[:cut]), *stuffer.feed(message[cut:]), stuffer.end()]) == sent


CONTENT = st.lists(
    st.sampled_from([b"\r\n", b".", b"x", b"..", b"\r\n.\r\n", b"\n", b"\r", b"\0", b"\xff", b"y" * 20, b"\r\n."]),
    max_size=25,
).map(b"".join)


@given(CONTENT, st.data(), st.booleans())
def test_data_and_bdat_give_the_same(content: bytes, data: st.DataObject, normalise: bool) -> None:
    """The same content, lines ended: the same message, or the same refusal, for every way to cut it."""
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    limits = {"message_size": 150, "data_line": 40, "normalise": normalise}
    stuffed = (b"." if content.startswith(b".") else b"") + content.replace(b"\r\n.", b"\r\n..")
    if normalise and b"\n." in content.replace(b"\r\n.", b""):
        return  # a dot behind a bare LF is taken for a doubled one in DATA, as its line end is for one
    if normalise and b"\r." in content.replace(b"\r\n.", b""):
        return
    data_out, by_data, _ = drive([ENVELOPE + b"DATA\r\n" + stuffed + b".\r\n"], **limits)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    whole_out, by_whole, _ = drive([ENVELOPE + bdat(content)], **limits)
    assert by_whole.messages == by_data.messages
    assert whole_out.split(b"\r\n")[-2] == data_out.split(b"\r\n")[-2]
    chunks = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    wire = ENVELOPE + bdat(*chunks)
    chunk_out, by_chunks, _ = drive([wire], **limits)
    assert by_chunks.messages == by_data.messages
    assert drive(singly(wire), **limits)[0] == chunk_out
    ends = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    pieces = [wire[a:b] for a, b in zip([0, *ends], [*ends, len(wire)], strict=True) if a != b]
    other_out, other, _ = drive(pieces, pending=("data", "end"), **limits)
    assert (other_out, other.messages) == (chunk_out, by_chunks.messages)
