"""Contents in the database whose messages an administrator has deleted: removed afterwards, when the disk has time.

A content of 1 KB has no page of its own, so that each one that leaves costs a page to be written, and among many that
leave this is the greater part of the cost. So a deletion takes message and recipients out at once and notes the
contents' ids in the table `leftover`, in the same transaction; a `SweepTask` removes them in steps, beside the mail. What a
crash leaves over is swept after the next start. To everybody else such a content is gone already.
"""

from __future__ import annotations

import time

from mailflow.store import statements
from mailflow.store.sqlite import Store

STEP_SECONDS = 0.02
"""As of an administrator's command: new mail waits for its 250 as long as a step takes."""
SMALLEST_STEP = 100
LARGEST_STEP = 2000
"""Contents removed in one transaction."""


class SweepTask:
    """Removes what is left over. `step` returns how many contents it removed."""

    def __init__(self) -> None:
        self.complete = False
        self.seconds = 0.0
        """What the last step took."""
        self._most = SMALLEST_STEP

    def step(self, store: Store) -> list[int]:
        """The next part. Raises what `Store.transaction` raises."""
        begun = time.perf_counter()
        removed = store.transaction(lambda: _sweep(store, self._most)) if store.leftovers else 0
        if removed < self._most:
            self.complete = True
            store.leftovers = False
        self.seconds = time.perf_counter() - begun
        if self.seconds > STEP_SECONDS:
            self._most = max(SMALLEST_STEP, self._most // 2)
        elif self.seconds < STEP_SECONDS / 2:
            self._most = min(LARGEST_STEP, self._most * 2)
        return [removed]


def _sweep(store: Store, most: int) -> int:
    """Removes at most so many, inside a transaction of the caller's. How many."""
    ids = [row[0] for row in store.db.execute("SELECT id FROM leftover ORDER BY id LIMIT ?", (most,))]
    statements.CONTENT.delete(store.db, ids)
    statements.LEFTOVER.delete(store.db, ids)
    return len(ids)
