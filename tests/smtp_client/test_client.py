"""The client core: literal bytes in, literal bytes out, each dialogue whole, byte by byte, and with trailing bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.client import Client
from mailflow.smtp.dots import OWN_BUFFER
from mailflow.smtp.transaction import (
    End,
    Extensions,
    Parameters,
    State,
    Step,
    Transaction,
    mail_command,
    obstacle,
)

BODY = b"Subject: x\r\n\r\nhello\r\n"
EHLO = b"220 mx.example ESMTP\r\n250-mx.example\r\n250-PIPELINING\r\n250 SIZE 10000\r\n"
PLAIN = b"220 mx.example ESMTP\r\n250 mx.example\r\n"
OK = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n"


def transaction(*recipients, content=BODY, sender="a@b.example", **more):
    size = len(content) if content is not None else 5
    return Transaction(sender, recipients or ("x@y.example",), content, size, Parameters(**more))


def taken(client):
    return b"".join(client.take())


class Talk:
    """A conversation in which the host's bytes come in pieces of a given size."""

    def __init__(self, size=10**9, *, name="me.example", **more):
        self.size = size
        self.client = Client(name, **more)

    def host(self, data):
        for start in range(0, len(data), self.size):
            self.client.feed(data[start : start + self.size])
        return taken(self.client)

    def send(self, *transactions):
        for each in transactions:
            assert self.client.room
            self.client.begin(each)
        return taken(self.client)


@pytest.fixture(params=[10**9, 1, 3], ids=["whole", "byte by byte", "threes"])
def talk(request):
    return Talk(request.param)


def kinds(transaction):
    """The answers in short: (step, code or end)."""
    return [(step.name, reply.code if reply else end.name) for step, reply, end in transaction.answers]


