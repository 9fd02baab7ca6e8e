"""The greeting of a listener, from the `protocol.banner` setting."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping

from mailflow.macros import Template

NAMES = ("hostname", "protocol", "service", "version")
CHARACTERS = 500
"""RFC 5321 §4.5.3.1.5: a line of a reply has 512 octets, with code and CR LF."""
LINES = 20


def greeting(banner: str, values: Mapping[str, str]) -> list[str]:
    """The lines behind 220. `values` need not have the version. Raises ValueError, with what is accepted."""
    template = Template(banner, NAMES)
    if not re.match(r"\$\{hostname\}(?:[ \n]|\Z)", banner):
        raise ValueError('does not begin with "${hostname}" (RFC 5321 section 4.2)')
    if "${version" in banner:  # finding it takes time
        values = {**values, "version": importlib.metadata.version("mailflow")}
    lines = template.expand(values).split("\n")
    if len(lines) > LINES or not all(x.isascii() and x.isprintable() and len(x) <= CHARACTERS for x in lines):
        raise ValueError(f"is not ASCII text of at most {LINES} lines with at most {CHARACTERS} characters each")
    return lines
