"""The lines of a message's life in the log: received, queued, attempt, delivered, deferred, bounced, removed.

One method for one event, so that the fields of each are written down in one place. `Journal` is called by the flow on
the hot path; formatting happens in the log's own thread.
"""

from __future__ import annotations

from mailflow.envelope import Message
from mailflow.observe.log import EventLog, Level
from mailflow.report import Action, DeliveryReport, HostAttempt
from mailflow.units import format_duration

_RELAYED, _DELIVERED = Action.RELAYED, Action.DELIVERED
"""Constants, because looking a member up in its Enum costs more than comparing it."""


class Delays:
    """The four delays of a delivery as the log writes them, a/b/c/d in seconds; put into words only by the writer."""

    __slots__ = ("_values",)

    def __init__(self, values: tuple[float, float, float, float]) -> None:
        self._values = values

    def __str__(self) -> str:
        return "%.3g/%.3g/%.3g/%.3g" % self._values  # noqa: UP031 - a fifth less work than `format`, once for every message


def _to(seconds: float, parts: int) -> float:
    """Rounded to so many parts of a second; `round` goes by way of the digits, which takes longer."""
    return (seconds * parts + 0.5) // 1 / parts


class Journal:
    """Writes the flow's events to the log."""

    def __init__(self, log: EventLog, *, attempts: bool) -> None:
        """`attempts`: a line for every host contacted, also for those that took the message at once (wish 22)."""
        self._log = log
        self._attempts = attempts

    def received(self, message: Message) -> None:
        """The content is complete; it is not yet safe."""
        peer = message.peer
        fields: dict[str, object] = {
            "id": message.queue_id,
            "from_": message.sender,
            "size": message.size,
            "client": str(peer),
            "helo": peer.helo,
            "proto": peer.protocol,
        }
        if peer.login and peer.address:
            fields["login"] = peer.login
        self._log.record("received", 20, fields)

    def queued(self, message: Message, seconds: float) -> None:
        """The message is safe on disk; `seconds` since its content was complete."""
        self._log.event(
            "queued", id=message.queue_id, from_=message.sender, nrcpt=message.remaining, delay=_to(seconds, 10000)
        )

    def refused(self, message: Message, reason: str) -> None:
        """The queue could not take it; the client was told to try again."""
        self._log.event("reject", Level.WARNING, id=message.queue_id, from_=message.sender, reason=reason)

    def unsettled(self, message: Message, reason: str) -> None:
        """The queue could not store what became of a delivery; it will be repeated."""
        self._log.event(
            "warning", Level.ERROR, id=message.queue_id, from_=message.sender, reason=f"not settled: {reason}"
        )

    def aside(self, message: Message, reason: str) -> None:
        """The database is damaged where the outcome of a delivery would be written: its recipients are left alone (wish 82)."""
        reason = f"what became of it cannot be written; it is left alone until the queue has been repaired: {reason}"
        self._log.event("warning", Level.ERROR, id=message.queue_id, from_=message.sender, reason=reason)

    def damaged(self, message: Message, reason: str) -> None:
        """Its content is not what was stored: it waits, on hold, for the operator (wish 82)."""
        reason = f"{reason}; the message is put on hold (mailflow queue check says more)"
        self._log.event("warning", Level.ERROR, id=message.queue_id, from_=message.sender, reason=reason)

    def lost(self, queue_id: str) -> None:
        """Its envelope is not what was stored, or cannot be found: to whom and from whom it is may be wrong, and is not told."""
        reason = "its envelope in the queue is damaged; its recipients are put on hold (mailflow queue check says more)"
        self._log.event("warning", Level.ERROR, id=queue_id, reason=reason)

    def unread(self, destination: str, reason: str) -> None:
        """Mail of a destination that waits on disk cannot be read, and so is not delivered."""
        reason = f"mail that waits for {destination} cannot be read, which is tried again (mailflow queue check says more): {reason}"
        self._log.event("warning", Level.ERROR, reason=reason)

    def inspected(self, finding: str, *, mended: bool = False) -> None:
        """Something that the server found when it looked for damage in its queue, or what it did about it."""
        advice = "" if mended else " (damaged: stop the server for mailflow queue check --repair)"
        self._log.event(
            "warning", Level.WARNING if mended else Level.ERROR, reason=f"the queue on disk: {finding}{advice}"
        )

    def broken(self, message: Message, reason: str) -> None:
        """A delivery agent failed in a way that nobody foresaw; the attempt counts as a temporary failure."""
        self._log.event(
            "warning", Level.ERROR, id=message.queue_id, from_=message.sender, reason=f"error in mailflow: {reason}"
        )

    def outcome(self, report: DeliveryReport) -> None:
        """What became of one recipient."""
        action = report.action
        if action is _RELAYED:
            name, status, level = "delivered", "relayed", 20
        elif action is _DELIVERED:
            name, status, level = "delivered", "delivered", 20
        else:
            name, status, level = "bounced" if action is Action.FAILED else "deferred", action.value, Level.WARNING
        fields: dict[str, object] = {
            "id": report.queue_id,
            "from_": report.sender,
            "to": report.recipient,
            "relay": report.relay,
            "delay": _to(report.at - report.arrived, 1000),
            "delays": Delays(report.delays),
            "dsn": report.status,
            "status": status,
            "reason": report.reply or report.reason,
        }
        if report.original != report.recipient:
            fields["orig_to"] = report.original
        self._log.record(name, level, fields)

    def removed(self, message: Message, why: str = "done") -> None:
        """The last recipient has left the queue."""
        self._log.event("removed", id=message.queue_id, reason=why)

    def clock_set(self, seconds: float) -> None:
        """The machine's clock was set while we ran."""
        way = "forward" if seconds > 0 else "back"
        reason = f"the clock was set {way} by {format_duration(abs(round(seconds)))}; waiting mail keeps its waits"
        self._log.event("warning", Level.WARNING, reason=reason)

    def attempts(self, message: Message, hosts: list[HostAttempt], *, decided: bool) -> None:
        """The hosts contacted for one delivery; `decided`: the last of them took it, which `outcome` says too."""
        for host in hosts if self._attempts or not decided else hosts[:-1]:
            self._log.event(
                "attempt",
                id=message.queue_id,
                relay=host.relay,
                delay=_to(host.seconds, 1000),
                reason=host.reply,
            )
