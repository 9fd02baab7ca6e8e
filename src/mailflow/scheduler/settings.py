"""The scheduler's settings: section `[scheduler]`, and `[scheduler.transport.NAME]` for what differs by transport."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from mailflow.setting import Duration, Section, setting

_BUILT_IN: dict[str, dict[str, Any]] = {"local": {"initial_window": 2, "max_window": 2}}
"""A mailbox is one file system directory: more than two writers at a time gain nothing."""


class TransportSettings(Section):
    """What one transport does differently from the general values; a key left out means the general value."""

    slots: int | None = setting(None, ge=1, postfix="transport_destination_concurrency_limit, master.cf maxproc")
    """Deliveries under way at the same time over this transport; default: all slots of the process."""
    initial_window: int | None = setting(None, ge=1, postfix="transport_initial_destination_concurrency")
    """Deliveries at the same time to a destination that nothing is known of."""
    max_window: int | None = setting(None, ge=1, postfix="transport_destination_concurrency_limit")
    """Deliveries at the same time to one destination, at most."""
    interval: Duration | None = setting(None, postfix="transport_destination_rate_delay")
    """Mean time between two deliveries to one destination."""
    burst: int | None = setting(None, ge=1)
    """Deliveries that may follow each other at once before `interval` is kept."""


class SchedulerSettings(Section):
    """Which delivery begins when: concurrency, fairness, memory, and what is done about sites that do not answer."""

    slots: int = setting(2000, ge=1, postfix="default_process_limit")
    """Deliveries under way at the same time in the whole process; each may hold one connection."""
    reserve: float = setting(0.4, ge=0, le=0.9)
    """Share of the slots kept for destinations that have no delivery under way: one third of it for any of them,
    one third for those not known to be slow, one third for those whose last delivery was quick."""
    slow: Duration = setting("10s")
    """A destination whose last delivery took this long counts as slow."""
    initial_window: int = setting(5, ge=1, postfix="initial_destination_concurrency")
    """Deliveries at the same time to a destination that nothing is known of."""
    max_window: int = setting(30, ge=1, postfix="default_destination_concurrency_limit")
    """Deliveries at the same time to one destination, at most. More than `smtp.connections`, as two messages share a connection
    to a host that pipelines, the second one's envelope behind the first one's content."""
    interval: Duration = setting("0s", postfix="default_destination_rate_delay")
    """Mean time between two deliveries to one destination; 0 = as fast as it goes."""
    burst: int = setting(1, ge=1)
    """Deliveries that may follow each other at once before `interval` is kept."""
    new_to_deferred_ratio: int = setting(4, ge=1)
    """New messages for each retried one, while a destination has both waiting."""
    yield_after: int = setting(10, ge=1, postfix="default_delivery_slot_cost")
    """A message with many recipients lets the messages behind it pass after this many transactions in a row."""
    jobs: int = setting(20_000, ge=1, postfix="qmgr_message_active_limit")
    """Transactions (a message's recipients for one destination) waiting in memory; the others wait on disk."""
    destination_jobs: int = setting(5000, ge=1, postfix="qmgr_message_recipient_limit")
    """Transactions waiting in memory for one destination, at most; fewer when memory gets scarce."""
    dead_after: int = setting(3, ge=1, postfix="default_destination_concurrency_failed_cohort_limit")
    """A destination is dead after this many failed connections in a row."""
    probe: tuple[Duration, Duration] = setting(("1m", "30m"))
    """How long a dead destination is left alone: at first, and at most; doubling with each probe that fails."""
    remembered: int = setting(10_000, ge=0)
    """Destinations without mail whose window and state are remembered."""
    memory: Duration = setting("1h")
    """How long they are remembered."""
    transport: dict[str, TransportSettings] = setting(_BUILT_IN)
    """What single transports do differently: `[scheduler.transport.smtp]`."""

    @field_validator("transport", mode="before")
    @classmethod
    def _keep_built_in(cls, value: object) -> object:
        """What is given for one transport leaves the built-in values of the others, and its other keys, as they are."""
        if not isinstance(value, dict):
            return value
        merged: dict[str, Any] = {name: dict(keys) for name, keys in _BUILT_IN.items()}
        for name, keys in value.items():
            merged[name] = {**merged.get(name, {}), **keys} if isinstance(keys, dict) else keys
        return merged
