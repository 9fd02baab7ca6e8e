"""mailflow: a mail transfer agent in one Python process.

    from mailflow import Mailflow, Settings

    async with Mailflow(Settings(hostname="app.example", spool="var/spool")) as mta:
        receipt = await mta.send(message, recipients=["joe@example.org"])

Names are loaded when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailflow.api import Mailflow
    from mailflow.envelope import Options, Peer
    from mailflow.errors import ConfigError, MailflowError, QueueError, QueueFull, QueueLocked, SendError
    from mailflow.receipt import Receipt, Report
    from mailflow.report import Action, DeliveryReport, HostAttempt
    from mailflow.settings import Settings

__all__ = [
    "Action",
    "ConfigError",
    "DeliveryReport",
    "HostAttempt",
    "Mailflow",
    "MailflowError",
    "Options",
    "Peer",
    "QueueError",
    "QueueFull",
    "QueueLocked",
    "Receipt",
    "Report",
    "SendError",
    "Settings",
    "__version__",
]

_HOME = {
    "Mailflow": "api",
    "Options": "envelope",
    "Peer": "envelope",
    "ConfigError": "errors",
    "MailflowError": "errors",
    "QueueError": "errors",
    "QueueFull": "errors",
    "QueueLocked": "errors",
    "SendError": "errors",
    "Receipt": "receipt",
    "Report": "receipt",
    "Action": "report",
    "DeliveryReport": "report",
    "HostAttempt": "report",
    "Settings": "settings",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mailflow")
    if name not in _HOME:
        raise AttributeError(f"module 'mailflow' has no attribute {name!r}")
    return getattr(import_module(f"mailflow.{_HOME[name]}"), name)
