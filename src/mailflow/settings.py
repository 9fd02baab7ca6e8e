"""All settings of a mail server in one typed object (wish 70): the only source of defaults and documentation.

Each part of mailflow owns the class of its section beside its code; here they are put together, and what takes more
than one of them to judge is judged. `Settings(hostname=…, relay={"host": …})` makes one in a program,
`Settings.load(file)` reads file, environment and command line (`mailflow.config`). Instances never change.
Relative paths of a loaded configuration are relative to its file, of one made in a program to the working directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import field_validator, model_validator

from mailflow.bounce import BounceSettings
from mailflow.config.names import complete, is_domain, machine_name, search_domain
from mailflow.config.positions import KeyPath
from mailflow.config.root import Mistake, Root
from mailflow.control.settings import ControlSettings
from mailflow.delivery.settings import SmtpSettings
from mailflow.errors import ConfigError, ConfigProblem
from mailflow.hooks.settings import HooksSettings
from mailflow.ingress.abuse.settings import AbuseSettings
from mailflow.ingress.auth.settings import AuthSettings
from mailflow.ingress.checks.mistakes import missing, taken
from mailflow.ingress.checks.settings import (
    DnsblSettings,
    GreylistSettings,
    PolicyHookSettings,
    PolicyServiceSettings,
)
from mailflow.ingress.policy.mistakes import mistakes as policy_mistakes
from mailflow.ingress.policy.settings import SUBMISSION, PolicySettings, complete_rules
from mailflow.ingress.settings import LimitsSettings, ListenerSettings, ProtocolSettings
from mailflow.net.settings import DnsSettings
from mailflow.net.tls_settings import TlsSettings
from mailflow.observe.settings import LogSettings
from mailflow.paths import CONTROL_SOCKET, DEFAULT_SPOOL, SOCKET_PATH_LIMIT, below, cannot_make
from mailflow.route_settings import LocalSettings, RelaySettings, RouteSettings
from mailflow.scheduler.settings import SchedulerSettings
from mailflow.setting import Bind, Duration, Endpoint, UnixPath, setting
from mailflow.store.settings import QueueSettings
from mailflow.tables.settings import TableSettings

_WILDCARDS = ("0.0.0.0", "::")
_STREAMS = ("stderr", "stdout", "none")


class Settings(Root):
    """The configuration of one mail server."""

    hostname: str = setting("", postfix="myhostname")
    """The server's full name, as it introduces itself. Default: the machine's name, completed with `domain` when short."""

    domain: str = setting("", postfix="mydomain")
    """Completes a short host name. Default: the first search domain of the machine's resolver."""

    spool: Path = setting(DEFAULT_SPOOL, postfix="queue_directory")
    """The directory of the queue; made when missing. One server at a time uses it."""

    shutdown_grace: Duration = setting("10s")
    """How long sessions and deliveries under way may take to end when the server is stopped."""

    listener: list[ListenerSettings] = setting([])
    """Addresses to accept mail on; without any, mail enters by `mailflow send` and the Python API only."""

    protocol: ProtocolSettings = setting(ProtocolSettings())
    limits: LimitsSettings = setting(LimitsSettings())
    abuse: AbuseSettings = setting(AbuseSettings())
    dnsbl: DnsblSettings = setting(DnsblSettings())
    greylist: GreylistSettings = setting(GreylistSettings())
    policy_service: list[PolicyServiceSettings] = setting([])
    """Servers that are asked about each recipient, in this order."""

    policy_hook: list[PolicyHookSettings] = setting([])
    """Python functions that are asked, in this order."""

    tls: TlsSettings = setting(TlsSettings())
    relay: RelaySettings = setting(RelaySettings())
    route: list[RouteSettings] = setting([])
    """Where mail for single domains and addresses goes; the first that matches decides."""

    local: LocalSettings = setting(LocalSettings())
    auth: AuthSettings = setting(AuthSettings())
    policy: PolicySettings = setting(PolicySettings())
    table: dict[str, TableSettings] = setting({})
    """Lookup tables by name."""

    queue: QueueSettings = setting(QueueSettings())
    scheduler: SchedulerSettings = setting(SchedulerSettings())
    bounce: BounceSettings = setting(BounceSettings())
    smtp: SmtpSettings = setting(SmtpSettings())
    dns: DnsSettings = setting(DnsSettings())
    hooks: HooksSettings = setting(HooksSettings())
    control: ControlSettings = setting(ControlSettings())
    log: LogSettings = setting(LogSettings())

    @model_validator(mode="before")
    @classmethod
    def _complete_hostname(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = dict(values)
            cls.prepare(values)
        return values

    @field_validator("hostname", "domain")
    @classmethod
    def _name(cls, value: str) -> str:
        if value and not is_domain(value):
            raise ValueError(
                f'"{value}" is not a host name (accepted: letters, digits, hyphens and dots, such as "mx.example.org")'
            )
        return value.lower()

    @property
    def control_socket(self) -> Path:
        """Where the control socket is."""
        return self.control.socket or self.spool / CONTROL_SOCKET

    # For the loader (`config.Root`)

    @classmethod
    def prepare(cls, tree: dict[str, Any]) -> dict[KeyPath, str]:
        """Completes the host name (wish 6), and rules in short form."""
        complete_rules(tree.get("policy"))
        given, domain = tree.get("hostname", ""), tree.get("domain", "")
        if not (isinstance(given, str) and isinstance(domain, str)) or "." in given:
            return {}
        name, words = complete(given, domain, machine_name(), search_domain())
        if name:
            tree["hostname"] = name
        return {("hostname",): words} if words else {}

    def relative_to(self, base: Path) -> Self:
        """A copy whose relative paths begin at `base`."""
        changed: dict[str, Any] = {
            "spool": below(base, self.spool),
            "local": self.local.model_copy(update={"maildir": str(below(base, self.local.maildir))}),
        }
        auth = self.auth
        files = {"file": auth.file, "dovecot": auth.dovecot}
        here: dict[str, Any] = {key: below(base, path) for key, path in files.items() if path is not None}
        if auth.sql.database and not auth.sql.is_postgres:
            here["sql"] = auth.sql.model_copy(update={"database": str(below(base, auth.sql.database))})
        if here:
            changed["auth"] = auth.model_copy(update=here)
        changed["listener"] = [
            each.model_copy(update={"bind": UnixPath(str(below(base, each.bind.path)))})
            if isinstance(each.bind, UnixPath)
            else each
            for each in self.listener
        ]
        changed["tls"] = self.tls.relative_to(base)
        if any(table.file is not None for table in self.table.values()):
            changed["table"] = {
                name: table if table.file is None else table.model_copy(update={"file": below(base, table.file)})
                for name, table in self.table.items()
            }
        if self.log.to not in _STREAMS:
            changed["log"] = self.log.model_copy(update={"to": str(below(base, self.log.to))})
        if self.control.socket is not None:
            changed["control"] = self.control.model_copy(update={"socket": below(base, self.control.socket)})
        return self.model_copy(update=changed)

    def mistakes(self) -> Iterator[Mistake]:
        """What is wrong though each value by itself is right."""
        if "." not in self.hostname:
            accepted = 'a full name such as "mx.example.org", or a `domain` that completes it'
            yield Mistake(("hostname",), f'"{self.hostname}" is not a full host name', accepted)
        most = 100 - self.abuse.stress
        if self.abuse.stress and self.abuse.stress_reserve > most:
            message = f"strangers would be turned away at {100 - self.abuse.stress_reserve} %, before there is stress"
            yield Mistake(("abuse", "stress_reserve"), message, f"at most {most} when abuse.stress is {100 - most}")
        yield from self._listener_mistakes()
        yield from self._check_mistakes()
        yield from self._tls_mistakes()
        yield from self._local_mistakes()
        for key, message, accepted in self.auth.mistakes(self.table):
            yield Mistake(
                ("auth", *(int(part) if part.isdigit() else part for part in key.split("."))), message, accepted
            )
        yield from self._path_mistakes()
        for path, message, accepted in policy_mistakes(self.policy, self.table, self._missing_for_check):
            yield Mistake(path, message, accepted)
        yield from self._table_mistakes()
        for i, listener in enumerate(self.listener):
            if listener.policy not in ("", SUBMISSION, *self.policy.set):
                accepted = ", ".join(f'"{name}"' for name in dict.fromkeys((SUBMISSION, *self.policy.set)))
                yield Mistake(("listener", i, "policy"), f"there is no [policy.set.{listener.policy}]", accepted)

    def _listener_mistakes(self) -> Iterator[Mistake]:
        for i, later in enumerate(self.listener):
            if later.hostname and not is_domain(later.hostname):
                yield Mistake(
                    ("listener", i, "hostname"), f"{later.hostname!r} is not a host name", 'such as "mx.example.org"'
                )
            for j, earlier in enumerate(self.listener[:i]):
                if _collide(later.bind, earlier.bind):
                    message = f"{later.bind} is taken already by listener[{j}] ({earlier.bind})"
                    yield Mistake(("listener", i, "bind"), message, "another port or address")
                    break

    def _check_mistakes(self) -> Iterator[Mistake]:
        for key, i, name in taken(self.policy_service, self.policy_hook):
            yield Mistake((key, i), f'there is a {key} "{name}" already', "a `name` of its own")

    def _tls_mistakes(self) -> Iterator[Mistake]:
        tls = self.tls
        for i, listener in enumerate(self.listener):
            if not tls.certificate and (listener.tls or "no") != "no":
                yield Mistake(("listener", i, "tls"), "there is no certificate", '"no", or a [[tls.certificate]]')
            elif not tls.certificate and listener.protocol == "submissions":
                accepted = '"submission" or "smtp", or a [[tls.certificate]]'
                yield Mistake(("listener", i, "protocol"), "there is no certificate for submissions", accepted)
            elif listener.protocol == "submissions" and listener.tls not in (None, "implicit"):
                yield Mistake(("listener", i, "tls"), "on a listener for submissions TLS comes first", '"implicit"')
            if listener.client_certificates not in (None, "no") and tls.client_ca is None:
                yield Mistake(("listener", i, "client_certificates"), "tls.client_ca is not set", '"no"')
        if tls.client_certificates != "no" and tls.client_ca is None:
            yield Mistake(("tls", "client_certificates"), "tls.client_ca is not set", '"no"')

    def examine(self) -> list[ConfigProblem]:
        """Looks into certificate files, the password file and those of tables, which not every user of the settings may read.

        Returns what should be mended. Raises ConfigError for what cannot be used.
        """
        from mailflow.net.tls import examine
        from mailflow.tables.opening import Tables

        Tables(self.table)
        self._examine_functions()
        flaws = [
            (flaw, self._problem(Mistake(("tls", *flaw.key), flaw.message, flaw.accepted)))
            for flaw in examine(self.tls)
        ]
        if fatal := [problem for flaw, problem in flaws if flaw.fatal]:
            raise ConfigError(fatal)
        return [*(problem for _, problem in flaws), *self._examine_passwords()]

    def _examine_functions(self) -> None:
        """Imports the functions that decide, as the server will."""
        if not self.policy_hook:
            return
        from mailflow.ingress.checks.hook import PolicyHook

        for i, each in enumerate(self.policy_hook):
            try:
                PolicyHook(each)
            except ValueError as error:
                raise ConfigError([self._problem(Mistake(("policy_hook", i, "call"), str(error), ""))]) from None

    def _examine_passwords(self) -> list[ConfigProblem]:
        if self.auth.file is None:
            return []
        from mailflow.ingress.auth.password_file import PasswordFileError, is_exposed, read

        try:
            read(self.auth.file)
        except PasswordFileError as error:
            raise ConfigError([error.problem]) from None
        exposed = Mistake(("auth", "file"), f"{self.auth.file} may be read by everybody", "mode 0600")
        return [self._problem(exposed)] if is_exposed(self.auth.file) else []

    def _local_mistakes(self) -> Iterator[Mistake]:
        local = self.local
        for i, domain in enumerate(local.domains):
            if not is_domain(domain):
                yield Mistake(("local", "domains", i), f'"{domain}" is not a domain', 'such as "example.org"')
        for i, user in enumerate(local.users):
            if not user or user.startswith(".") or "/" in user or "@" in user or not user.isprintable():
                accepted = 'a name without "/" and "@" that does not begin with a dot, such as "alice"'
                yield Mistake(("local", "users", i), f'"{user}" cannot be the name of a mailbox', accepted)
        if len(local.users) > 1 and "{user}" not in local.maildir:
            accepted = 'a path with {user} in it, such as "var/mail/{user}"'
            yield Mistake(("local", "maildir"), "all users would share one Maildir", accepted)
        if local.postmaster and local.postmaster not in local.users:
            accepted = "one of " + ", ".join(f'"{u}"' for u in local.users[:5]) if local.users else ""
            yield Mistake(("local", "postmaster"), f'"{local.postmaster}" is not in local.users', accepted)

    def _missing_for_check(self, check: str, argument: str) -> tuple[str, str] | None:
        """What a check of the policy's rules needs and the configuration has not: the words, and what would be accepted."""
        return missing(check, argument, self.dnsbl, self.greylist, self.policy_service, self.policy_hook)

    def _table_mistakes(self) -> Iterator[Mistake]:
        for name, table in self.table.items():
            if table.file is not None and not os.access(table.file, os.R_OK):
                yield Mistake(("table", name, "file"), f"{table.file} cannot be read", "a file that exists")

    def _path_mistakes(self) -> Iterator[Mistake]:
        spool = cannot_make(self.spool)
        if spool:
            yield Mistake(("spool",), spool, "a directory that exists or can be made")
        if self.local.users:
            parent = Path(self.local.maildir.partition("{user}")[0] + "x").parent
            maildir = cannot_make(parent)
            if maildir:
                yield Mistake(("local", "maildir"), maildir, "a path whose directories exist or can be made")
        if self.log.to not in _STREAMS and not Path(self.log.to).parent.is_dir():
            yield Mistake(
                ("log", "to"), f"the directory {Path(self.log.to).parent} does not exist", "an existing directory"
            )
        sockets: list[tuple[KeyPath, str]] = []
        if self.control.enabled:
            sockets.append((("control", "socket"), str(self.control_socket)))
        sockets += [
            (("listener", i, "bind"), each.bind.path)
            for i, each in enumerate(self.listener)
            if isinstance(each.bind, UnixPath)
        ]
        for key, path in sockets:
            size = len(os.fsencode(path))
            if size > SOCKET_PATH_LIMIT:
                message = f"the path of the socket is too long: {size} bytes: {path}"
                more = "; a shorter `spool` helps too" if key[0] == "control" else ""
                yield Mistake(key, message, f"at most {SOCKET_PATH_LIMIT} bytes{more}")


def _collide(one: Bind, other: Bind) -> bool:
    """Whether two listeners cannot both be opened."""
    if not (isinstance(one, Endpoint) and isinstance(other, Endpoint)):
        return one == other
    if one.port == 0 or one.port != other.port:
        return False
    same_family = (":" in one.host) == (":" in other.host)
    return one.host == other.host or (same_family and (one.host in _WILDCARDS or other.host in _WILDCARDS))
