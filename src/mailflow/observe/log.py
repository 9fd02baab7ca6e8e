"""The event log: one line for each thing that happens, and never a wait for the event loop (wish 31).

Callers: every part calls `event("delivered", id=…, to=…)` where the thing happens, or `record` with the fields in a dict; the server calls `reopen` and
`close`. An event costs the loop an append to a bounded buffer. A writer thread formats and writes; it wakes up at
once for the first event after a quiet time and then every `POLL_SECONDS` while there are more, so a burst costs
one wake-up and few, large writes. Nothing is synced.

Invariants: order is kept; the buffer never holds more than `settings.buffer` events; what did not fit, or could not be written, is
counted in `dropped` and reported by a line `warning … dropped=N` as soon as lines flow again. `event` never raises and never blocks,
whatever the output does. Not here: what a line looks like (`lines.py`), where it goes (`output.py`).

Field names are fixed for all parts: id, from, to, relay, delay, delays, dsn, status, size, nrcpt, client, helo, login,
proto, reason. A trailing underscore is dropped (`from_=…`). A float is written with all its digits: round it
first. Leave a field out when it has no value.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from mailflow.observe.lines import Event, Formatter, JsonFormatter, Level, TextFormatter
from mailflow.observe.output import Output, open_output
from mailflow.observe.settings import LogSettings

__all__ = ["EventLog", "Level"]

POLL_SECONDS = 0.05
SLICE = 256  # events formatted at a time: the GIL is free for the loop at least every half millisecond
CLOSE_SECONDS = 2.0
"""How long `close` waits for an output that does not take its lines."""


class EventLog:
    """Where events are reported. Thread-safe. Raises OSError when the log file cannot be opened."""

    def __init__(self, settings: LogSettings | None = None, *, output: Output | None = None) -> None:
        settings = settings or LogSettings()
        self._level = int(Level[settings.level.upper()])
        self._bound = settings.buffer
        self._buffer: deque[Event] = deque()
        self._formatter: Formatter = JsonFormatter() if settings.format == "json" else TextFormatter()
        self._output = output or open_output(settings.to)
        self._idle = True
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._reopen = False
        self._overflowed = self._failed = self._reported = 0
        self._worker = threading.Thread(target=self._run, name="mailflow-log", daemon=True)
        self._worker.start()

    def __repr__(self) -> str:
        return f"<EventLog waiting={len(self._buffer)} dropped={self.dropped}>"

    @property
    def dropped(self) -> int:
        """Events lost so far: the buffer was full, or the output failed."""
        return self._overflowed + self._failed

    # For the event loop

    def event(self, event_: str, /, level: int = 20, **fields: object) -> None:
        """Logs one event. `level` is a `Level` (INFO when left out); fields are text and numbers."""
        self.record(event_, level, fields)

    def record(self, event: str, level: int, fields: dict[str, object]) -> None:
        """The same with the fields as they are, for those who have put them together: they belong to the log from now on."""
        if level < self._level:
            return
        buffer = self._buffer
        if len(buffer) >= self._bound:
            self._overflowed += 1
            return
        buffer.append((time.time(), level, event, fields))
        if self._idle:
            self._idle = False
            self._wake.set()

    def reopen(self) -> None:
        """Opens the log file again, soon: for use after it was moved away."""
        self._reopen = True
        self._wake.set()

    def close(self) -> None:
        """Writes what is waiting and ends the thread; gives up after `CLOSE_SECONDS` when the output is stuck."""
        self._stop.set()
        self._wake.set()
        self._worker.join(CLOSE_SECONDS)

    # In the writer thread

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            self._drain()
            while not self._stop.wait(POLL_SECONDS) and self._buffer:
                self._drain()
            # `event` appends first and looks at `_idle` then, so an event that came in between is seen here.
            self._idle = True
            if self._buffer:
                self._wake.set()
        self._drain()
        self._output.close()

    def _drain(self) -> None:
        """Writes what is in the buffer now; not what comes in meanwhile, so that it ends."""
        if self._reopen:
            self._reopen = False
            self._reopen_output()
        take = self._buffer.popleft
        for _ in range(0, len(self._buffer), SLICE):
            events = [take() for _ in range(min(SLICE, len(self._buffer)))]
            if not self._write(events):
                self._failed += len(events)
        lost = self.dropped
        if lost > self._reported and self._warn(dropped=lost - self._reported):
            self._reported = lost

    def _reopen_output(self) -> None:
        try:
            self._output.reopen()
        except OSError as error:
            self._warn(reason=f"cannot open the log file again, the old one stays in use: {error}")

    def _warn(self, **fields: object) -> bool:
        return self._write([(time.time(), Level.WARNING, "warning", fields)])

    def _write(self, events: list[Event]) -> bool:
        """False when these events are lost."""
        try:
            self._output.write(self._formatter.format(events))
        except Exception:  # noqa: BLE001 - a full disk, a closed pipe, a field that cannot be shown: the log goes on
            return False
        return True
