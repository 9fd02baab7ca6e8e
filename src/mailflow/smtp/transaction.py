"""One message to one host: what is asked of the host, which commands say so, and what came of it.

Made by whoever sends (the delivery agent), carried out by `client.Client`. Commands use those parameters only that
the host has offered to understand (RFC 1870 SIZE, RFC 6152 8BITMIME, RFC 6531 SMTPUTF8, RFC 3461 DSN).
What an answer means for a recipient is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import NamedTuple

from mailflow.smtp.reply import Reply


class Step(IntEnum):
    """Which of our commands a reply answers. BODY stands for a reply that came while the message was being sent."""

    GREETING = 0
    EHLO = 1
    HELO = 2
    MAIL = 3
    RCPT = 4
    DATA = 5
    BODY = 6
    DOT = 7
    RSET = 8
    QUIT = 9


class State(Enum):
    """Where the conversation stands."""

    GREETING = "waiting for the greeting"
    HELLO = "introducing ourselves"
    READY = "ready for a message"
    BUSY = "sending a message"
    QUITTING = "saying goodbye"
    CLOSED = "closed"


class End(Enum):
    """Why a transaction, or the connection, ended without the reply that it waited for."""

    REPLY = "the host's reply ends the conversation"
    LOST = "connection lost"
    TIMEOUT = "timed out"
    GARBAGE = "not an SMTP reply"
    NOT_BEGUN = "nothing of it was answered"
    NO_CONTENT = "the message could not be read"
    NEEDS_8BITMIME = "8BITMIME is not offered"
    NEEDS_SMTPUTF8 = "SMTPUTF8 is not offered"
    NEEDS_BINARYMIME = "BINARYMIME is not offered"
    NEEDS_REQUIRETLS = "REQUIRETLS is not offered"
    NEEDS_DELIVERBY = "DELIVERBY is not offered"
    TOO_LARGE = "larger than the announced SIZE"
    BAD_ADDRESS = "an address holds a line end"


Answer = tuple[Step, Reply | None, End | None]
"""What became of a recipient: at which step, and either the reply or the reason why there is none."""


class Parameters(NamedTuple):
    """What is said in MAIL and RCPT besides addresses and size."""

    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    dsn: Sequence[tuple[str, str]] = ()
    """(NOTIFY, ORCPT) for each recipient, or empty."""
    by: str = ""
    """BY= of RFC 2852 with the time that is left: "120;R"."""
    requiretls: bool = False
    """RFC 8689."""


NO_PARAMETERS = Parameters()


class Transaction:
    """One message to some recipients, and their answers.

    `content` is the message, CRLF line ends, dots not doubled; None when the shell will stream it.
    """

    __slots__ = ("answers", "content", "parameters", "recipients", "sender", "size")

    def __init__(
        self,
        sender: str,
        recipients: Sequence[str],
        content: bytes | None,
        size: int,
        parameters: Parameters = NO_PARAMETERS,
    ) -> None:
        self.sender = sender
        self.recipients = recipients
        self.content = content
        self.size = size
        self.parameters = parameters
        self.answers: list[Answer | None] = []
        """One for each recipient when finished; while under way None marks those that the host has accepted so far."""

    def __repr__(self) -> str:
        return f"<Transaction from=<{self.sender}> recipients={len(self.recipients)} answers={self.answers}>"

    def conclude(self, answer: Answer) -> None:
        """Every recipient without a final answer gets this one."""
        answers = self.answers
        missing = len(self.recipients) - len(answers)
        if answers == _ACCEPTED and not missing:  # by far the most
            answers[0] = answer
            return
        self.answers = [answer if found is None else found for found in answers]
        self.answers += [answer] * missing


_ACCEPTED: list[Answer | None] = [None]


class Extensions:
    """What the host's EHLO reply offers."""

    __slots__ = (
        "deliver_by",
        "dsn",
        "eight_bit",
        "is_usual",
        "keywords",
        "pipelining",
        "requiretls",
        "size",
        "size_limit",
        "utf8",
    )

    def __init__(self, keywords: dict[str, str], *, secure: bool = False) -> None:
        """`secure`: the conversation is under TLS; only there REQUIRETLS counts (RFC 8689 §2)."""
        self.keywords = keywords
        """Keyword in upper case, and its parameters."""
        self.deliver_by = "DELIVERBY" in keywords
        self.requiretls = secure and "REQUIRETLS" in keywords
        self.pipelining = "PIPELINING" in keywords
        self.size = "SIZE" in keywords
        limit = keywords.get("SIZE", "")
        # RFC 1870 §4: 0 or nothing = no limit known
        self.size_limit = int(limit) if limit.isascii() and limit.isdigit() and len(limit) <= 20 else 0
        self.eight_bit = "8BITMIME" in keywords
        self.utf8 = "SMTPUTF8" in keywords
        self.dsn = "DSN" in keywords
        self.is_usual = self.pipelining and self.size
        """Whether `plain_envelope` will do."""

    def __repr__(self) -> str:
        return f"<Extensions {' '.join(self.keywords)}>"


