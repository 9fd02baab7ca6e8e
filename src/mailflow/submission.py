"""Reading sender, recipients and bytes out of a message that a program or the command line hands in.

Pure. Parsing is the standard library's (`email`); the Bcc: header is removed, so that no copy shows the others (wish 42).
"""

from __future__ import annotations

import copy
import re
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from email.policy import Policy
from email.utils import getaddresses, parseaddr

_BARE = re.compile(rb"\r\n|\r|\n")
_ASCII = policy.SMTP.clone(max_line_length=998)
_UTF8 = policy.SMTPUTF8.clone(max_line_length=998)
_ADDRESSES = ("From", "Sender", "Reply-To", "To", "Cc")

AnyMessage = Message | EmailMessage | bytes


def message_bytes(message: AnyMessage) -> bytes:
    """The content as it goes into the queue: CRLF line ends, a line end at the end, no Bcc: of an email message.

    Bytes are taken as they are, but for the line ends: what a program has signed is not serialised anew.
    """
    if not isinstance(message, bytes):
        if "Bcc" in message:
            message = copy.copy(message)
            del message["Bcc"]
        message = message.as_bytes(policy=_wire(message) if isinstance(message, EmailMessage) else message.policy)
    content = _BARE.sub(b"\r\n", message)
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def _wire(message: EmailMessage) -> Policy:
    """Header words beyond ASCII are encoded (RFC 2047), unless an address needs UTF-8 as it is (RFC 6532)."""
    fields = [str(v) for name in _ADDRESSES for v in message.get_all(name, [])]
    return _ASCII if all(address.isascii() for _, address in getaddresses(fields)) else _UTF8


def message_recipients(message: AnyMessage) -> list[str]:
    """The addresses in To:, Cc: and Bcc:, each once."""
    parsed = message_from_bytes(message) if isinstance(message, bytes) else message
    fields = [str(v) for name in ("To", "Cc", "Bcc") for v in parsed.get_all(name, [])]
    return list(dict.fromkeys(address for _, address in getaddresses(fields) if address))


def message_sender(message: AnyMessage) -> str:
    """The address in Sender:, else in From:. Raises ValueError when there is none."""
    parsed = message_from_bytes(message) if isinstance(message, bytes) else message
    for name in ("Sender", "From"):
        address = parseaddr(str(parsed.get(name, "")))[1]
        if address:
            return address
    raise ValueError("no sender: none given, and none in Sender: or From:")
