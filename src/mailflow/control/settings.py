"""Settings of the control socket: section `[control]`."""

from __future__ import annotations

from pathlib import Path

from mailflow.setting import Section, Size, setting


class ControlSettings(Section):
    """The UNIX socket on which the command line talks to the running server."""

    enabled: bool = setting(default=True)
    """Whether the server opens it. Without it the queue can still be listed, but not changed while the server runs."""
    socket: Path | None = setting(None)
    """Its path, below a directory that only the server's user may enter; default: `control.sock` in the spool."""
    message_size: Size = setting("64MiB", ge=1024)
    """Largest message that `mailflow send` may hand in."""
