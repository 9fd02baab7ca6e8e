"""An SMTP client that says exactly what it is told to, for what smtplib would never send."""

from __future__ import annotations

import contextlib
import smtplib
import socket
from email.message import EmailMessage
from email.policy import SMTP
from typing import Self

from tests.support.waiting import PATIENCE


class Client:
    """One connection; a context manager. The greeting is read on entry."""

    def __init__(self, port: int, source: str = "", timeout: float = PATIENCE) -> None:
        origin = (source, 0) if source else None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout, source_address=origin)
        self.lines = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        self.greeting = self.reply()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.lines.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> str:
        """The next reply, its lines joined by LF; "" when the server has closed the connection."""
        lines = []
        while True:
            try:
                line = self.lines.readline()
            except ConnectionResetError:
                return ""
            lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
            if line[3:4] != b"-":
                return "\n".join(lines)

    def say(self, line: bytes | str) -> str:
        """Sends one command and gives the reply."""
        self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return self.reply()

    def message(self, recipients: list[str], data: bytes, sender: str = "sender@client.test") -> str:
        """A whole transaction; the reply to the final dot, or the first refusal."""
        for command in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{r}>" for r in recipients), "DATA"):
            answer = self.say(command)
            if answer[:1] not in "23":
                return answer
        stuffed = data.replace(b"\r\n.", b"\r\n..")
        return self.say((b"." if data.startswith(b".") else b"") + stuffed + b"\r\n.")


def mail(subject: str = "greetings", text: str = "Hello.\n", **headers: str) -> EmailMessage:
    """A message as a mail program would make it."""
    message = EmailMessage(policy=SMTP)  # CRLF line ends
    message["From"] = headers.pop("sender", "sender@client.test")
    message["To"] = headers.pop("to", "alice@example.test")
    message["Subject"] = subject
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content(text)
    return message


def send(
    port: int, *recipients: str, sender: str = "sender@client.test", subject: str = "greetings"
) -> dict[str, tuple[int, bytes]]:
    """Sends one message with smtplib; the refused recipients."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=PATIENCE) as client:
        return client.sendmail(sender, list(recipients), mail(subject, to=recipients[0]).as_bytes())