def test_one_flight_with_pipelining(talk):
    assert talk.host(EHLO) == b"EHLO me.example\r\n"
    assert talk.client.state is State.READY
    one = transaction("x@y.example", "z@y.example")
    assert talk.send(one) == (
        b"MAIL FROM:<a@b.example> SIZE=21\r\nRCPT TO:<x@y.example>\r\nRCPT TO:<z@y.example>\r\nDATA\r\n"
    )
    assert talk.client.waiting is Step.MAIL
    assert talk.host(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n") == BODY + b".\r\n"
    assert talk.client.waiting is Step.DOT
    assert talk.host(b"250 2.0.0 queued\r\n") == b""
    assert talk.client.finished == [one]
    assert kinds(one) == [("DOT", 250)] * 2
    assert talk.client.state is State.READY
    talk.client.quit()
    assert taken(talk.client) == b"QUIT\r\n"
    talk.host(b"221 bye\r\n")
    assert talk.client.state is State.CLOSED


def test_one_command_at_a_time_without_pipelining(talk):
    talk.host(PLAIN)
    one = transaction("x@y.example", "z@y.example")
    assert talk.send(one) == b"MAIL FROM:<a@b.example>\r\n"
    assert not talk.client.room
    assert talk.host(b"250 ok\r\n") == b"RCPT TO:<x@y.example>\r\n"
    assert talk.host(b"550 5.1.1 no\r\n") == b"RCPT TO:<z@y.example>\r\n"
    assert talk.host(b"250 ok\r\n") == b"DATA\r\n"
    assert talk.host(b"354 go\r\n") == BODY + b".\r\n"
    talk.host(b"250 ok\r\n")
    assert kinds(one) == [("RCPT", 550), ("DOT", 250)]
    assert talk.client.room


@pytest.mark.parametrize("refusal", [b"500 what?\r\n", b"502 5.5.1 no\r\n", b"550-no\r\n550 no\r\n"])
def test_helo_when_ehlo_is_refused(talk, refusal):
    assert talk.host(b"220 x\r\n") == b"EHLO me.example\r\n"
    assert talk.host(refusal) == b"HELO me.example\r\n"
    talk.host(b"250 x\r\n")
    assert talk.client.state is State.READY
    assert talk.send(transaction()) == b"MAIL FROM:<a@b.example>\r\n"


def test_helo_at_once_for_hosts_that_hang_up_at_ehlo():
    talk = Talk(esmtp=False)
    assert talk.host(b"220 x\r\n") == b"HELO me.example\r\n"


@pytest.mark.parametrize(
    ("replies", "step"),
    [
        (b"554 go away\r\n", Step.GREETING),
        (b"421 busy\r\n", Step.GREETING),
        (b"354 what\r\n", Step.GREETING),
        (b"220 x\r\n421 busy\r\n", Step.EHLO),
        (b"220 x\r\n450 later\r\n", Step.EHLO),
        (b"220 x\r\n354 what\r\n", Step.EHLO),
        (b"220 x\r\n502 no\r\n550 no\r\n", Step.HELO),
    ],
)
def test_turned_away_at_the_door(talk, replies, step):
    talk.host(replies)
    assert talk.client.state is State.CLOSED
    assert talk.client.end is End.REPLY
    assert talk.client.ended_at is step


def test_the_connection_is_lost_at_ehlo(talk):
    talk.host(b"220 x\r\n")
    talk.client.fail(End.LOST)
    assert talk.client.ended_at is Step.EHLO
    assert talk.client.end is End.LOST


def test_parameters_only_when_offered(talk):
    full = b"220 x\r\n250-x\r\n250-pipelining\r\n250-8BITMIME\r\n250-SmtpUtf8\r\n250-DSN\r\n250 SIZE\r\n"
    asked = {"body": "8BITMIME", "smtputf8": True, "ret": "HDRS", "envid": "id1", "dsn": [("NEVER", "rfc822;q@y")]}
    talk.host(full)
    assert talk.send(transaction(**asked)) == (
        b"MAIL FROM:<a@b.example> SIZE=21 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id1\r\n"
        b"RCPT TO:<x@y.example> NOTIFY=NEVER ORCPT=rfc822;q@y\r\nDATA\r\n"
    )
    bare = Talk()
    bare.host(PLAIN)
    assert bare.send(transaction(**asked)) == b"MAIL FROM:<a@b.example>\r\n"
    assert bare.host(b"250 ok\r\n") == b"RCPT TO:<x@y.example>\r\n"


def test_binary_mail_that_is_text_leaves_as_text(talk):
    talk.host(b"220 x\r\n250-x\r\n250-8BITMIME\r\n250 SIZE\r\n")
    line = b"x" * 998 + b"\r\n"
    assert talk.send(transaction(content=line, body="BINARYMIME")) == b"MAIL FROM:<a@b.example> SIZE=1000 BODY=7BIT\r\n"


def test_the_time_that_is_left_is_passed_on(talk):
    talk.host(b"220 x\r\n250-x\r\n250-pipelining\r\n250-DELIVERBY 60\r\n250 SIZE\r\n")
    assert b" BY=120;R\r\n" in talk.send(transaction(by="120;R"))


def test_requiretls_counts_under_tls_only():
    offers = {"REQUIRETLS": ""}
    assert not Extensions(offers).requiretls
    secure = Extensions(offers, secure=True)
    one = transaction(requiretls=True)
    assert obstacle(one, secure) is None
    assert mail_command(one, secure) == "MAIL FROM:<a@b.example> REQUIRETLS\r\n"


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ({"content": b"x" * 10001}, End.TOO_LARGE),
        ({"content": "Subject: x\r\n\r\nä\r\n".encode(), "body": "8BITMIME"}, End.NEEDS_8BITMIME),
        ({"content": None, "body": "8BITMIME"}, End.NEEDS_8BITMIME),
        ({"sender": "ä@b.example"}, End.NEEDS_SMTPUTF8),
        ({"content": "Subject: ä\r\n\r\nx\r\n".encode(), "smtputf8": True}, End.NEEDS_SMTPUTF8),
        ({"content": None, "smtputf8": True}, End.NEEDS_SMTPUTF8),
        ({"content": b"\0\r\n", "body": "BINARYMIME"}, End.NEEDS_BINARYMIME),
        ({"content": b"a\nb\r\n", "body": "BINARYMIME"}, End.NEEDS_BINARYMIME),
        ({"content": b"no line end", "body": "BINARYMIME"}, End.NEEDS_BINARYMIME),
        ({"content": b"x" * 999 + b"\r\n", "body": "BINARYMIME"}, End.NEEDS_BINARYMIME),
        ({"content": None, "body": "BINARYMIME"}, End.NEEDS_BINARYMIME),
        ({"content": "ä\r\n".encode(), "body": "BINARYMIME"}, End.NEEDS_8BITMIME),
        ({"requiretls": True}, End.NEEDS_REQUIRETLS),
        ({"by": "120;R"}, End.NEEDS_DELIVERBY),
        ({"sender": "a@b\r\nRCPT TO:<evil@c>"}, End.BAD_ADDRESS),
        ({"sender": "a@b\nx"}, End.BAD_ADDRESS),
    ],
)
def test_what_the_host_cannot_take_is_not_sent(given, end):
    talk = Talk()
    talk.host(EHLO)
    one = transaction("x@y.example", "z@y.example", **given)
    assert talk.send(one) == b""
    assert talk.client.finished == [one]
    assert one.answers == [(Step.MAIL, None, end)] * 2
    assert talk.client.state is State.READY


