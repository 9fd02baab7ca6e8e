"""The settings of mail coming in over SMTP: `[[listener]]` and `[limits]`.

Every bound that a client can run into is named here. Values are seconds and bytes once loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import create_model
from pydantic.fields import FieldInfo

from mailflow.net.tls_settings import ClientCertificates, Level
from mailflow.setting import Duration, ListenAddress, Network, Section, Size, setting


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

    sessions_per_network: int = setting(400, ge=1)
    """SMTP sessions at the same time from one network (see abuse.ipv4_prefix and abuse.ipv6_prefix), but for clients in
    relay.networks; one more is told 421 4.7.0."""

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


class _Override(Section):
    """Values of `[limits]` that are different for this listener. `sessions` bounds the listener, and the one of `[limits]` all of them together."""

    @classmethod
    def documentation(cls) -> dict[str, str]:
        """The words are those of `[limits]`."""
        return {name: f"Instead of `limits.{name}`, here." for name in cls.model_fields}

    def of(self, limits: LimitsSettings) -> LimitsSettings:
        """The limits with these in their place."""
        written = {name: value for name, value in self if value is not None}
        return limits.model_copy(update=written) if written else limits


def _optional(info: FieldInfo) -> Any:
    kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    return kind | None, setting(None)


if TYPE_CHECKING:

    class ListenerLimits(_Override, LimitsSettings):
        """As made below."""

else:
    ListenerLimits = create_model(
        "ListenerLimits",
        __base__=_Override,
        __doc__=_Override.__doc__,
        **{name: _optional(info) for name, info in LimitsSettings.model_fields.items()},
    )


Protocol = Literal["smtp", "submission", "submissions", "lmtp"]
TlsUse = Literal["no", "offer", "require", "implicit"]


class ListenerSettings(Section):
    """One address to accept mail on. What is not written here is as for all listeners. See docs/ingress.md."""

    bind: ListenAddress = setting(postfix="inet_interfaces")
    """Address and port, such as "0.0.0.0:25" or "[::1]:2525"; port 0 chooses a free one. A host name stands for all its addresses.
    "unix:/run/mailflow/lmtp.sock" is a UNIX socket. "fd:NAME" is a socket (or several) that systemd has bound, by its FileDescriptorName= or by
    number, the first being "fd:3"."""

    name: str = setting("")
    """What the log and the policy call this listener. Default: its protocol."""

    policy: str = setting("")
    """The set of rules for its clients: a NAME of `[policy.set.NAME]`. Default: the rules of `[policy]`; for submission and submissions the set
    "submission", in which a client has to log in or be trusted (530 5.7.0), and which may be written out with more rules."""

    protocol: Protocol = setting("smtp")
    """One of "smtp" (port 25), "submission" (587: STARTTLS is required where there is a certificate), "submissions" (465: TLS from the first byte), or "lmtp"
    (RFC 2033)."""

    tls: TlsUse | None = setting(None, postfix="smtpd_tls_security_level, smtpd_tls_wrappermode")
    """One of "no", "offer" (STARTTLS), "require" (STARTTLS, and before it no AUTH and no mail: 530 5.7.0), or "implicit" (TLS from the first byte). Default
    with a certificate in [tls]: "offer"; "require" for submission, "implicit" for submissions. Without: "no"."""

    tls_level: Level | None = setting(None)
    """Instead of `tls.level`, here."""

    client_certificates: ClientCertificates | None = setting(None)
    """Instead of `tls.client_certificates`, here."""

    auth: bool = setting(default=True, postfix="smtpd_sasl_auth_enable")
    """Whether clients may log in here, as [auth] says."""

    proxy_networks: list[Network] = setting([], postfix="smtpd_upstream_proxy_protocol")
    """Balancers that speak the PROXY protocol (version 1 or 2). A connection from one of them must begin with its header, and what that says is the
    client; from any other address a header is never accepted. They can pretend to be any client."""

    trusted: bool = setting(default=False)
    """Every client of this listener may send anywhere, as those in relay.networks may. For a UNIX socket that only the right users can open
    (`socket_mode`); a socket's clients have no address, and are strangers otherwise."""

    socket_mode: str = setting("0660", pattern=r"^0[0-7]{3}$")
    """Permissions of a UNIX socket, octal."""

    socket_owner: str = setting("", pattern=r"^([A-Za-z0-9._-]+)?(:[A-Za-z0-9._-]+)?$")
    """Owner of a UNIX socket, "user", "user:group" or ":group", by name or number. Default: the server's own."""

    hostname: str = setting("", postfix="myhostname")
    """The name by which the server introduces itself here. Default: `hostname`."""

    backlog: int = setting(4096, ge=1, le=65535)
    """How many connections the kernel keeps that have not been accepted yet (it may allow fewer)."""

    limits: ListenerLimits = setting(ListenerLimits())

    @property
    def service(self) -> str:
        """Its name in the log."""
        return self.name or self.protocol
