"""Many senders at once who remember what was acknowledged to them, and a check of what arrived."""

from __future__ import annotations

import hashlib
from collections import Counter

from tests.support.client import Client
from tests.support.sessions import Sessions
from tests.support.sink import Received


def body(name: str, size: int) -> bytes:
    """A message for `name` that carries its own checksum, so that half a message shows."""
    text = b"".join(b"%s %060d\r\n" % (name.encode(), i) for i in range(size // 80 + 1))
    return b"Subject: %s\r\nX-Sum: %s\r\n\r\n%s" % (name.encode(), hashlib.sha256(text).hexdigest().encode(), text)


def intact(message: Received) -> bool:
    """Whether a message that `body` made arrived whole."""
    head, _, text = message.data.partition(b"\r\n\r\n")
    return hashlib.sha256(text).hexdigest().encode() in head


class Flood(Sessions):
    """Sessions that send until the server goes away or `stop` is called."""

    def __init__(self, port: int, sessions: int, prefix: str, size: int = 500) -> None:
        self.acknowledged: list[str] = []
        """Recipients whose message got 250."""
        super().__init__(self._send, [(port, f"{prefix}-{i}", size) for i in range(sessions)])

    def _send(self, port: int, prefix: str, size: int) -> None:
        try:
            with Client(port) as client:
                client.say("EHLO client.test")
                number = 0
                while not self.stopping.is_set():
                    recipient = f"{prefix}-{number}@remote.test"
                    number += 1
                    if not client.message([recipient], body(recipient, size).removesuffix(b"\r\n")).startswith("250 "):
                        return
                    self.acknowledged.append(recipient)
        except OSError:
            return  # the server was killed: that is what we are here for


def check(acknowledged: list[str], arrived: list[Received]) -> Counter[str]:
    """Fails when an acknowledged message is missing or any is damaged; gives how often each arrived."""
    counts = Counter(recipient for message in arrived for recipient in message.recipients)
    lost = [recipient for recipient in acknowledged if not counts[recipient]]
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged messages are lost: {lost[:5]}"
    damaged = [message.recipients for message in arrived if not intact(message)]
    assert not damaged, f"{len(damaged)} arrived damaged: {damaged[:5]}"
    return counts
