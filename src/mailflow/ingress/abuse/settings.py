"""The settings of abuse control: `[abuse]`."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from mailflow.ingress.abuse.rates import Rate
from mailflow.setting import Duration, Network, Section, Size, setting

SMTP_COMMANDS = frozenset(
    [
        "AUTH",
        "BDAT",
        "DATA",
        "EHLO",
        "ETRN",
        "EXPN",
        "HELO",
        "HELP",
        "LHLO",
        "MAIL",
        "NOOP",
        "QUIT",
        "RCPT",
        "RSET",
        "STARTTLS",
        "VRFY",
        "XCLIENT",
        "XFORWARD",
    ]
)
"""Words that `forbidden_commands` may not hold: the core answers them itself."""

Consequence = Literal["ignore", "log", "slow", "close"]
"""What an offence has: nothing, a line in the log, also a pause of `abuse.delay`, or also the end of the session (421)."""


class RatesSettings(Section):
    """Limits such as "100/1h", for one client or for one network; "off" for no limit.

    Behind it may stand what becomes of more: "delay", "defer" (4xx, the default), "refuse" (5xx), "close" or "drop".
    """

    connections: Rate = setting("off", postfix="smtpd_client_connection_rate_limit")
    """Connections."""

    messages: Rate = setting("off", postfix="smtpd_client_message_rate_limit")
    """MAIL commands."""

    recipients: Rate = setting("off", postfix="smtpd_client_recipient_rate_limit")
    """RCPT commands."""

    tls_handshakes: Rate = setting("off", postfix="smtpd_client_new_tls_session_rate_limit")
    """TLS handshakes, good and bad; more get 454 at STARTTLS, and what is written here at the client's next connection."""

    auth_failures: Rate = setting("off", postfix="smtpd_client_auth_rate_limit")
    """Failed logins; more are answered at the client's next connection."""

    errors: Rate = setting("off")
    """Refused commands and other offences; more are answered at the client's next connection."""


class ClientRates(RatesSettings):
    """Limits for each client. The defaults are so generous that they meet nobody but attackers, and cost nothing for a message."""

    connections: Rate = setting("1000/1m", postfix="smtpd_client_connection_rate_limit")
    """Connections."""

    tls_handshakes: Rate = setting("1000/1m", postfix="smtpd_client_new_tls_session_rate_limit")
    """TLS handshakes, good and bad; more get 454 at STARTTLS, and what is written here at the client's next connection."""

    auth_failures: Rate = setting("100/1h", postfix="smtpd_client_auth_rate_limit")
    """Failed logins; more are answered at the client's next connection."""

    errors: Rate = setting("2000/1h")
    """Refused commands and other offences; more are answered at the client's next connection."""


class NetworkRates(RatesSettings):
    """Limits for all clients of a network together."""

    auth_failures: Rate = setting("1000/1h")
    """Failed logins; more are answered at the client's next connection."""


class AbuseSettings(Section):
    """Limits for clients that ask too much, and what becomes of those that do not behave."""

    client: ClientRates = setting(ClientRates())
    """For each client: an IPv4 address, or an IPv6 network of 64 bits."""

    network: NetworkRates = setting(NetworkRates())
    """For all clients of a network together."""

    ipv4_prefix: int = setting(24, ge=1, le=32)
    """Bits of an IPv4 address that make its network."""

    ipv6_prefix: int = setting(56, postfix="smtpd_client_ipv6_prefix_length", ge=1, le=64)
    """Bits of an IPv6 address that make its network."""

    exempt: list[Literal["relay", "login", "known"]] = setting(
        ["relay", "login"], postfix="smtpd_client_event_limit_exceptions"
    )
    """Who has no limits of rates and is never delayed: clients in relay.networks, clients that have logged in, clients
    that are known because their mail was accepted before."""

    exempt_networks: list[Network] = setting([], postfix="smtpd_client_event_limit_exceptions")
    """Further networks without such limits."""

    entries: int = setting(100_000, ge=100, le=100_000_000)
    """How many clients (networks) are remembered for each rate, about 130 bytes each; the ones not seen for longest are forgotten."""

    delay: Duration = setting("5s", postfix="smtpd_error_sleep_time", gt=0, le=60)
    """How long a client waits where "delay" or "slow" is said."""

    greet_delay: Duration = setting("0s", postfix="postscreen_greet_wait", le=60)
    """How long a stranger waits for the greeting. Many a sender of spam does not wait, and early_talk says what then."""

    early_talk: Consequence = setting("log", postfix="postscreen_greet_action")
    """Of talking before the greeting: "ignore", "log", "slow" (nothing is read for `delay`), "close" (421)."""

    pipelining: Consequence = setting("log", postfix="smtpd_forbid_unauth_pipelining")
    """Of not waiting for a reply that must be waited for (RFC 2920), at the last of tolerated_offences."""

    ignored_errors: Consequence = setting("log")
    """Of going on after an error as if there had been none, such as DATA when all recipients were refused, at the last of tolerated_offences."""

    tolerated_offences: int = setting(5, ge=1)
    """The offence of a session from which on `pipelining` and `ignored_errors` say what happens; before, it is logged only."""

    non_smtp: Consequence = setting("close", postfix="smtpd_forbidden_commands")
    """Of another protocol than SMTP: HTTP, TLS on a plaintext port, SSH, a PROXY header that was not asked for, binary
    data, a message where commands were due. The log names it and shows the first bytes."""

    forbidden_commands: list[str] = setting(
        ["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH", "TRACE"],
        postfix="smtpd_forbidden_commands",
    )
    """Words of other protocols; a command that begins with one is non_smtp. Those of SMTP are not for this list."""

    data_rate: Size = setting(100, postfix="smtpd_min_data_rate")
    """Bytes in a second that a message has to come with at least, measured over data_window; 0 for no minimum."""

    data_window: Duration = setting("5m", ge=1)
    """The time over which data_rate is measured. RFC 5321 asks a server to wait for 5 minutes."""

    command_timeout: Duration = setting("5m", postfix="smtpd_per_request_deadline", gt=0)
    """How long a client may take for one command line, however often a byte of it comes."""

    message_timeout: Duration = setting("2h", postfix="smtpd_per_request_deadline", gt=0)
    """How long a client may take to transmit one message."""

    stress: int = setting(80, ge=0, le=100)
    """Percent of limits.sessions from which on the server is under stress, until a tenth less are open; 0 for never."""

    stress_reserve: int = setting(10, ge=0, le=90)
    """Percent of limits.sessions that only known clients and those in relay.networks get."""

    stress_idle_timeout: Duration = setting("30s", gt=0)
    """Under stress, limits.idle_timeout, command_timeout and data_window of clients that are not known."""

    stress_tolerance: int = setting(10, ge=1, le=100)
    """Under stress, percent of limits.errors and limits.junk_commands that clients get that are not known."""

    known_clients: int = setting(10_000, ge=2, le=10_000_000)
    """How many clients are remembered whose mail was accepted."""

    @field_validator("forbidden_commands")
    @classmethod
    def _foreign(cls, commands: list[str]) -> list[str]:
        for command in commands:
            if command.upper() in SMTP_COMMANDS or not command.isascii() or not command.isalnum():
                raise ValueError(
                    f'"{command}" is not a command of another protocol (accepted: words such as "GET", none of SMTP)'
                )
        return commands
