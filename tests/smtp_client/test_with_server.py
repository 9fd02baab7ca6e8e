"""Our client core talks to our server core, without any I/O: what one says the other understands."""

import pytest

from mailflow.smtp.client import Client
from mailflow.smtp.profile import Profile
from mailflow.smtp.replies import HELLO
from mailflow.smtp.reply import reply
from mailflow.smtp.server import ServerCore
from mailflow.smtp.transaction import Parameters, State, Transaction


class Keeper:
    """A handler that accepts everything but recipients that begin with "no", and keeps what it got."""

    def __init__(self):
        self.messages = []
        self.reset()

    def connect(self):
        return reply(220, "", "")

    def hello(self, verb, name):
        self.name = name
        return HELLO

    def mail(self, sender, params):
        self.sender, self.mail_params = sender, params
        return reply(250, "2.1.0", "Ok")

    def rcpt(self, recipient, params):
        if recipient.startswith("no"):
            return reply(550, "5.1.1", "No such user")
        self.recipients.append(recipient)
        return reply(250, "2.1.5", "Ok")

    def data(self):
        return reply(354, "", "go")

    def chunk(self, data):
        self.content += data

    def end(self):
        self.messages.append((self.sender, self.recipients, self.content))
        self.reset()
        return reply(250, "2.0.0", "Ok")

    def reset(self):
        self.sender, self.recipients, self.content = "", [], b""

    def said(self, verb, text, usual):
        return usual

    def offended(self, offence, data):
        return None

    def tolerates(self, limit):
        return limit

    def refused(self, answer):
        return False


def exchange(client, server, size):
    """Carries bytes to and fro, `size` at a time, until both are silent."""
    to_client, to_server = server.take(), b"".join(client.take())
    while to_client or to_server:
        for start in range(0, len(to_server), size):
            server.feed(to_server[start : start + size])
        to_client += server.take()
        for start in range(0, len(to_client), size):
            client.feed(to_client[start : start + size])
        to_client, to_server = server.take(), b"".join(client.take())


@pytest.mark.parametrize("size", [1, 7, 10**9])
def test_messages_pass_unchanged(size):
    keeper = Keeper()
    client, server = Client("me.example"), ServerCore(Profile("mx.example", message_size=10**6), keeper)
    exchange(client, server, size)
    assert client.state is State.READY
    assert client.extensions.pipelining
    assert keeper.name == "me.example"
    contents = [b"Subject: one\r\n\r\n.dot\r\n..\r\n.\r\n", b"Subject: \xc3\xa4\r\n\r\nx\r\n", b".\r\n"]
    sent = []
    for number, content in enumerate(contents):
        one = Transaction(
            f"s{number}@ä.example" if number == 1 else f"s{number}@b.example",
            ["yes@y.example", "no@y.example"],
            content,
            len(content),
            Parameters("8BITMIME", False, "FULL", "e1", [("NEVER", "rfc822;q@y.example"), ("", "")]),
        )
        client.begin(one)
        sent.append(one)
        if client.room:
            continue
        exchange(client, server, size)
    exchange(client, server, size)
    assert [content for _, _, content in keeper.messages] == contents
    assert [recipients for _, recipients, _ in keeper.messages] == [["yes@y.example"]] * 3
    assert [[answer[1].code for answer in one.answers] for one in sent] == [[250, 550]] * 3
    client.quit()
    exchange(client, server, size)
    assert client.state is State.CLOSED
    assert server.closing


@pytest.mark.parametrize("size", [1, 10**9])
def test_nobody_accepted_leaves_both_sides_ready(size):
    keeper = Keeper()
    client, server = Client("me.example"), ServerCore(Profile("mx.example", message_size=10**6), keeper)
    exchange(client, server, size)
    for recipients in (["no1@y.example", "no2@y.example"], ["yes@y.example"]):
        client.begin(Transaction("a@b.example", recipients, b"x\r\n", 3))
        exchange(client, server, size)
    assert keeper.messages == [("a@b.example", ["yes@y.example"], b"x\r\n")]
    assert [answer[1].code for one in client.finished for answer in one.answers] == [550, 550, 250]
