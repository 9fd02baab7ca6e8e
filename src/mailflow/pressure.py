"""Back pressure: a flood of new mail must not take the machine from the mail that waits (wish 62).

One event loop takes mail in and sends it out, and many clients can keep it busier than the few connections on the
way out. So a client waits for its 250 while
- the loop's rounds are long and mail that waited on disk is on the move: for every three recipients that come from disk
  one client is answered; or
- mail piles up in memory though its destination answers within a few rounds: one for each delivery, so that enough of it
  stays in memory and none has to go the longer way over the disk.

Nobody waits longer than `HOLD_SECONDS`. The message is safe on disk before that and its delivery begins at once; only the
client's next one comes later. Delivery that waits for its destinations and not for the loop, as mute or slow ones make
it, holds nobody up.

Callers: `flow` asks `on`, wraps the client's callback in `delayed`, and tells `moved` and `sent`. At most one answer for
each session is held.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from mailflow.smtp.reply import Reply

Answer = Callable[[Reply], None]

LOOK_SECONDS = 0.05
"""How often it is looked whether the loop has time left."""
ROUND_SECONDS = 0.001
"""A round of the loop that takes this long has much to do: everybody with something ready gets one turn in it, so the
more clients there are, the smaller is the share of what goes out."""
HOLD_SECONDS = 1.0
"""The longest that an answer is held, and how long ago the last slice from disk and the last long round may be."""
MOVED_PER_ANSWER = 3
"""Taking a message in costs about as much as sending one out, so this leaves delivery more than half of its rate."""
CROWD = 250
"""Deliveries to one destination that wait in memory; more than a loop sends in a twentieth of a second is enough."""
PROMPT_ROUNDS = 4
"""A delivery that takes no more rounds of the loop than this waits for the loop, and not for its destination."""
CROWDED_SECONDS = 2 * LOOK_SECONDS
"""How long ago the last prompt delivery in a crowd may be."""


class BackPressure:
    """See the module's description."""

    __slots__ = (
        "_clock",
        "_credit",
        "_crowded_at",
        "_held",
        "_long_at",
        "_looked",
        "_looking",
        "_moved_at",
        "_round",
        "_timer",
        "on",
    )

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock`: in seconds, finer than `ROUND_SECONDS`, which the loop's own is not."""
        self._clock = clock
        self.on = False
        """Whether answers are held at present."""
        self._held: deque[tuple[float, Answer, Reply]] = deque()
        """Until when, to whom, what."""
        self._looked = clock()
        self._looking = False
        self._moved_at = self._long_at = self._crowded_at = float("-inf")
        self._round = 0.0
        """Seconds that a round of the loop took lately."""
        self._credit = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<BackPressure on={self.on} held={len(self._held)}>"

    def delayed(self, answer: Answer) -> Answer:
        """What to call instead of `answer`."""
        return partial(self._hold, answer)

    def moved(self, recipients: int) -> None:
        """So many recipients came from disk to be delivered."""
        self._moved_at = now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._look()
        self._credit += recipients
        while self._held and self._credit >= MOVED_PER_ANSWER:
            self._credit -= MOVED_PER_ANSWER
            self._answer()
        if not self._held:
            self._credit = 0

    def sent(self, seconds: float) -> None:
        """A delivery has ended, which took so long, and more than `CROWD` wait for the same destination."""
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._look()
        if seconds <= PROMPT_ROUNDS * self._round:
            self._crowded_at = now
        if self._held and now - self._moved_at >= HOLD_SECONDS:
            self._answer()

    def release(self) -> None:
        """Answers everybody."""
        self.on = False
        while self._held:
            self._answer()

    def _hold(self, answer: Answer, reply: Reply) -> None:
        self._held.append((self._clock() + HOLD_SECONDS, answer, reply))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._look()
        now = self._clock()
        while self._held and self._held[0][0] <= now:
            self._answer()
        if self._held:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._on_time)

    def _look(self) -> None:
        """Decides anew, one round of the loop later."""
        if not self._looking:
            self._looking = True
            self._looked = self._clock()
            asyncio.get_running_loop().call_soon(self._decide)

    def _decide(self) -> None:
        self._looking = False
        now = self._clock()
        self._round = now - self._looked
        if self._round >= ROUND_SECONDS:
            self._long_at = now
        crowded = now - self._crowded_at < CROWDED_SECONDS
        self.on = crowded or max(now - self._moved_at, now - self._long_at) < HOLD_SECONDS
        if not self.on:
            self.release()

    def _answer(self) -> None:
        _, answer, reply = self._held.popleft()
        answer(reply)
