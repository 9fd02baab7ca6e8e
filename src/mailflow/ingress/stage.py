"""The stages of a session at which its guards are asked. By itself, because the settings name them and need nothing else."""

from __future__ import annotations

from enum import Enum


class Stage(Enum):
    """When guards are asked."""

    CONNECT = "connect"
    """Before the greeting."""
    HELO = "helo"
    """EHLO or HELO, the name known."""
    MAIL = "mail"
    """The sender is known."""
    RCPT = "rcpt"
    """A recipient is known, and that it exists; asked for each one."""
    DATA = "data"
    """The envelope is complete."""
    END = "end-of-data"
    """The message is complete, and not yet accepted."""
