"""Durations and sizes as people write them: "1h30m", "25MiB". Pure."""

from __future__ import annotations

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_duration(value: object) -> float:
    """Seconds from "5m", "1.5h", "1h30m", or a number of seconds. Raises ValueError with the accepted form."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdw])", value) if isinstance(value, str) else []
    if not parts or "".join(n + u for n, u in parts) != value:
        raise ValueError(
            'not a duration (accepted: a number with a unit ms, s, m, h, d or w, such as "90s", "5m", "1h30m")'
        )
    return sum(float(n) * _SECONDS[u] for n, u in parts)


def format_duration(seconds: float) -> str:
    """The shortest exact text that `parse_duration` reads back as the same number."""
    for unit in ("w", "d", "h", "m", "s"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    return f"{seconds * 1000:g}ms" if seconds and seconds < 1 else f"{seconds:g}s"


def parse_size(value: object) -> int:
    """Bytes from "25MiB", "10KB", or a whole number of bytes. Raises ValueError with the accepted form."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(r"(\d+) ?(B|[KMG]i?B)", value) if isinstance(value, str) else None
    if not match:
        raise ValueError('not a size (accepted: a number with a unit B, KiB, MiB, GiB, KB, MB or GB, such as "25MiB")')
    return int(match[1]) * _BYTES[match[2]]


def format_size(size: int) -> str:
    """The shortest exact text that `parse_size` reads back as the same number."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"