def test_smtputf8_that_is_not_needed_is_left_out():
    talk = Talk()
    talk.host(EHLO)
    one = transaction(content="Subject: x\r\n\r\nä\r\n".encode(), smtputf8=True)
    assert talk.send(one).startswith(b"MAIL FROM:<a@b.example> SIZE=18\r\n")


def test_everybody_refused_and_data_taken_gets_a_lone_dot(talk):
    """RFC 2920 §3.1."""
    talk.host(EHLO)
    one = transaction("x@y.example", "z@y.example")
    talk.send(one)
    assert talk.host(b"250 ok\r\n550 no\r\n451 later\r\n354 go\r\n") == b".\r\n"
    talk.host(b"554 no valid recipients\r\n")
    assert kinds(one) == [("RCPT", 550), ("RCPT", 451)]
    assert talk.client.state is State.READY


def test_mail_refused_and_the_rest_refused_too(talk):
    talk.host(EHLO)
    one = transaction("x@y.example", "z@y.example")
    talk.send(one)
    talk.host(b"451 4.7.1 later\r\n503 no\r\n503 no\r\n503 no\r\n")
    assert kinds(one) == [("MAIL", 451)] * 2
    assert talk.send(transaction()).startswith(b"RSET\r\nMAIL FROM:")


def test_mail_refused_by_a_host_that_then_takes_data(talk):
    talk.host(EHLO)
    one = transaction()
    talk.send(one)
    assert talk.host(b"550 no\r\n250 ok\r\n354 go\r\n") == b".\r\n"
    talk.host(b"250 thanks for nothing\r\n")
    assert kinds(one) == [("MAIL", 550)]


def test_rset_after_a_transaction_that_may_stand(talk):
    talk.host(EHLO)
    one, two = transaction("x@y.example", "z@y.example"), transaction()
    talk.send(one)
    talk.host(b"250 ok\r\n250 ok\r\n550 no\r\n451 no disk\r\n")
    assert kinds(one) == [("DATA", 451), ("RCPT", 550)]
    assert talk.send(two).startswith(b"RSET\r\nMAIL FROM:")
    assert talk.client.waiting is Step.RSET
    assert talk.host(b"250 reset\r\n" + OK) == BODY + b".\r\n"
    talk.host(b"250 ok\r\n")
    assert kinds(two) == [("DOT", 250)]


def test_rset_without_pipelining(talk):
    talk.host(PLAIN)
    one = transaction()
    talk.send(one)
    talk.host(b"250 ok\r\n")
    talk.host(b"550 no\r\n")
    assert kinds(one) == [("RCPT", 550)]
    assert talk.send(transaction()) == b"RSET\r\nMAIL FROM:<a@b.example>\r\n"
    assert talk.host(b"250 ok\r\n250 ok\r\n") == b"RCPT TO:<x@y.example>\r\n"


