"""Settings of the name service: section `[dns]`. Read by `net/dns.py`."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator

from mailflow.setting import Duration, Endpoint, HostPort, Section, setting


def _numeric(value: Endpoint) -> Endpoint:
    try:
        ipaddress.ip_address(value.host)
    except ValueError:
        raise ValueError(
            'a name server is given by its address (accepted: "192.0.2.53", "127.0.0.1:5353", "[::1]:53")'
        ) from None
    return value


class DnsSettings(Section):
    """How names are looked up."""

    nameservers: list[Annotated[HostPort, AfterValidator(_numeric)]] = setting([])
    """Name servers, with or without a port; empty = the system's."""
    timeout: Duration = setting("5s")
    """For one try at one server."""
    tries: int = setting(3, ge=1, le=10)
    """Tries at each server before the answer is a temporary failure."""
    cache_size: int = setting(20_000, ge=0, le=10_000_000)
    """At most this many answers are kept."""
    max_ttl: Duration = setting("1h")
    """No answer is kept longer than this, whatever its TTL says."""
    negative_ttl: Duration = setting("1m")
    """How long "no such domain" and "no such record" are kept."""
