"""Greylisting as a check: asked at RCPT, it lets pass or says 450 4.7.1 with the seconds that are left.

What is known stands in memory, bounded, and on disk (`greylist_store.py`); only for what is not in memory does a
session wait, for one read. How it is decided is in `greylist.py`. Exempt are clients that may relay, the networks of the
settings, and those that `spared` speaks for (allow lists in the DNS), who are asked about only when mail would be refused.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

from mailflow.ingress.checks import greylist
from mailflow.ingress.checks.greylist import Entry, Rules
from mailflow.ingress.checks.settings import GreylistSettings
from mailflow.ingress.checks.subjects import plain_address
from mailflow.ingress.verdict import Action, Finding, Situation, Verdict
from mailflow.smtp.reply import reply

Spared = Callable[[Situation], bool | Awaitable[bool]]


class Memory(Protocol):
    """What keeps entries over restarts (`GreylistStore`)."""

    async def get(self, keys: tuple[bytes, ...]) -> dict[bytes, Entry]:
        """What is known of these keys."""
        ...

    def put(self, key: bytes, entry: Entry, until: int) -> None:
        """Keeps an entry."""
        ...


class Greylisting:
    """The check `greylist`."""

    def __init__(
        self,
        settings: GreylistSettings,
        memory: Memory,
        now: Callable[[], int],
        *,
        spared: Spared = lambda _situation: False,
    ) -> None:
        """`now` gives whole seconds since 1970."""
        self._settings = settings
        self._rules = Rules(
            int(settings.delay), int(settings.retry_window), int(settings.lifetime), settings.auto_allow
        )
        self._memory = memory
        self._now = now
        self._spared = spared
        self._known: OrderedDict[bytes, Entry | None] = OrderedDict()
        """The entries used last; None for a network that nothing is known of."""

    def __repr__(self) -> str:
        return f"<Greylisting known={len(self._known)}>"

    def ask(self, situation: Situation) -> Finding | Awaitable[Finding]:
        """A refusal for now, or None; asked at RCPT."""
        if situation.trusted or self._is_exempt(situation.peer.address):
            return None
        settings = self._settings
        network = greylist.network_of(situation.peer.address, settings.ipv4_prefix, settings.ipv6_prefix)
        sender = situation.sender or ""
        folded = greylist.fold(sender) if settings.fold_senders else sender
        client = greylist.network_key(network)
        triplet = greylist.triplet_key(network, folded, situation.recipient)
        known = self._known
        if client in known and (triplet in known or greylist.is_allowed(known[client], self._now(), self._rules)):
            return self._answer(situation, client, triplet)
        return self._look(situation, client, triplet)

    async def _look(self, situation: Situation, client: bytes, triplet: bytes) -> Finding:
        missing = tuple(key for key in (client, triplet) if key not in self._known)
        found = await self._memory.get(missing)
        for key in missing:
            self._known.setdefault(key, found.get(key))  # another session may have been quicker
        self._trim()
        answer = self._answer(situation, client, triplet)
        return await answer if inspect.isawaitable(answer) else answer

    def _answer(self, situation: Situation, client: bytes, triplet: bytes) -> Finding | Awaitable[Finding]:
        now, rules = self._now(), self._rules
        network = self._known.get(client)
        if network is not None and greylist.is_allowed(network, now, rules):
            self._keep(client, network, greylist.seen(network, now, rules))
            return None
        old = self._known.get(triplet)
        entry, seconds = greylist.wait(old, now, rules)
        if not seconds:
            self._keep(triplet, old, entry)
            if old is not None and not old.passed:
                self._keep(client, network, greylist.one_more(network, now, rules))
            return None
        spared = self._spared(situation)
        if isinstance(spared, bool):
            return None if spared else self._refuse(triplet, old, entry, seconds)
        return self._unless(spared, triplet, old, entry, seconds)

    async def _unless(
        self, spared: Awaitable[bool], triplet: bytes, old: Entry | None, entry: Entry, seconds: int
    ) -> Finding:
        return None if await spared else self._refuse(triplet, old, entry, seconds)

    def _refuse(self, triplet: bytes, old: Entry | None, entry: Entry, seconds: int) -> Verdict:
        self._keep(triplet, old, entry)
        answer = reply(450, "4.7.1", f"Greylisted, try again in {seconds} seconds")
        return Verdict(Action.REFUSE, answer, "first attempt" if entry is not old else "too early", "greylist")

    def _keep(self, key: bytes, old: Entry | None, entry: Entry) -> None:
        known = self._known
        known[key] = entry
        known.move_to_end(key)
        self._trim()
        if entry is not old:
            self._memory.put(key, entry, entry.until(self._rules))

    def _trim(self) -> None:
        while len(self._known) > self._settings.memory_entries:
            self._known.popitem(last=False)

    def _is_exempt(self, client: str) -> bool:
        if not self._settings.exempt:
            return False
        address = plain_address(client)
        return address is not None and any(address in network for network in self._settings.exempt)
