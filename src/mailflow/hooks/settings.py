"""The settings of hooks: `[hooks]`. They bound what an embedding program's hooks may cost; its code is not configured here."""

from __future__ import annotations

from mailflow.setting import Duration, Section, Size, setting


class HooksSettings(Section):
    """Bounds for the hooks of a program that embeds mailflow (docs/embedding.md)."""

    time_limit: Duration = setting("30s", gt=0)
    """How long one call of a hook may take, its wait for a free place included; then it is cancelled, and the client is told 451 4.3.0."""

    concurrency: int = setting(200, ge=1)
    """Calls of hooks under way at the same time, of all sessions together; further ones wait within their time limit."""

    content_memory: Size = setting("64MiB", ge=1024)
    """Bytes of messages that are kept in memory for hooks that read the content, of all sessions together. A message that does
    not fit gets 452 4.3.1. One message of `limits.message_size` always fits while no other is there."""
