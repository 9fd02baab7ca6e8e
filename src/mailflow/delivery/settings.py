"""Settings of mail going out over SMTP: section `[smtp]`.

Read by `delivery/smtp/`. The time limits are those of RFC 5321 §4.5.3.2, which asks for them stage by
stage; the bounds on connections and messages keep us a polite guest of the hosts that we send to.
"""

from __future__ import annotations

from typing import Literal

from mailflow.setting import Duration, Section, setting


class SmtpSettings(Section):
    """How mail is sent to other hosts."""

    port: int = setting(25, ge=1, le=65535, postfix="smtp_tcp_port")
    """The port where a next hop names none."""
    helo: str = setting("", postfix="smtp_helo_name")
    """The name that we introduce ourselves by; empty = `hostname`."""

    connections: int = setting(20, ge=1, le=1000, postfix="smtp_destination_concurrency_limit")
    """At most this many connections to one destination."""
    idle: Duration = setting("5s", postfix="smtp_connection_cache_time_limit")
    """How long a connection without work is kept for the next message."""
    idle_connections: int = setting(500, ge=0, le=100_000)
    """At most this many connections without work are kept, all destinations together."""
    messages_per_connection: int = setting(1000, ge=1, postfix="smtp_connection_reuse_count_limit")
    """After so many messages a connection is closed and, when needed, a new one opened."""
    recipients_per_message: int = setting(50, ge=1, le=1000, postfix="smtp_destination_recipient_limit")
    """At most this many recipients in one transaction; RFC 5321 §4.5.3.1.8 obliges hosts to take 100."""
    addresses: int = setting(5, ge=1, le=100, postfix="smtp_mx_address_limit")
    """At most this many addresses of mail hosts are tried in one attempt."""
    ip: Literal["ipv6-first", "ipv4-first", "ipv6-only", "ipv4-only"] = setting(
        "ipv6-first", postfix="smtp_address_preference"
    )
    """Which of a host's addresses are tried, and in which order."""
    protocol_error_class: Literal["permanent", "temporary"] = setting("permanent")
    """What a host's replies 500 to 504 mean (it did not understand a command): the mail is returned, as they say, or kept
    and tried again, for hosts and filters in between that are out of order now and then."""

    connect_timeout: Duration = setting("30s", postfix="smtp_connect_timeout")
    """For the TCP connection to one address."""
    greeting_timeout: Duration = setting("5m")
    """For the host's first words (RFC 5321 §4.5.3.2.1)."""
    hello_timeout: Duration = setting("5m", postfix="smtp_helo_timeout")
    """For the reply to EHLO and HELO."""
    mail_timeout: Duration = setting("5m", postfix="smtp_mail_timeout")
    """For the reply to MAIL (RFC 5321 §4.5.3.2.2)."""
    rcpt_timeout: Duration = setting("5m", postfix="smtp_rcpt_timeout")
    """For the reply to each RCPT (RFC 5321 §4.5.3.2.3)."""
    data_timeout: Duration = setting("2m", postfix="smtp_data_init_timeout")
    """For the reply to DATA (RFC 5321 §4.5.3.2.4)."""
    block_timeout: Duration = setting("3m", postfix="smtp_data_xfer_timeout")
    """For the host to take a block of the message (RFC 5321 §4.5.3.2.5)."""
    dot_timeout: Duration = setting("10m", postfix="smtp_data_done_timeout")
    """For the reply to the end of the message (RFC 5321 §4.5.3.2.6)."""
    quit_timeout: Duration = setting("2s", postfix="smtp_quit_timeout")
    """For the reply to QUIT; nothing is lost when it does not come."""
