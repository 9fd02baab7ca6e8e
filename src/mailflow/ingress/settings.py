"""The settings of mail coming in over SMTP: `[[listener]]` and `[limits]`.

Every bound that a client can run into is named here. Values are seconds and bytes once loaded.
"""

from __future__ import annotations

from typing import Literal

from mailflow.setting import Duration, ListenAddress, Section, Size, setting


class ListenerSettings(Section):
    """One address to accept mail on. TLS, AUTH and per-listener policy will be further keys here."""

    bind: ListenAddress = setting(postfix="inet_interfaces")
    """Address and port, such as "0.0.0.0:25" or "[::1]:2525"; port 0 chooses a free one. A host name stands for all its addresses."""

    backlog: int = setting(4096, ge=1, le=65535)
    """How many connections the kernel keeps that have not been accepted yet (it may allow fewer)."""


class LimitsSettings(Section):
    """What one client, and all of them together, may ask of the server."""

    message_size: Size = setting("25MiB", postfix="message_size_limit", ge=1024)
    """Largest message, in bytes; announced with SIZE. A larger one is refused with 552 5.3.4, as early as it shows."""

    recipients: int = setting(1000, postfix="smtpd_recipient_limit", ge=100)
    """Recipients of one message; further ones get 452 4.5.3 and may come in a second one. RFC 5321 asks for at least 100."""

    sessions: int = setting(2000, postfix="default_process_limit", ge=1)
    """SMTP sessions at the same time; one more is told 421 4.7.0."""

    sessions_per_client: int = setting(200, postfix="smtpd_client_connection_count_limit", ge=1)
    """SMTP sessions at the same time from one IP address; one more is told 421 4.7.0. Clients in relay.networks are
    exempt: a mail gateway of our own may need more."""

    idle_timeout: Duration = setting("5m", postfix="smtpd_timeout", gt=0)
    """How long a client may be silent, in any state; then it is told 421 4.4.2. RFC 5321 asks for at least 5 minutes."""

    session_timeout: Duration = setting("2h", gt=0)
    """How long a session may last in all; then it is told 421 4.4.2."""

    command_line: int = setting(2048, postfix="line_length_limit", ge=1024)
    """Longest command line in bytes, line end not counted; a longer one gets 500 5.5.2."""

    data_line: int = setting(65536, ge=998)
    """Longest line of a message in bytes, line end not counted. RFC 5322 allows 998, but mail with longer ones is common."""

    errors: int = setting(20, postfix="smtpd_hard_error_limit", ge=1)
    """Refused commands without a message accepted in between; then the client is told 421 4.7.0."""

    junk_commands: int = setting(100, postfix="smtpd_junk_command_limit", ge=1)
    """NOOP, RSET, VRFY, HELP, EHLO and HELO without a message accepted in between; further ones count as errors."""

    bare_newlines: Literal["refuse", "normalise_trusted", "normalise"] = setting(
        "refuse", postfix="smtpd_forbid_bare_newline"
    )
    """What to do with a CR or LF that stands alone in a message: "refuse" the message with 554 5.6.0, or make it a CR LF,
    for clients in relay.networks ("normalise_trusted") or for all ("normalise"). None of them lets it end a message."""