def test_the_next_envelope_follows_the_body(talk):
    talk.host(EHLO)
    one, two, three = transaction(), transaction(sender="two@b"), transaction(sender="three@b")
    assert talk.send(one, two).count(b"MAIL") == 1
    assert not talk.client.room
    out = talk.host(OK)
    assert out == BODY + b".\r\nMAIL FROM:<two@b> SIZE=21\r\nRCPT TO:<x@y.example>\r\nDATA\r\n"
    assert talk.host(b"250 one\r\n") == b""
    assert talk.client.finished == [one]
    talk.client.begin(three)
    assert taken(talk.client) == b""
    assert talk.host(OK).startswith(BODY + b".\r\nMAIL FROM:<three@b>")
    talk.host(b"452 full\r\n" + OK)
    assert kinds(two) == [("DOT", 452)]
    talk.host(b"250 three\r\n")
    assert kinds(three) == [("DOT", 250)]
    assert talk.client.finished == [one, two, three]


def test_the_next_envelope_leaves_at_once_behind_a_body_that_has_left(talk):
    talk.host(EHLO)
    talk.send(transaction())
    talk.host(OK)
    assert talk.send(transaction(sender="two@b")).startswith(b"MAIL FROM:<two@b>")


def test_the_next_one_starts_when_the_first_is_refused(talk):
    talk.host(EHLO)
    one, two = transaction(), transaction(sender="two@b")
    talk.send(one, two)
    out = talk.host(b"250 ok\r\n550 no\r\n554 no\r\n")
    assert out.startswith(b"RSET\r\nMAIL FROM:<two@b>")
    assert talk.client.current is two


def test_connection_lost_under_two(talk):
    talk.host(EHLO)
    one, two = transaction(), transaction()
    talk.send(one, two)
    talk.host(OK)
    talk.client.fail(End.LOST)
    assert one.answers == [(Step.DOT, None, End.LOST)]
    assert two.answers == [(Step.MAIL, None, End.NOT_BEGUN)]
    assert talk.client.finished == [one, two]
    assert taken(talk.client) == b""


STEPS = [b"", b"250 ok\r\n", b"250 ok\r\n250 ok\r\n", OK]


@pytest.mark.parametrize("before", STEPS)
@pytest.mark.parametrize("ehlo", [EHLO, PLAIN])
def test_421_anywhere(talk, before, ehlo):
    talk.host(ehlo)
    one = transaction()
    talk.send(one)
    talk.host(before)
    step = talk.client.waiting
    talk.host(b"421 4.3.2 closing\r\n250 not read any more\r\n")
    assert one.answers[0][0] is step
    assert one.answers[0][1].code == 421
    assert talk.client.state is State.CLOSED
    assert not talk.client.room


@pytest.mark.parametrize("before", STEPS)
def test_garbage_anywhere(talk, before):
    talk.host(EHLO)
    one = transaction()
    talk.send(one)
    talk.host(before)
    step = talk.client.waiting
    talk.host(b"220 HTTP\r\n\x00\x00\r\n" if not before else b"\xff\xfe garbage\r\n")
    assert one.answers[0][0] in (step, Step.RCPT)
    assert one.answers[0][2] is End.GARBAGE
    assert talk.client.state is State.CLOSED


@pytest.mark.parametrize("before", STEPS)
def test_a_3yz_out_of_turn_never_counts_as_success(talk, before):
    talk.host(EHLO)
    one = transaction()
    talk.send(one)
    talk.host(before)
    talk.host(b"334 what\r\n")
    assert one.answers[0][1].code == 334
    assert talk.client.state is State.CLOSED


def test_the_reply_before_garbage_counts(talk):
    talk.host(EHLO)
    one = transaction()
    talk.send(one)
    talk.host(OK)
    talk.host(b"250 2.0.0 taken\r\nrubbish\r\n")
    assert kinds(one) == [("DOT", 250)]
    assert talk.client.end is End.GARBAGE


@pytest.mark.parametrize(("word", "end"), [(b"421 idle\r\n", End.REPLY), (b"250 what\r\n", End.GARBAGE)])
def test_a_reply_to_nothing_ends_an_idle_connection(talk, word, end):
    talk.host(EHLO)
    talk.host(word)
    assert talk.client.state is State.CLOSED
    assert talk.client.end is end


