"""What a session does for few clients: VRFY, ETRN, XCLIENT, XFORWARD, future release, and what goes with MAIL's parameters.

`Services` holds what a listener's sessions need for it; `Served` is the part of a session that answers. Nothing here
costs a client anything that does not ask for it.

Decisions. Who may speak for others is decided by the address that the connection came from, also after XCLIENT has
changed it. ETRN is answered for the domains of the setting, by whomever it is asked (RFC 1985 §5.2: mail leaves for
the site's own hosts only), and for all others when a trusted client asks. AUTH= of a client that is not trusted is
taken for "<>" (RFC 4954 §5).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from mailflow.envelope import PLAIN, Options, Peer, Route
from mailflow.ingress.asking import Asked
from mailflow.ingress.policy.relay import RELAY_DENIED, RelayControl, check_recipient, is_source_routed
from mailflow.ingress.ports import Recipients, Sites
from mailflow.smtp import replies
from mailflow.smtp.commands import MailParams
from mailflow.smtp.handler import Answer
from mailflow.smtp.replies import WELCOME
from mailflow.smtp.reply import Reply, reply
from mailflow.smtp.verbs_proxy import XCLIENT, XFORWARD

FORWARDED = reply(250, "2.0.0", "Ok")
ETRN_FAILED = reply(458, "4.3.0", "Unable to queue messages for this node")

# Attribute of XCLIENT and XFORWARD: the field of `Peer`.
_FIELDS = {"NAME": "name", "ADDR": "address", "HELO": "helo", "PROTO": "protocol", "LOGIN": "login"}

_USUAL_OPTIONS = {
    (body, utf8, ret, ""): Options(body, utf8, ret)
    for body in ("", "7BIT", "8BITMIME")
    for utf8 in (False, True)
    for ret in ("", "FULL", "HDRS")
} | {("", False, "", ""): PLAIN}
"""Nearly all mail has one of these; an ENVID is different each time."""
_NOTHING_MORE = MailParams()[5:]


class NoSites:
    """Nobody to ask for a site's mail."""

    async def release(self, node: str) -> int:  # noqa: ARG002
        """Nothing waits."""
        return 0


@dataclass(frozen=True, slots=True)
class Services:
    """What the sessions of a listener need for their services."""

    recipients: Recipients
    """For VRFY."""
    speakers: Mapping[str, RelayControl] = field(default_factory=dict)
    """Who may say XCLIENT and XFORWARD."""
    etrn_domains: Collection[str] = ()
    """Domains whose mail anybody may ask to have sent; in lower case."""
    sites: Sites = field(default_factory=NoSites)
    hold_limit: float = 0.0
    """How far ahead a release may lie, in seconds; 0: no future release."""
    now: Callable[[], float] = time.time
    """Seconds since 1970."""
    submission: bool = False
    """The listener is for clients that log in: future release is announced before they do."""


