"""Commands that ask, and those that ask for something to be sent: VRFY, EXPN, HELP, NOOP, ETRN.

VRFY tells by default neither that an address exists nor that it does not (RFC 5321 §3.5.3, §7.3); EXPN is not there.
What ETRN does with whose mail is the handler's affair; here is its syntax (RFC 1985 §5).
"""

from __future__ import annotations

import re

from mailflow.smtp import replies
from mailflow.smtp.address import AddressError, parse_address
from mailflow.smtp.conversation import Verb
from mailflow.smtp.handler import State
from mailflow.smtp.verbs_content import ContentVerbs

# RFC 1985 §5.1: a node, "@" and a domain with all below it, or "#" and the name of a queue.
_NODE = re.compile(r"(?:[@#]?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,254})|[@#]?\[[A-Za-z0-9.:]{1,60}\])\Z")


class QueryVerbs(ContentVerbs):
    """VRFY, EXPN, HELP, NOOP and ETRN."""

    __slots__ = ()

    def _noop(self, rest: str) -> None:
        if not self._is_junk():
            self._courtesy("NOOP", rest, replies.RESET_OK)

    def _vrfy(self, rest: str) -> None:
        policy = self._profile.offers.vrfy
        if policy == "off":
            self._say(replies.NOT_IMPLEMENTED)
        elif not (text := rest.strip(" ")):
            self._say(replies.VRFY_SYNTAX)
        elif self._is_junk():
            return
        elif policy == "unknown":
            self._courtesy("VRFY", rest, replies.CANNOT_VERIFY)
        else:
            self._look_up(text)

    def _look_up(self, text: str) -> None:
        if self.state is State.START:  # policy knows the client by what it said
            self._say(replies.HELO_FIRST)
            return
        if text.upper().endswith(" SMTPUTF8"):  # RFC 6531 §3.7.4.2
            text = text[:-9].rstrip(" ")
        try:
            address = parse_address(text[1:-1] if text.startswith("<") and text.endswith(">") else text)
        except AddressError:
            self._say(replies.CANNOT_VERIFY)  # a name, as people have it: nobody is looked up by it
        else:
            self._hear(self._handler.vrfy(address), QueryVerbs._say)

    def _help(self, _rest: str) -> None:
        if not self._is_junk():
            self._say(self._profile.help)

    def _expn(self, _rest: str) -> None:
        self._say(replies.NOT_IMPLEMENTED)

    def _etrn(self, rest: str) -> None:
        node = rest.strip(" ")
        if not self._profile.offers.etrn or self._profile.lmtp:
            self._say(replies.NOT_IMPLEMENTED)
        elif self.state is State.START:
            self._say(replies.HELO_FIRST)
        elif self.state is not State.READY:
            self._say(replies.NOT_IN_TRANSACTION)
        elif _NODE.match(node) is None:
            self._say(replies.ETRN_SYNTAX)
        elif not self._is_junk():
            self._hear(self._handler.etrn(node), QueryVerbs._say)


# Behind the class, whose body knows no methods by name where it is compiled (docs/compiled.md).
QUERY_VERBS: dict[str, Verb] = {
    "NOOP": QueryVerbs._noop,
    "VRFY": QueryVerbs._vrfy,
    "EXPN": QueryVerbs._expn,
    "HELP": QueryVerbs._help,
    "ETRN": QueryVerbs._etrn,
}
