"""The settings that say where mail goes: `[relay]`, `[[route]]` and `[local]`. `rewrite.py` answers by them."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from mailflow.setting import HostPort, Network, Section, parse_endpoint, parse_network, setting

Transport = Literal["smtp", "local", "discard", "error"]


class RelaySettings(Section):
    """Who may send mail to anywhere through this server, and which way it leaves."""

    networks: list[Network] = setting(
        [parse_network("127.0.0.0/8"), parse_network("[::1]/128")],
        postfix="mynetworks",
    )
    """Clients in these networks may send to any destination. Everybody else may only send to local and relay domains."""
    domains: list[str] = setting([], postfix="relay_domains")
    """Domains that are not local but whose mail is accepted from everybody and relayed onward ("backup MX")."""
    host: HostPort | None = setting(None, postfix="relayhost")
    """All mail that is neither local nor named in a route goes to this host. In brackets: no MX look-up."""


class RouteSettings(Section):
    """One line of the switchboard."""

    match: str = setting()
    """What it applies to: a domain ("example.org"), all subdomains (".example.org"), an address ("joe@example.org"),
    or "*" for everything."""
    transport: Transport = setting("smtp", postfix="transport_maps")
    """How it is delivered: "smtp"; "local"; "discard" (accepted and dropped); "error" (refused)."""
    next_hop: str = setting("")
    """For "smtp": host or domain, "[address]:port" without MX look-up; empty = the recipient's domain.
    For "error": the words of the refusal."""

    @field_validator("match")
    @classmethod
    def _lower(cls, value: str) -> str:
        if not value or any(c.isspace() for c in value):
            raise ValueError('not a pattern (accepted: "example.org", ".example.org", "joe@example.org" or "*")')
        return value.lower()

    @field_validator("next_hop")
    @classmethod
    def _host(cls, value: str, info: object) -> str:
        transport = getattr(info, "data", {}).get("transport")
        if transport == "smtp" and value:
            parse_endpoint(value)
        return value


class LocalSettings(Section):
    """Mail that ends here."""

    domains: list[str] = setting([], postfix="mydestination")
    """Domains whose users have their mailbox here."""
    users: list[str] = setting([], postfix="local_recipient_maps")
    """The local parts that exist in each of the local domains. Mail to any other is refused."""
    maildir: str = setting("var/mail/{user}", postfix="home_mailbox")
    """The Maildir of a user; created when the first message arrives. Relative to the configuration file."""
    postmaster: str = setting("")
    """The user who reads mail to postmaster (RFC 5321 §4.5.1 demands that it is accepted). Empty: the first of `users`."""
