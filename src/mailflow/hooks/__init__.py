"""Hooks: how a program that embeds mailflow takes part in its SMTP sessions.

    from mailflow import Mailflow
    from mailflow.hooks import Hooks, reject

    class NoStrangers(Hooks):
        async def on_mail(self, envelope):
            return None if envelope.client.login else reject("Log in first")

    Mailflow(settings, hooks=NoStrangers())

Two interfaces, one for new programs (`native.Hooks`: typed events, typed decisions) and aiosmtpd's handlers, unchanged
(`Mailflow(settings, handler=MyHandler())`, aiosmtpd_session.py). docs/embedding.md is the guide. Without either, nothing
of this package is loaded but its settings. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailflow.hooks.decisions import Decision, Edited, accept, defer, discard, hold, quarantine, reject
    from mailflow.hooks.native import Envelope, Hooks
    from mailflow.hooks.program import QUEUE

__all__ = [
    "QUEUE",
    "Decision",
    "Edited",
    "Envelope",
    "Hooks",
    "accept",
    "defer",
    "discard",
    "hold",
    "quarantine",
    "reject",
]

_HOME = {"Envelope": "native", "Hooks": "native", "QUEUE": "program"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mailflow.hooks' has no attribute {name!r}")
    return getattr(import_module(f"mailflow.hooks.{_HOME.get(name, 'decisions')}"), name)
