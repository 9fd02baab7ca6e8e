"""XCLIENT and XFORWARD: a proxy or filter in front of us tells whom it speaks for (Postfix, XCLIENT_README, XFORWARD_README).

XCLIENT makes the session another client's: it begins anew with a greeting, and all policy is asked again. XFORWARD
only says what is to be logged and stored. Whether the client may say so is the handler's affair; here is the syntax:
`NAME=value` pairs, values in xtext, "[UNAVAILABLE]" for what is not known and "[TEMPUNAVAIL]" for what is not known now.
An attribute that was given is in the result with its value, decoded, or None when it is unavailable.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

from mailflow.smtp import replies
from mailflow.smtp.conversation import Verb
from mailflow.smtp.handler import State
from mailflow.smtp.param_values import decode_xtext
from mailflow.smtp.reply import Reply
from mailflow.smtp.verbs_queries import QueryVerbs

XCLIENT = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
XFORWARD = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")

VALUE_CHARACTERS = 255
"""The longest value, decoded."""
_UNKNOWN = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?\Z")

Attributes = dict[str, str | None]


class ProxyVerbs(QueryVerbs):
    """XCLIENT and XFORWARD."""

    __slots__ = ()

    def _xclient(self, rest: str) -> None:
        attributes = self._attributes("XCLIENT", rest, XCLIENT)
        if attributes is not None:
            self._hear(self._handler.xclient(attributes), ProxyVerbs._become)

    def _become(self, answer: Reply) -> None:
        if answer.code != 220:
            self._say(answer)
            return
        self._restart()
        self._profile = self._handler.profile(self._profile)
        self._hear(self._handler.connect(), ProxyVerbs._opened)

    def _xforward(self, rest: str) -> None:
        attributes = self._attributes("XFORWARD", rest, XFORWARD)
        if attributes is not None:
            self._hear(self._handler.xforward(attributes), ProxyVerbs._say)

    def _attributes(self, verb: str, rest: str, known: tuple[str, ...]) -> Attributes | None:
        """What was said; None when it was refused."""
        if not self._handler.may_speak_for_others(verb):
            self._say(replies.NOT_FOR_YOU)
            return None
        if self.state is not State.READY and self.state is not State.START:
            self._say(replies.NOT_IN_TRANSACTION)
            return None
        attributes = parse_attributes(rest, known)
        if not attributes:
            self._say(replies.BAD_ATTRIBUTE)
            return None
        return attributes


# Behind the class, whose body knows no methods by name where it is compiled (docs/compiled.md).
PROXY_VERBS: dict[str, Verb] = {"XCLIENT": ProxyVerbs._xclient, "XFORWARD": ProxyVerbs._xforward}


def parse_attributes(text: str, known: tuple[str, ...]) -> Attributes | None:
    """Reads `NAME=value` pairs; None when one is not known, is there twice, or has a value that cannot be."""
    found: Attributes = {}
    for word in text.split():
        name, _, raw = word.partition("=")
        name = name.upper()
        value = decode_xtext(raw)
        if name not in known or name in found or value is None or len(value) > VALUE_CHARACTERS:
            return None
        if value.upper() in _UNKNOWN:
            found[name] = None
            continue
        value = _CHECKS.get(name, _text)(value)
        if value is None:
            return None
        found[name] = value
    return found


def _text(value: str) -> str | None:
    return value if value.isprintable() else None


def _address(value: str) -> str | None:
    """An IP address as text; "IPV6:" in front marks the sixth version."""
    six = value[:5].upper() == "IPV6:"
    try:
        address = ipaddress.ip_address(value[5:] if six else value)
    except ValueError:
        return None
    if six and address.version != 6:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def _port(value: str) -> str | None:
    return value if value.isascii() and value.isdigit() and len(value) <= 5 and int(value) <= 65535 else None


def _host(value: str) -> str | None:
    return value.rstrip(".") if _NAME.match(value) else None


def _protocol(value: str) -> str | None:
    value = value.upper()
    return value if value in ("SMTP", "ESMTP") else None


def _source(value: str) -> str | None:
    value = value.upper()
    return value if value in ("LOCAL", "REMOTE") else None


_CHECKS: Mapping[str, Callable[[str], str | None]] = {
    "NAME": _host,
    "ADDR": _address,
    "DESTADDR": _address,
    "PORT": _port,
    "DESTPORT": _port,
    "PROTO": _protocol,
    "SOURCE": _source,
}
