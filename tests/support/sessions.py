"""Threads that send mail until they are told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self


class Sessions:
    """So many threads of `work`, which looks at `stopping` between messages; a context manager."""

    def __init__(self, work: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
        """One thread for each of `arguments`."""
        self.stopping = threading.Event()
        self._threads = [threading.Thread(target=work, args=args, daemon=True) for args in arguments]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Tells them, and waits for them."""
        self.stopping.set()
        self.wait()

    def wait(self) -> None:
        """Until every session has ended."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a sender hangs: the server neither answers nor hangs up"
