"""Lists in conditions, compiled: does a client, a name, an address match one of these elements?

Elements: "*" (whatever is not empty), "table:NAME", "!element", and what the kind of list knows: networks and host names
for clients, names for HELO, addresses and domains for envelopes, plain words for logins and certificates. Compiled
once, when the server starts; an element that cannot be is a ValueError then. Keys are those of `tables/keys.py`, so that
a list and a table with the same words mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mailflow.ingress.policy.rules import Condition
from mailflow.ingress.policy.settings import TABLE
from mailflow.ingress.verdict import Situation
from mailflow.setting import Network, parse_network
from mailflow.tables import Table
from mailflow.tables.keys import NULL_SENDER, address_keys, client_keys, domain_keys, find
from mailflow.tables.kinds import address_of

Subject = Callable[[Situation], Sequence[str]]
"""The keys of what a condition looks at (`tables/keys.py`)."""
Matcher = Callable[[Sequence[str], Sequence[str] | None], bool]
"""Whether keys match; the second are those that stand for the whole, by default the first (see `tables.keys.find`)."""
Test = Callable[[str, Mapping[str, Table]], Matcher]
"""Makes the matcher of one element."""


def names_a_host(element: str) -> bool:
    """Whether an element of a client list can only be judged with the client's verified name (a table may hold names)."""
    element = element.lstrip("!")
    return element.startswith(TABLE) or (element != "*" and _network(element) is None)


def client_condition(elements: Sequence[str], tables: Mapping[str, Table]) -> Condition:
    """For `client`. Raises ValueError for an element that is none."""
    matches = _matcher(elements, tables, _client_test)

    def condition(situation: Situation) -> bool:
        peer = situation.peer
        return matches(client_keys(peer.address, peer.name), [key for key in (peer.address, peer.name) if key])

    return condition


def helo_condition(elements: Sequence[str], tables: Mapping[str, Table]) -> Condition:
    """For `helo`."""
    return _listed(elements, tables, lambda situation: domain_keys(situation.peer.helo) or [""])


def sender_condition(elements: Sequence[str], tables: Mapping[str, Table], delimiter: str) -> Condition:
    """For `sender`; outside of a transaction it does not hold."""

    def subject(situation: Situation) -> Sequence[str]:
        sender = situation.sender
        return [] if sender is None else address_keys(sender, delimiter)

    return _listed(elements, tables, subject)


def recipient_condition(elements: Sequence[str], tables: Mapping[str, Table], delimiter: str) -> Condition:
    """For `recipient`: the one that is being decided on; after RCPT, any of the message's."""

    def one(situation: Situation) -> Sequence[str]:
        return address_keys(situation.recipient, delimiter)

    holds = _listed(elements, tables, one)
    matches = _matcher(elements, tables)

    def condition(situation: Situation) -> bool:
        if situation.recipient:
            return holds(situation)
        return any(
            matches(address_keys(each.original or each.address, delimiter), None) for each in situation.recipients
        )

    return condition


def login_condition(elements: Sequence[str], tables: Mapping[str, Table]) -> Condition:
    """For `login`."""
    return _listed(elements, tables, lambda situation: [situation.peer.login.lower()])


def certificate_condition(elements: Sequence[str], tables: Mapping[str, Table]) -> Condition:
    """For `certificate`."""
    return _listed(elements, tables, lambda situation: [situation.peer.certificate.lower()])


def _listed(elements: Sequence[str], tables: Mapping[str, Table], subject: Subject) -> Condition:
    matches = _matcher(elements, tables)

    def condition(situation: Situation) -> bool:
        keys = subject(situation)
        return bool(keys) and matches(keys, None)

    return condition


def _matcher(elements: Sequence[str], tables: Mapping[str, Table], make: Test | None = None) -> Matcher:
    make = make or _test
    tests = [(not element.startswith("!"), make(element.lstrip("!"), tables)) for element in elements]
    otherwise = bool(tests) and all(not positive for positive, _ in tests)

    def matches(keys: Sequence[str], whole: Sequence[str] | None) -> bool:
        for positive, test in tests:
            if test(keys, whole):
                return positive
        return otherwise

    return matches


def _test(element: str, tables: Mapping[str, Table]) -> Matcher:
    if element.startswith(TABLE):
        table = _table(element, tables)
        return lambda keys, whole: find(table, keys, whole) is not None
    if element == "*":
        return lambda keys, _: bool(keys and keys[0]) and keys[0] != NULL_SENDER
    if not element.isprintable() or " " in element:
        raise ValueError(f'"{element}" cannot be matched (accepted: names, addresses, "*", "table:NAME", "!" in front)')
    lowered = element.lower()
    return lambda keys, _: lowered in keys


def _client_test(element: str, tables: Mapping[str, Table]) -> Matcher:
    network = _network(element)
    if network is not None:
        return lambda keys, _: bool(keys) and _inside(keys[0], network)
    if element.startswith(TABLE) or element == "*":
        return _test(element, tables)
    if "/" in element or not element.strip("."):
        raise ValueError(
            f'"{element}" is neither network nor name (accepted: "192.0.2.0/24", "mx.example.org", ".example.org", "table:NAME")'
        )
    return _test(element, tables)


def _inside(address: str, network: Network) -> bool:
    found = address_of(address)
    return found is not None and found in network


def _network(element: str) -> Network | None:
    try:
        return parse_network(element)
    except ValueError:
        return None


def _table(element: str, tables: Mapping[str, Table]) -> Table:
    name = element.removeprefix(TABLE)
    try:
        return tables[name]
    except KeyError:
        raise ValueError(f"there is no [table.{name}] (accepted: the name of a table in the configuration)") from None
