"""The settings of AUTH: section `[auth]`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from mailflow.setting import Duration, Network, Section, setting

MechanismName = Literal["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "XOAUTH2"]


class SqlSettings(Section):
    """Logins in a database."""

    database: str = setting("")
    """Where it is: the path of an SQLite file, or "postgresql://user@host/name" (needs the extra `postgres`)."""
    query: str = setting("SELECT password FROM users WHERE login = :login")
    """Finds a stored password, in the form of `auth.file`; `:login` stands for the login. A second column, where there
    is one, is the login as it is to be known."""

    @property
    def is_postgres(self) -> bool:
        """Whether `database` is a PostgreSQL server's."""
        return self.database.startswith(("postgresql://", "postgres://"))


class OAuthSettings(Section):
    """Tokens that an authorization server knows."""

    introspection: str = setting("")
    """The URL that tells whether a token is good (RFC 7662), "https://…"."""
    client: str = setting("")
    """Our own name there, for HTTP's basic authentication."""
    secret: str = setting("")
    """Our own secret there; best given in a file (`MAILFLOW_AUTH__OAUTH__SECRET_FILE`)."""
    login: str = setting("username")
    """The member of the answer that is the login."""
    scope: str = setting("")
    """A scope that the token must have; "" for none. Told to clients whose token is refused."""
    configuration: str = setting("")
    """The URL of the OpenID configuration, told to clients whose token is refused."""
    timeout: Duration = setting("10s", gt=0)
    """How long the answer may take; then the client is told to try again."""


