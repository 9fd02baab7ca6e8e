"""Settings of the event log: section `[log]` of the configuration.

Callers: the root settings compose it; `EventLog` is built from it. It does not open or check the
file: that happens when the log is opened, and a failure there is reported like a mistake in the
configuration.
"""

from __future__ import annotations

from typing import Literal

from mailflow.setting import Section, setting


class LogSettings(Section):
    """The event log: one line for each thing that happens to a message or a session."""

    to: str = setting("stderr", postfix="maillog_file", min_length=1)
    """Where lines go: "stderr", "stdout", "none", or the path of a file that is appended to. A file that was moved
    away is opened again on SIGHUP."""

    format: Literal["text", "json"] = setting("text")
    """"text": time, level, event, then key=value; "json": one object a line with the same names."""

    level: Literal["debug", "info", "warning", "error"] = setting("info")
    """Events below this level are not logged."""

    attempts: bool = setting(default=False)
    """A line for every host that was contacted, also for those that took the message at once. Without it only hosts
    that did not take it have a line."""

    buffer: int = setting(50_000, ge=100, le=10_000_000)
    """Lines that may wait in memory for the writer thread. What does not fit is dropped and counted: the log
    never holds mail up."""
