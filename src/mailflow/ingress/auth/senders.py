"""Who may use which sender: MAIL FROM compared with the login, as a guard at MAIL.

Owners are looked up for "user+tag@domain", "user@domain", "@domain", in this order, without regard to case; the first entry counts.
A login that is itself an address owns that address, entry or not. The null sender belongs to nobody and everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Ask, Finding, Situation, Verdict
from mailflow.smtp.reply import reply
from mailflow.tables import Table

NOT_OWNED = reply(553, "5.7.1", "Sender address rejected: not owned by this login")
NOT_LOGGED_IN = reply(553, "5.7.1", "Sender address rejected: not logged in as its owner")
RULE = "auth.sender_check"


class Owners:
    """Who owns which address."""

    def __init__(self, entries: Mapping[str, Iterable[str]], tables: Sequence[Table] = ()) -> None:
        """`entries` are asked first, then the tables, whose values are logins separated by blanks or commas."""
        self._entries = {key.lower(): frozenset(map(str.lower, logins)) for key, logins in entries.items()}
        self._tables = tuple(tables)

    def of(self, sender: str) -> Collection[str] | None:
        """The logins, in lower case, that own this address (in lower case); None when there is no entry for it."""
        local, _, domain = sender.rpartition("@")
        keys = (sender, f"{local.partition('+')[0]}@{domain}", f"@{domain}") if local else (sender,)
        return next((found for key in keys if (found := self._get(key)) is not None), None)

    def _get(self, key: str) -> Collection[str] | None:
        found = self._entries.get(key)
        if found is not None:
            return found
        for table in self._tables:
            # A pattern is for whole addresses.
            value = None if table.patterns and key.startswith("@") else table.get(key)
            if value is not None:
                return value.lower().replace(",", " ").split()
        return None


class SenderLogins:
    """The guard."""

    stages: Collection[Stage] = (Stage.MAIL,)

    def __init__(self, owners: Owners, whom: Literal["clients", "everybody"]) -> None:
        """`whom`: clients that have logged in, or everybody."""
        self._owners = owners
        self._everybody = whom == "everybody"

    def __repr__(self) -> str:
        return f"<SenderLogins everybody={self._everybody}>"

    def at(self, stage: Stage) -> Ask:  # noqa: ARG002
        """There is one question only."""
        return self._mail

    def _mail(self, situation: Situation) -> Finding:
        login, sender = situation.peer.login.lower(), (situation.sender or "").lower()
        if not sender or not (login or self._everybody):
            return None
        owners = self._owners.of(sender)
        if login:
            if login in (owners or ()) or _own(sender, login):
                return None
            return Verdict(Action.REFUSE, NOT_OWNED, f"{situation.peer.login} does not own it", RULE)
        if not owners:
            return None
        return Verdict(Action.REFUSE, NOT_LOGGED_IN, "it has an owner, and the client has not logged in", RULE)


def _own(sender: str, login: str) -> bool:
    """Whether the login is itself this address, but for a tag."""
    local, _, domain = sender.rpartition("@")
    return "@" in login and login in (sender, f"{local.partition('+')[0]}@{domain}")