class AuthSettings(Section):
    """Who a client is. AUTH is offered as soon as one place for passwords or tokens is named here, or given by a program.

    Several places are asked in the order in which they stand here; the first that knows the password decides.
    """

    mechanisms: list[MechanismName] = setting(["PLAIN", "LOGIN"], postfix="smtpd_sasl_mechanism_filter")
    """What is offered, over TLS, where there is somebody to ask. SCRAM needs {SCRAM-SHA-256} entries in `file` or `sql`; OAUTHBEARER and XOAUTH2 need `oauth`.
    SCRAM-SHA-256-PLUS binds the login to the TLS connection by its certificate (tls-server-end-point) and, below TLS 1.3, by
    tls-unique; clients that know only tls-exporter fail with it: Python's TLS has none."""

    allow_plaintext: list[Network] = setting([], postfix="smtpd_tls_auth_only")
    """Clients that may log in without TLS, such as "127.0.0.0/8". All others hear 538 until they say STARTTLS."""

    scram_without_tls: bool = setting(default=False)
    """Whether SCRAM-SHA-256 is offered to all without TLS: the password stays secret then, the mail does not."""

    file: Path | None = setting(None)
    """A password file: lines "login:{SCHEME}hash", written by `mailflow user`. Schemes: ARGON2ID, SCRAM-SHA-256, SHA512-CRYPT,
    SHA256-CRYPT, BCRYPT, BLF-CRYPT, CRYPT. Read again when it changes. Logins are compared without regard to case."""

    sql: SqlSettings = setting(SqlSettings())

    pam: str = setting("")
    """The PAM service that verifies, such as "smtp" (/etc/pam.d/smtp); "" for none. Needs the extra `pam`."""

    dovecot: Path | None = setting(None, postfix="smtpd_sasl_path")
    """Dovecot's authentication socket, such as "/run/dovecot/auth-client"."""

    oauth: OAuthSettings = setting(OAuthSettings())

    threads: int = setting(2, ge=1, le=64)
    """Threads that verify passwords (PAM has as many again); argon2 takes a core and 64 MiB for some 50 ms each time."""

    waiting: int = setting(200, ge=1)
    """Logins that may wait for these threads; one more is told 454 4.7.0."""

    cache: Duration = setting("5m")
    """How long a password that was right is taken without being verified anew; 0 for never. Only a keyed hash of it is kept,
    and only in memory. A changed password file makes it void at once; a changed SQL table or PAM does not."""

    cache_entries: int = setting(10_000, ge=1)
    """Passwords kept so."""

    failure_delay: Duration = setting("2s")
    """How long the refusal of a wrong password is held back."""

    failures: int = setting(5, ge=1)
    """Wrong passwords from one IPv4 address or IPv6 /64 before it is locked out: it hears 454 4.7.0 and nobody is asked."""

    login_failures: int = setting(20, ge=1)
    """The same for one login, from wherever; networks where this login's password was right before are not locked out."""

    lockout: Duration = setting("30s")
    """The first lock. Each further wrong password doubles it."""

    longest_lockout: Duration = setting("1h")
    """The longest one."""

    lockout_memory: Duration = setting("1d", gt=0)
    """After so long without a wrong password all is forgotten."""

    lockout_entries: int = setting(100_000, ge=1000)
    """Clients, and logins, that are remembered for it; beyond it the one unheard of for longest is forgotten."""

    lockout_exempt: list[Network] = setting([])
    """Clients that are never locked out, such as a webmail server that logs in for everybody."""

    sender_check: Literal["no", "clients", "everybody"] = setting("clients", postfix="reject_sender_login_mismatch")
    """Who is held to `sender_login`: nobody; clients that have logged in, which may then use only addresses of their own
    (553 5.7.1); or everybody, so that others may not use an address that has an owner. Without any `sender_login`
    nothing is checked."""

    sender_login: dict[str, list[str]] = setting({}, postfix="smtpd_sender_login_maps")
    """Who owns which sender address: "user@example.org", or "@example.org" for the rest of a domain; the values are logins.
    "user+tag@example.org" belongs to who owns "user@example.org". A login that is itself an address owns this address."""

    sender_login_tables: list[str] = setting([])
    """Tables (`[table.NAME]`) with more of these, asked in this order behind `sender_login`; the values are logins, separated
    by blanks or commas."""

    def mistakes(self, tables: Collection[str]) -> Iterator[tuple[str, str, str]]:
        """What is wrong though each value by itself is right: key, message, what would be accepted.

        `tables` are the names of the tables that there are.
        """
        chosen = set(self.mechanisms)
        if self.has_backend and not (self.file or self.sql.database):
            for scram in sorted(chosen & {"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}):
                yield "mechanisms", f"{scram} needs stored keys", "it with `file` or `sql` only"
        if self.scram_without_tls and "SCRAM-SHA-256" not in chosen:
            yield "scram_without_tls", "SCRAM-SHA-256 is not among the mechanisms", '"SCRAM-SHA-256" in `mechanisms`'
        if self.oauth.introspection and not chosen & {"OAUTHBEARER", "XOAUTH2"}:
            yield "oauth.introspection", "no mechanism uses it", '"OAUTHBEARER" in `mechanisms`'
        if self.oauth.introspection and not self.oauth.introspection.startswith(("https://", "http://")):
            yield "oauth.introspection", "not a URL", 'such as "https://id.example.org/introspect"'
        if self.file is not None and not self.file.is_file():
            accepted = "an existing file; `mailflow user add LOGIN --file PATH` makes one"
            yield "file", f"there is no file {self.file}", accepted
        if self.sql.database and not self.sql.is_postgres and not Path(self.sql.database).is_file():
            yield (
                "sql.database",
                f"there is no file {self.sql.database}",
                "an existing SQLite file, or a postgresql:// URL",
            )
        for address in self.sender_login:
            if "@" not in address:
                yield "sender_login", f'"{address}" is not an address', '"user@example.org" or "@example.org"'
        for number, name in enumerate(self.sender_login_tables):
            if name not in tables:
                yield f"sender_login_tables.{number}", f"there is no [table.{name}]", "the name of a table"

    @property
    def has_backend(self) -> bool:
        """Whether a place for passwords is named."""
        return self.file is not None or bool(self.sql.database or self.pam) or self.dovecot is not None
