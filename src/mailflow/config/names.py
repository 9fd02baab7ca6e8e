"""The name of this host, fully qualified, and where it came from (wish 6).

A mail server introduces itself by a full domain name (RFC 5321 §2.3.5, §4.1.1.1). When the configuration gives none, the
machine's name is taken; a short one is completed with `domain` from the configuration or, failing that, with the
resolver's own or first search domain. No name service is asked: starting a mail server must not wait for one.
`complete` is pure, the two functions that look at the machine are apart from it.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_RESOLV_CONF = Path("/etc/resolv.conf")


def is_domain(text: str) -> bool:
    """Whether it is a host or domain name by RFC 1123 §2.1, in ASCII ("xn--" for others)."""
    return len(text) <= 253 and _DOMAIN.fullmatch(text) is not None


def complete(hostname: str, domain: str, machine: str, search: str) -> tuple[str, str]:
    """The full host name, and words for where a part of it came from that `hostname` did not give.

    Args:
        hostname, domain: from the configuration, "" when not given.
        machine: the machine's own name.
        search: the resolver's domain, "" when it has none.
    """
    name, words = (hostname, "") if hostname else (machine, "the machine's name")
    name = name.rstrip(".")
    if not name or "." in name:
        return name, words
    suffix, source = (domain, "domain") if domain else (search, f"the search domain in {_RESOLV_CONF}")
    if not suffix.strip("."):
        return name, words
    return f"{name}.{suffix.strip('.')}", ", ".join(filter(None, (words, f"completed with {source}")))


def machine_name() -> str:
    """The machine's own name, perhaps short."""
    return socket.gethostname()


def search_domain(resolv_conf: Path = _RESOLV_CONF) -> str:
    """The resolver's own domain or its first search domain; "" when there is none (resolv.conf(5): the last line counts)."""
    found = ""
    try:
        for line in resolv_conf.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("domain", "search"):
                found = words[1]
    except OSError:
        return ""
    return found.strip(".")
