"""Foreign text on its way to a client or the log: what a block list, a policy server or a hook had to say. Pure."""

from __future__ import annotations

REPLY_TEXT_LIMIT = 400
"""Characters of foreign text in a reply: with code and status it stays below the 512 of RFC 5321 §4.5.3.1.5."""


def clean(text: str, limit: int = REPLY_TEXT_LIMIT) -> str:
    """The text on one line of printable ASCII, at most `limit` characters long; runs of white space become one space.

    ASCII because a reply may hold more only in a session with SMTPUTF8 (RFC 6531 §3.7.4).
    """
    words = " ".join(text[: 4 * limit].split())
    return "".join(c if " " <= c <= "~" else "?" for c in words)[:limit].rstrip()
