"""The settings of mail coming in over SMTP: `[[listener]]`, `[protocol]` and `[limits]`.

Every bound that a client can run into is named here. Values are seconds and bytes once loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import create_model, field_validator
from pydantic.fields import FieldInfo

from mailflow.ingress.greeting import greeting
from mailflow.net.tls_settings import ClientCertificates, Level
from mailflow.setting import Duration, ListenAddress, Network, Section, Size, setting


class ProtocolSettings(Section):
    """What the server says of itself, and which extensions of SMTP it offers."""

    banner: str = setting("${hostname} ${protocol} mailflow", postfix="smtpd_banner")
    """The greeting behind 220. It begins with ${hostname} (RFC 5321); a line end in it begins a further line. Macros:
    ${hostname}, ${protocol} (ESMTP or LMTP), ${service} (the listener's name) and ${version}; also ${name?text} for text
    only where there is a value, ${name:text} for text only where there is none, and $$ for a dollar sign."""

    error_class: Literal["permanent", "temporary"] = setting("permanent")
    """Whether a client's errors in the protocol (commands unknown, malformed or out of order) are answered with 5xx or
    with 4xx, so that it keeps its mail and tries again. Refusals by policy stay what they are."""

    vrfy: Literal["unknown", "known", "off"] = setting("unknown", postfix="disable_vrfy_command")
    """VRFY: "unknown" neither confirms nor denies (252), "known" says what RCPT would say, "off": there is no such
    command (502). With "known" anybody can find out which addresses there are."""

    chunking: bool = setting(True)  # noqa: FBT003
    """Whether messages may come in chunks (BDAT, RFC 3030). What is not announced as binary obeys the rules of DATA."""

    binarymime: bool = setting(False)  # noqa: FBT003
    """Whether messages may be binary (BODY=BINARYMIME, RFC 3030). One that is can only be delivered here or to a host
    that takes it, and is returned otherwise: of use where most mail is local."""

    requiretls: bool = setting(True)  # noqa: FBT003
    """Whether a sender under TLS may demand that its message is handed on over verified TLS only (RFC 8689)."""

    deliver_by: Duration = setting("1s", ge=0)
    """The shortest time that a sender may set for the delivery of its message (BY=, RFC 2852), in whole seconds; "0s":
    not offered."""

    future_release: Duration = setting("0s", ge=0)
    """How far ahead clients that may send anywhere may date their mail (HOLDFOR= and HOLDUNTIL=, RFC 4865), such as
    "7d"; "0s": not offered."""

    etrn: list[str] | None = setting(None, postfix="fast_flush_domains")
    """Domains whose waiting mail anybody may ask to have sent now (ETRN, RFC 1985); clients that may send anywhere may
    ask for all. Default: relay.domains; an empty list: not offered."""

    xclient: list[Network] = setting([], postfix="smtpd_authorized_xclient_hosts")
    """Clients that may say whom they speak for (XCLIENT): the session is treated as that one's in everything. Only for
    proxies of your own, as who may say it can be anyone."""

    xforward: list[Network] = setting([], postfix="smtpd_authorized_xforward_hosts")
    """Clients that may say whose messages they pass on (XFORWARD), for the log and the queue only: content filters."""

    hidden: list[str] = setting([], postfix="smtpd_discard_ehlo_keywords")
    """Extensions that the reply to EHLO does not show, such as ["DSN"]; who uses them all the same is served."""

    @field_validator("hidden")
    @classmethod
    def _upper(cls, value: list[str]) -> list[str]:
        return [word.upper() for word in value]

    @field_validator("etrn")
    @classmethod
    def _lower(cls, value: list[str] | None) -> list[str] | None:
        return None if value is None else [domain.lower() for domain in value]

    @field_validator("banner")
    @classmethod
    def _greets(cls, value: str) -> str:
        greeting(value, {})
        return value


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

    messages: int = setting(0, ge=0)
    """Messages that one session may send; announced with LIMITS, and further ones get 421 4.7.0. 0: any number."""

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
    (`socket_mode`); a socket's clients have no address, and are strangers otherwise. Whom a proxy speaks for (PROXY, XCLIENT) is not meant."""

    socket_mode: str = setting("0660", pattern=r"^0[0-7]{3}$")
    """Permissions of a UNIX socket, octal."""

    socket_owner: str = setting("", pattern=r"^([A-Za-z0-9._-]+)?(:[A-Za-z0-9._-]+)?$")
    """Owner of a UNIX socket, "user", "user:group" or ":group", by name or number. Default: the server's own."""

    hostname: str = setting("", postfix="myhostname")
    """The name by which the server introduces itself here. Default: `hostname`."""

    banner: str | None = setting(None, postfix="smtpd_banner")
    """Instead of `protocol.banner`, here."""

    backlog: int = setting(4096, ge=1, le=65535)
    """How many connections the kernel keeps that have not been accepted yet (it may allow fewer)."""

    limits: ListenerLimits = setting(ListenerLimits())

    @field_validator("banner")
    @classmethod
    def _greets(cls, value: str | None) -> str | None:
        if value is not None:
            greeting(value, {})
        return value

    @property
    def service(self) -> str:
        """Its name in the log."""
        return self.name or self.protocol
