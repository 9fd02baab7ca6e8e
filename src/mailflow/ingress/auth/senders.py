"""Who may use which sender: MAIL FROM compared with the login, as a guard at MAIL.

Owners are looked up for "user+tag@domain", "user@domain", "@domain", in this order, without regard to case; the first entry counts.
A login that is itself an address owns that address, entry or not. The null sender belongs to nobody and everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal

from mailflow.ingress.verdict import Action, Ask, Finding, Situation, Stage, Verdict
from mailflow.smtp.reply import reply

Owners = Callable[[str], Collection[str] | None]
"""The logins (lower case) that own a key (lower case); None when the key has no entry. `Mapping.get` is one."""

NOT_OWNED = reply(553, "5.7.1", "Sender address rejected: not owned by this login")
NOT_LOGGED_IN = reply(553, "5.7.1", "Sender address rejected: not logged in as its owner")
RULE = "auth.sender_check"


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
        owners = self._owners_of(sender)
        if login:
            if login in (owners or ()) or _own(sender, login):
                return None
            return Verdict(Action.REFUSE, NOT_OWNED, f"{situation.peer.login} does not own it", RULE)
        if not owners:
            return None
        return Verdict(Action.REFUSE, NOT_LOGGED_IN, "it has an owner, and the client has not logged in", RULE)

    def _owners_of(self, sender: str) -> Collection[str] | None:
        local, _, domain = sender.rpartition("@")
        keys = (sender, f"{local.partition('+')[0]}@{domain}", f"@{domain}") if local else (sender,)
        return next((found for key in keys if (found := self._owners(key)) is not None), None)


def _own(sender: str, login: str) -> bool:
    """Whether the login is itself this address, but for a tag."""
    local, _, domain = sender.rpartition("@")
    return "@" in login and login in (sender, f"{local.partition('+')[0]}@{domain}")


def lowered(table: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """A table as `SenderLogins` wants it."""
    return {key.lower(): frozenset(login.lower() for login in logins) for key, logins in table.items()}


def read_table(path: Path) -> dict[str, list[str]]:
    """A file of lines "address login login …", "#" begins a remark. Raises OSError, and ValueError with the line's number."""
    table: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if len(words) == 1 or (words and "@" not in words[0]):
            raise ValueError(f"line {number}: not an address and logins")
        if words:
            table.setdefault(words[0], []).extend(words[1:])
    return table
