"""STARTTLS (RFC 3207) and AUTH (RFC 4954): who the client is, and that nobody listens.

Decisions. Whatever the client sends behind STARTTLS in the clear, in the same flight or later, is dropped unseen and
counted in `dropped`: a man in the middle who put it there gains nothing, and the reply does not depend on how the bytes
were split (RFC 3207 §4.2; Poddebniak et al., "Why TLS is better without STARTTLS", 2021, section 5). After the
handshake the session is as new: no name, no transaction, no login. A response that is no strict base64 (RFC 4648 §4,
padding and spare bits included) ends the exchange, as does a line longer than 12288 bytes.
"""

from __future__ import annotations

import binascii

from mailflow.smtp import replies
from mailflow.smtp.conversation import Verb
from mailflow.smtp.handler import State
from mailflow.smtp.reply import Reply
from mailflow.smtp.verbs_proxy import ProxyVerbs

AUTH_LINE_OCTETS = 12288
"""RFC 4954 §4: what a line of the exchange may hold, CR LF included."""


class SecurityVerbs(ProxyVerbs):
    """STARTTLS and AUTH."""

    __slots__ = ()

    # STARTTLS

    def _starttls(self, rest: str) -> None:
        if self._profile.secured is None:
            self._say(replies.TLS_ACTIVE if self._tls else replies.NOT_IMPLEMENTED)
        elif rest.strip(" "):
            self._say(replies.NO_PARAMETERS)
        elif self.state is not self._profile.greeted or not (self.extended or self.state is State.READY):
            self._say(replies.HELO_FIRST if self.state is State.START else replies.NOT_IN_TRANSACTION)
        else:
            self._hear(self._handler.starttls(), SecurityVerbs._tls_granted)

    def _tls_granted(self, answer: Reply) -> None:
        self._say(answer)
        if answer.code == 220 and not self.closing:
            self.upgrading = True
            self._taker = SecurityVerbs._drop

    def _drop(self, data: bytes, start: int) -> int:
        self.dropped += len(data) - start
        return -1

    def secured(self) -> None:
        """The shell calls this when the handshake is done: the session begins anew, without a greeting (RFC 3207 §4.2)."""
        profile = self._profile.secured
        if self.closing or not self.upgrading or profile is None:
            return
        self._profile = profile
        self._restart()
        self.upgrading, self._tls, self._taker = False, True, None

    # AUTH

    def _auth(self, rest: str) -> None:
        name, _, initial = rest.strip(" ").partition(" ")
        mechanism = name.upper()
        refusal = self._why_not(mechanism)
        if refusal is not None:
            self._say(refusal)
            return
        data = None
        if initial:
            data = b"" if initial == "=" else decode_base64(initial.encode())
            if data is None:
                self._say(replies.NOT_BASE64)
                return
        self._hear(self._handler.auth(mechanism, data), SecurityVerbs._auth_answered)

    def _why_not(self, mechanism: str) -> Reply | None:
        """The refusal of AUTH in this state; None when it may begin."""
        offered = self._profile.offers.mechanisms
        later = self._profile.secured.offers.mechanisms if self._profile.secured else ()
        if not (offered or later):
            return replies.NOT_IMPLEMENTED
        if self.authenticated:
            return replies.AUTHENTICATED
        if self.state is not State.READY or not self.extended:
            return replies.NOT_IN_TRANSACTION if self.state is not State.START and self.extended else replies.HELO_FIRST
        if not mechanism:
            return replies.AUTH_SYNTAX
        if mechanism in offered:
            return None
        return replies.TLS_FIRST if mechanism in later else replies.NO_MECHANISM

    def _auth_answered(self, answer: Reply) -> None:
        self._taker = SecurityVerbs._auth_line if answer.code == 334 else None
        self.authenticated = answer.code == 235
        self._say(answer)

    def _auth_line(self, data: bytes, start: int) -> int:
        """The client's response, when its whole line is there."""
        end = data.find(b"\r\n", start)
        length = (len(data) - data.endswith(b"\r") if end < 0 else end) - start
        if self._skipping or length > AUTH_LINE_OCTETS - 2:
            self._skipping = True
            self.input = b"\r" if data.endswith(b"\r") else b""
            if end < 0:
                return -1
            self._skipping, self.input = False, b""
            self._give_up_auth(replies.AUTH_LINE_TOO_LONG)
        elif end < 0:
            self.input = data[start:]
            return -1
        elif data[start:end] == b"*":
            self._give_up_auth(replies.AUTH_CANCELLED)
        elif (response := decode_base64(data[start:end])) is None:
            self._give_up_auth(replies.NOT_BASE64)
        else:
            self._hear(self._handler.auth_response(response), SecurityVerbs._auth_answered)
        return end + 2

    def _give_up_auth(self, answer: Reply) -> None:
        self._taker = None
        self._handler.auth_cancelled()
        self._say(answer)


# Behind the class, whose body knows no methods by name where it is compiled (docs/compiled.md).
SECURITY_VERBS: dict[str, Verb] = {"STARTTLS": SecurityVerbs._starttls, "AUTH": SecurityVerbs._auth}


def decode_base64(text: bytes) -> bytes | None:
    """The bytes that this stands for; None when it is not exactly how they are written (RFC 4648 §3.3, §3.5)."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
    return data if binascii.b2a_base64(data, newline=False) == text else None
