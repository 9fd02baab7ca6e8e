"""From the settings to what the protocol core has to know: the profiles of a listener's sessions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.greeting import greeting
from mailflow.ingress.settings import LimitsSettings, ListenerSettings, ProtocolSettings, TlsUse
from mailflow.smtp.profile import Offers, Profile

PLAIN_PROTOCOL = ProtocolSettings()


def tls_use(settings: ListenerSettings, *, certificates: bool) -> TlsUse:
    """How a listener uses TLS: as it says, or as its protocol has it."""
    if settings.tls is not None:
        return settings.tls
    if not certificates:
        return "no"
    if settings.protocol == "submissions":
        return "implicit"
    return "require" if settings.protocol == "submission" else "offer"


def make_profile(
    hostname: str,
    limits: LimitsSettings,
    *,
    trusted: bool,
    tls: TlsUse = "no",
    auth: Authenticator | None = None,
    clear: bool = False,
    protocol: ProtocolSettings = PLAIN_PROTOCOL,
    lmtp: bool = False,
    service: str = "smtp",
    etrn: bool = False,
) -> Profile:
    """What the protocol core has to know of the settings, for clients that may send anywhere or for strangers.

    With TLS, the profile's `secured` is for what comes under it. `clear`: for clients that may log in without TLS.
    `service`: the listener's name, for the greeting. `etrn`: there are sites that mail waits for.
    """
    before: tuple[str, ...] = ()
    if auth is not None:
        before = auth.plaintext_mechanisms if clear else auth.clear_mechanisms
    names = {"hostname": hostname, "protocol": "LMTP" if lmtp else "ESMTP", "service": service}
    form = partial(
        Profile,
        hostname,
        message_size=limits.message_size,
        command_line=limits.command_line,
        data_line=limits.data_line,
        errors=limits.errors,
        junk_commands=limits.junk_commands,
        normalise=limits.bare_newlines == "normalise" or (trusted and limits.bare_newlines == "normalise_trusted"),
        soft=protocol.error_class == "temporary",
        lmtp=lmtp,
        banner=greeting(protocol.banner, names),
    )
    offers = _offers(limits, protocol, etrn=etrn and not lmtp)
    if tls == "no":
        return form(offers=replace(offers, mechanisms=before))
    mechanisms = auth.mechanisms if auth is not None else ()
    secured = form(offers=replace(offers, mechanisms=mechanisms, requiretls=protocol.requiretls))
    return form(offers=replace(offers, mechanisms=before), secured=secured, tls_first=tls == "require")


def _offers(limits: LimitsSettings, protocol: ProtocolSettings, *, etrn: bool) -> Offers:
    """What is offered with or without TLS."""
    return Offers(
        chunking=protocol.chunking,
        binarymime=protocol.binarymime,
        deliver_by=int(protocol.deliver_by) or None,
        hold=bool(protocol.future_release),
        etrn=etrn,
        limits=(f"MAILMAX={limits.messages} " if limits.messages else "") + f"RCPTMAX={limits.recipients}",
        vrfy=protocol.vrfy,
        personal=bool(protocol.xclient or protocol.xforward or protocol.future_release),
        hidden=frozenset(protocol.hidden),
    )
