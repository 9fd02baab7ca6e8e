"""Back pressure: a flood of new mail must not take the machine from the mail that waits (wish 62).

One event loop takes mail in and sends it out, and many clients can keep it busier than the few connections on the
way out. So while mail that waited on disk is on the move, and the loop's rounds are long, a client waits for its 250: for
every three recipients that come from disk one client is answered, and nobody waits longer than `HOLD_SECONDS`. The message
is safe on disk before that and its delivery begins at once; only the client's next one comes later. Delivery that waits
for its destinations and not for the loop, as mute or slow ones make it, holds nobody up.

Callers: `flow` asks `on`, wraps the client's callback in `delayed`, and tells `moved`. At most one answer for each session
is held.
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
ROUND_SECONDS = 0.003
"""A round of the loop that takes this long has much to do: everybody with something ready gets one turn in it, so the
more clients there are, the smaller is the share of what goes out."""
HOLD_SECONDS = 1.0
"""The longest that an answer is held, and how long ago the last slice from disk and the last long round may be."""
MOVED_PER_ANSWER = 3
"""Taking a message in costs about as much as sending one out, so this leaves delivery more than half of its rate."""


class BackPressure:
    """See the module's description."""

    __slots__ = ("_clock", "_credit", "_held", "_long_at", "_looked", "_looking", "_moved_at", "_timer", "on")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock`: in seconds, finer than `ROUND_SECONDS`, which the loop's own is not."""
        self._clock = clock
        self.on = False
        """Whether answers are held at present."""
        self._held: deque[tuple[float, Answer, Reply]] = deque()
        """Until when, to whom, what."""
        self._looked = clock()
        self._looking = False
        self._moved_at = self._long_at = float("-inf")
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
        if now - self._looked >= ROUND_SECONDS:
            self._long_at = now
        self.on = max(now - self._moved_at, now - self._long_at) < HOLD_SECONDS
        if not self.on:
            self.release()

    def _answer(self) -> None:
        _, answer, reply = self._held.popleft()
        answer(reply)
