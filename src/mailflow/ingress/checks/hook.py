"""A Python function as a check: `[[policy_hook]]`.

It is called with the session as `Situation` and answers None or a `Verdict`, or is `async def`. What else it may answer
is told by `read`, which makes verdicts of an embedding program's decisions (`hooks/plain.py`). When it raises, hangs
or answers something else, the client hears 451 and the log has the traceback (`asking.py`). A function that is not async
runs on the event loop and must not wait for anything: all sessions wait with it.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from mailflow.ingress.checks.settings import PolicyHookSettings
from mailflow.ingress.verdict import Finding, Situation, Verdict

Read = Callable[[object], object]


class PolicyHook:
    """The check `hook`."""

    def __init__(self, settings: PolicyHookSettings, read: Read = lambda found: found) -> None:
        """Imports the function. Raises ValueError, in words for the operator, when there is no such function."""
        self.name = settings.title
        self._read = read
        self._seconds = settings.time_limit
        self._call = _find(settings.call)

    def __repr__(self) -> str:
        return f"<PolicyHook {self.name}>"

    def ask(self, situation: Situation) -> Finding | Awaitable[Finding]:
        """What the function says."""
        found = self._call(situation)
        return self._wait(found) if inspect.isawaitable(found) else self._checked(found)

    async def _wait(self, found: Awaitable[Any]) -> Finding:
        async with asyncio.timeout(self._seconds):
            return self._checked(await found)

    def _checked(self, found: Any) -> Finding:
        found = self._read(found)
        if found is None:
            return None
        if not isinstance(found, Verdict):
            raise TypeError(f"{self.name} answered {type(found).__name__}, which is no verdict")
        return found if found.rule else found._replace(rule=self.name)


def _find(call: str) -> Any:
    module_name, _, name = call.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"the module {module_name} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"the module {module_name} has no function {name}")  # noqa: TRY004 - a wrong setting, not a wrong type
    return function
