"""The agent of the transport "discard": accepts everything and keeps nothing, by the operator's wish."""

from __future__ import annotations

from mailflow.delivery.request import Delivery, Done, Fact, Stage
from mailflow.smtp.reply import reply

_DISCARDED = Fact(Stage.FILE, reply=reply(250, "2.0.0", "discarded"))


class DiscardAgent:
    """Reports success for every recipient."""

    def start(self, delivery: Delivery, done: Done) -> None:
        """See `Agent.start`."""
        delivery.fail(_DISCARDED)
        done(delivery)

    async def close(self, grace: float) -> None:
        """Nothing is ever under way."""