def parse_extensions(reply: Reply) -> Extensions:
    """Reads the lines of an EHLO reply (RFC 5321 §4.1.1.1); the first one is the host's name."""
    found = {}
    for line in reply.lines[1:]:
        keyword, _, parameters = line.strip().partition(" ")
        found[keyword.upper()] = parameters.strip()
    return Extensions(found)


def obstacle(transaction: Transaction, offers: Extensions) -> End | None:
    """Why the host cannot take this message, before it is asked; None when it may."""
    if 0 < offers.size_limit < transaction.size:
        return End.TOO_LARGE
    addresses = transaction.sender + "".join(transaction.recipients)
    if not addresses.isprintable() and ("\n" in addresses or "\r" in addresses):
        return End.BAD_ADDRESS
    content, parameters = transaction.content, transaction.parameters
    if parameters.body == "8BITMIME" and not offers.eight_bit and (content is None or not content.isascii()):
        return End.NEEDS_8BITMIME  # RFC 6152 §3; 8BITMIME that was declared and not used does no harm
    if parameters.body == "BINARYMIME" and (reason := _needs_binary(transaction, offers)) is not None:
        return reason
    if parameters.requiretls and not offers.requiretls:
        return End.NEEDS_REQUIRETLS
    if "R" in parameters.by and not offers.deliver_by:
        return End.NEEDS_DELIVERBY  # RFC 2852 §4.1.3: to be returned by then, which the host would not do
    plain = addresses.isascii()
    if parameters.smtputf8 or not plain:
        transaction.parameters = parameters._replace(smtputf8=True)
        if not offers.utf8 and (not plain or _needs_utf8(content)):
            return End.NEEDS_SMTPUTF8
    return None


def _needs_binary(transaction: Transaction, offers: Extensions) -> End | None:
    """What keeps a message with BODY=BINARYMIME (RFC 3030) from leaving by DATA; one that is lines of text may leave so."""
    content = transaction.content
    if content is None or not _is_text(content):
        return End.NEEDS_BINARYMIME
    transaction.parameters = transaction.parameters._replace(body="7BIT" if content.isascii() else "8BITMIME")
    return None if content.isascii() or offers.eight_bit else End.NEEDS_8BITMIME


def _is_text(content: bytes) -> bool:
    """Whether it is lines of at most 998 octets, each with its CR LF, and without NUL (RFC 5321 §4.5.3.1.6)."""
    lines = content.split(b"\r\n")
    whole = not lines[-1] and content.count(b"\n") == content.count(b"\r") == len(lines) - 1
    return whole and b"\0" not in content and max(map(len, lines)) <= 998


def _needs_utf8(content: bytes | None) -> bool:
    """Whether a message needs SMTPUTF8 for its header (RFC 6531 §3.1); a content that is not at hand may."""
    return content is None or not content[: content.find(b"\r\n\r\n") + 1 or len(content)].isascii()


def plain_envelope(transaction: Transaction, offers: Extensions) -> bytes:
    """The whole flight for what nearly every message is, and the host can take: one recipient, ASCII, no parameters.

    Empty for any other, which takes `obstacle` and the commands one by one.
    """
    recipients, size, sender = transaction.recipients, transaction.size, transaction.sender
    if not offers.is_usual or len(recipients) != 1 or transaction.parameters is not NO_PARAMETERS:
        return b""
    recipient = recipients[0]
    addresses = sender + recipient
    if 0 < offers.size_limit < size or not addresses.isascii() or "\n" in addresses or "\r" in addresses:
        return b""
    return f"MAIL FROM:<{sender}> SIZE={size}\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()


def envelope(transaction: Transaction, offers: Extensions) -> bytes:
    """MAIL, every RCPT, and DATA, as one flight."""
    rcpts = [rcpt_command(transaction, index, offers) for index in range(len(transaction.recipients))]
    return "".join([mail_command(transaction, offers), *rcpts, "DATA\r\n"]).encode()


def mail_command(transaction: Transaction, offers: Extensions) -> str:
    """MAIL, with its line end."""
    command = f"MAIL FROM:<{transaction.sender}>"
    body, smtputf8, ret, envid, _, by, requiretls = transaction.parameters
    if offers.size:
        command += f" SIZE={transaction.size}"
    if body and offers.eight_bit:
        command += f" BODY={body}"
    if smtputf8 and offers.utf8:
        command += " SMTPUTF8"
    if offers.dsn:
        command += f" RET={ret}" if ret else ""
        command += f" ENVID={envid}" if envid else ""
    if by and offers.deliver_by:
        command += f" BY={by}"
    if requiretls:
        command += " REQUIRETLS"
    return command + "\r\n"


def rcpt_command(transaction: Transaction, index: int, offers: Extensions) -> str:
    """RCPT for the recipient at `index`, with its line end."""
    command = f"RCPT TO:<{transaction.recipients[index]}>"
    dsn = transaction.parameters.dsn
    if dsn and offers.dsn:
        notify, orcpt = dsn[index]
        command += f" NOTIFY={notify}" if notify else ""
        command += f" ORCPT={orcpt}" if orcpt else ""
    return command + "\r\n"
