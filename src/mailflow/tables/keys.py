"""Which keys something is looked up with, the most exact first: one order for all tables (wishes 29, 33).

Addresses, as in Postfix's access(5), with the extension's keys besides:

    user+ext@domain   user@domain   domain   .parent.domain   .domain-above …   +ext   user+ext@   user@

"domain" stands for the domain alone, ".parent" for all below it. The null sender's key is "<>". Clients: the address,
IPv4 prefixes ("192.0.2", "192.0", "192"), then the verified name, and ".parent" for all names below. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailflow.tables.table import KEY_CHARACTERS, Table

NULL_SENDER = "<>"
LABELS = 32
"""Parent domains that are looked up; no real name is deeper."""


def address_keys(address: str, delimiter: str = "+") -> list[str]:
    """The keys of an envelope address, in lower case; "" is the null sender."""
    if not address:
        return [NULL_SENDER]
    local, at, domain = address.lower().rpartition("@")
    if not at:
        local, domain = domain, ""
    user, extension = split_extension(local, delimiter)
    keys = [f"{local}@{domain}" if domain else local]
    if extension and domain:
        keys.append(f"{user}@{domain}")
    if domain:
        keys += domain_keys(domain)
    if extension:
        keys.append(f"{delimiter}{extension}")
        keys.append(f"{local}@")
    keys.append(f"{user}@")
    return list(dict.fromkeys(keys))


def split_extension(local: str, delimiter: str = "+") -> tuple[str, str]:
    """User and extension of a local part; a quoted one, or one that begins with the delimiter, has no extension."""
    if not delimiter or local.startswith('"'):
        return local, ""
    user, _, extension = local.partition(delimiter)
    return (user, extension) if user else (local, "")


def domain_keys(domain: str) -> list[str]:
    """The keys of a host or domain name: the name, then ".parent" for each domain above it."""
    domain = domain.lower().rstrip(".")
    if not domain:
        return []
    labels = domain.split(".")
    if domain.startswith("[") or len(labels) > LABELS:
        return [domain]
    return [domain, *("." + ".".join(labels[i:]) for i in range(1, len(labels)))]


def client_keys(address: str, name: str = "") -> list[str]:
    """The keys of a client: its address, the prefixes of an IPv4 address, its verified name and that one's parents."""
    keys = [address.lower()] if address else []
    parts = address.split(".")
    if len(parts) == 4 and ":" not in address:
        keys += [".".join(parts[:end]) for end in (3, 2, 1)]
    return keys + domain_keys(name)


def find(table: Table, keys: Sequence[str], whole: Sequence[str] | None = None) -> tuple[str, str] | None:
    """The first of the keys that the table has, and its value.

    `whole`: the keys that stand for the thing as a whole, by default the first; in a table of patterns only these are looked up.
    """
    for key in (keys[:1] if whole is None else whole) if table.patterns else keys:
        if len(key) <= KEY_CHARACTERS:
            value = table.get(key)
            if value is not None:
                return key, value
    return None