def test_a_content_in_pieces(talk):
    talk.host(EHLO)
    one, two = transaction(content=None), transaction(sender="two@b")
    talk.send(one, two)
    assert talk.host(OK) == b""
    assert talk.client.wants_body
    assert talk.client.waiting is Step.BODY
    wire = b"".join(b"".join(talk.client.body(piece)) for piece in (b"a\r", b"\n.b\r\n", b"."))
    talk.client.end_body()
    assert wire + taken(talk.client) == (
        b"a\r\n..b\r\n..\r\n.\r\nMAIL FROM:<two@b> SIZE=21\r\nRCPT TO:<x@y.example>\r\nDATA\r\n"
    )
    talk.host(b"250 ok\r\n")
    assert kinds(one) == [("DOT", 250)]


def test_the_host_gives_up_in_the_middle_of_a_content(talk):
    talk.host(EHLO)
    one, two = transaction(content=None), transaction()
    talk.send(one, two)
    talk.host(OK)
    talk.client.body(b"x")
    talk.host(b"552 5.3.4 too big\r\n")
    assert kinds(one) == [("BODY", 552)]
    assert kinds(two) == [("MAIL", "NOT_BEGUN")]
    assert talk.client.state is State.CLOSED


def test_a_large_content_is_a_buffer_of_its_own():
    talk = Talk()
    talk.host(b"220 x\r\n250-x\r\n250 PIPELINING\r\n")
    content = b"x" * OWN_BUFFER + b"\r\n"
    talk.send(transaction(content=content), transaction())
    talk.client.feed(OK)
    buffers = talk.client.take()
    assert buffers[0] is content
    assert buffers[1].startswith(b".\r\nMAIL FROM")
    assert len(buffers) == 2


@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from([EHLO, OK, b"250 ok\r\n", b"421 x\r\n", b"354 x\r\n", b"550 x\r\n"]),
        max_size=12,
    )
)
def test_whatever_a_host_says_every_transaction_gets_all_its_answers_once(pieces):
    client = Client("me.example")
    begun = []
    for piece in pieces:
        client.feed(piece)
        client.take()
        if client.room:
            begun.append(transaction("x@y", "z@y", content=None if len(begun) % 3 == 2 else BODY))
            client.begin(begun[-1])
        if client.wants_body and len(piece) % 2:
            client.body(b"x\r\n")
            client.end_body()
    client.fail(End.LOST)
    assert [id(each) for each in client.finished] == [id(each) for each in begun]
    for each in begun:
        assert len(each.answers) == 2
        assert all((reply is None) != (end is None) for _, reply, end in each.answers)


_answers = st.sampled_from([OK, b"250 2.0.0 queued as 1\r\n", b"250 2.0.0 queued as 2\r\n"]) | st.sampled_from(
    [
        b"250-a\r\n250 b\r\n",
        b"452 full\r\n",
        b"250 ok\r\n550 no\r\n554 no\r\n",
        b"250 x\r\n250 x\r\n354 other\r\n",
        b"421 bye\r\n",
        b"354 x\r\n",
        b"2",
    ]
)


@given(st.lists(st.lists(_answers, min_size=1, max_size=2), max_size=8), st.integers(1, 40))
def test_flights_that_are_recognised_whole_mean_the_same_as_their_pieces(flights, size):
    whole, pieces = _outcome(flights, 10**9), _outcome(flights, size)
    assert whole == pieces


def _outcome(flights, size):
    """What was sent and answered when a host says these things, each at one go or in pieces."""
    talk = Talk(size)
    talk.host(EHLO)
    begun, sent = [], []
    for words in flights:
        while talk.client.room:
            begun.append(transaction(sender=f"s{len(begun)}@b"))
            sent.append(talk.send(begun[-1]))
        sent.append(talk.host(b"".join(words)))
    return sent, [one.answers for one in begun], talk.client.state, talk.client.end, talk.client.waiting
