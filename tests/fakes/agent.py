"""A delivery agent that does what a test tells it: answers at once, later, or when asked to."""

from __future__ import annotations

from collections.abc import Callable

from mailflow.delivery.request import Delivery, Done, Fact, Stage, Trouble
from mailflow.smtp.reply import reply

TAKEN = Fact(Stage.DOT, reply(250, "2.0.0", "Ok"))
LATER = Fact(Stage.RCPT, reply(450, "4.2.1", "Try again"))
NEVER = Fact(Stage.RCPT, reply(550, "5.1.1", "No such user"))
DOWN = Fact(Stage.CONNECT, trouble=Trouble.REFUSED)
RETURNED = Fact(Stage.MAIL, trouble=Trouble.UNATTEMPTED)


class FakeAgent:
    """Gives each recipient the fact that `answer` has for its address. With `answer` None deliveries wait in `open`."""

    def __init__(self, answer: Callable[[str], Fact] | None = lambda _address: TAKEN) -> None:
        self.answer = answer
        self.open: list[tuple[Delivery, Done]] = []
        self.seen: list[tuple[str, tuple[str, ...]]] = []

    def start(self, delivery: Delivery, done: Done) -> None:
        assert delivery.content, "content is there when an agent begins"
        self.seen.append((delivery.message.queue_id, tuple(r.address for r in delivery.recipients)))
        self.open.append((delivery, done))
        if self.answer:
            self.finish()

    def finish(self) -> None:
        """Answers everything that waits."""
        waiting, self.open = self.open, []
        answer = self.answer or (lambda _address: TAKEN)
        for delivery, done in waiting:
            delivery.facts = [answer(r.address) for r in delivery.recipients]
            done(delivery)

    async def close(self, grace: float) -> None:
        for delivery, done in self.open:
            delivery.fail(RETURNED)
            done(delivery)