class Served(Asked):
    """A session, as far as its services go."""

    __slots__ = ("_entrance", "_forwarded", "_services", "address", "trusted")

    _services: Services
    address: str
    trusted: bool

    @property
    def peer(self) -> Peer:
        """The client's record."""
        raise NotImplementedError

    def identify(self, **changes: Any) -> None:
        """Changes the client's record."""
        raise NotImplementedError

    def _serve(self, services: Services, address: str) -> None:
        self._services = services
        self._entrance = address
        """Where the connection came from."""
        self._forwarded: dict[str, Any] | None = None
        """What XFORWARD said of the client of the messages to come."""

    # EHLO

    def offers(self) -> Sequence[str]:
        """The lines of the EHLO reply that are for this client."""
        services = self._services
        lines = []
        if services.hold_limit and (self.trusted or services.submission):
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(services.now() + services.hold_limit))
            lines.append(f"FUTURERELEASE {services.hold_limit:.0f} {until}")
        for verb, names in (("XCLIENT", XCLIENT), ("XFORWARD", XFORWARD)):
            if self.may_speak_for_others(verb):
                lines.append(f"{verb} {' '.join(names)}")
        return lines

    # For others

    def may_speak_for_others(self, verb: str) -> bool:
        """Whether the connection comes from one of the verb's networks."""
        control = self._services.speakers.get(verb)
        return control is not None and control.trusts(self._entrance)

    def xclient(self, attributes: Mapping[str, str | None]) -> Answer:
        """The session is another client's from now on."""
        self._forwarded = None
        changes = _changes(attributes)
        if self.peer.via != self._entrance or "address" in changes:
            changes = {"login": ""} | changes  # the proxy's own, or that of the one before, is not this client's
        self.identify(**changes, reverse="", certificate="", via=self._entrance)
        self.event("xclient", level=10)
        return WELCOME

    def xforward(self, attributes: Mapping[str, str | None]) -> Answer:
        """The messages to come are another client's; what was not known of that one is not known."""
        self._forwarded = _changes(attributes) | {"via": self._entrance}
        return FORWARDED

    # VRFY and ETRN

    def vrfy(self, address: str) -> Answer:
        """What RCPT would say, guards aside (RFC 5321 §3.5)."""
        if not self.trusted and (refusal := check_recipient(address)) is not None:
            return refusal
        route = self._services.recipients.resolve(address)
        if not isinstance(route, Route):
            return Reply(route.code, route.status, (route.text,))
        if route.kind == "local":
            return reply(250, "2.1.5", f"<{address}>")
        if not self.trusted and (route.kind == "remote" or is_source_routed(address)):
            return RELAY_DENIED
        return reply(251, "2.1.5", f"User not local; will forward to <{address}>")

    def etrn(self, node: str) -> Answer:
        """Has what waits for a node sent, for those who may ask (wish 79)."""
        if not self._may_ask_for(node):
            return reply(459, "4.7.1", f"Node {node} not allowed: not one of the domains that mail is kept for")
        sent: list[int] = []

        async def release() -> None:
            sent.append(await self._services.sites.release(node.lower()))

        def finish() -> Reply:
            self.event("etrn", node=node, nrcpt=sent[0])
            if sent[0] < 0:
                return ETRN_FAILED
            if not sent[0]:
                return reply(251, "2.0.0", f"OK, no messages waiting for node {node}")
            return reply(253, "2.0.0", f"OK, {sent[0]} pending messages for node {node} started")

        return self._ask((cast("Any", lambda _: release()),), finish)

    def _may_ask_for(self, node: str) -> bool:
        if self.trusted:
            return True
        name = node.lower()
        domains = self._services.etrn_domains
        return name.removeprefix("@") in domains and not name.startswith("#")

    # MAIL's parameters

    def _hold_refused(self, params: MailParams) -> Reply | None:
        """The refusal of HOLDFOR and HOLDUNTIL (RFC 4865 §4), None when they are good."""
        services = self._services
        if not services.hold_limit or not self.trusted:
            return replies.HOLD_DENIED
        if params.hold_for and params.hold_until:
            return replies.HOLD_TWICE
        return replies.HOLD_TOO_LONG if self._release(params) > services.now() + services.hold_limit else None

    def _release(self, params: MailParams) -> float:
        """When the message may leave, seconds since 1970; 0 for at once."""
        return self._services.now() + params.hold_for if params.hold_for else params.hold_until

    def _options(self, params: MailParams) -> Options:
        """What MAIL's parameters ask for the message."""
        options = _USUAL_OPTIONS.get(params[1:5]) or Options(*params[1:5])
        if params[5:] == _NOTHING_MORE:
            return options
        auth = params.auth and (params.auth if self.trusted else "<>")
        seconds, mode = params.by or (0, "")
        by = self._services.now() + seconds if mode else 0.0
        return replace(options, requiretls=params.requiretls, auth=auth, by=by, by_mode=mode)


def _changes(attributes: Mapping[str, str | None]) -> dict[str, Any]:
    """The fields of `Peer` that attributes tell; what is unavailable is empty."""
    changes: dict[str, Any] = {}
    for name, value in attributes.items():
        if name == "PORT":
            changes["port"] = int(value) if value else 0
        elif name in _FIELDS:
            changes[_FIELDS[name]] = value or ""
    return changes
