"""Due times that no clock of now can have written: the wall clock was ahead when mail was put off, or came in.

While the server runs, such a leap makes no mail due early or late (`queuetime.py`); but due times stand on disk by the
wall clock, and a start reads them by the one of now. So at each start, what is due later than mail ever waits is
due at once; else it would wait until the clock is where it was. What is on hold stays so, and what its sender wants
delivered later (RFC 4865).
"""

from __future__ import annotations

from mailflow.envelope import HELD
from mailflow.store.admin import AdminTask, Command
from mailflow.store.sqlite import Store
from mailflow.store.values import Selection

WAITS = 2
"""So many times the longest wait, jitter included, mail never waits."""


_ASKED_FOR = "coalesce((SELECT json_extract(nullif(options, ''), '$[7]') FROM message WHERE id = message_id), 0)"
"""`Options.release` of a recipient's message, as `rows.options_text` writes it."""


def pull_in(store: Store, now: float, longest_wait: float) -> None:
    """Makes due at `now`, seconds since 1970, what is due behind `WAITS` times `longest_wait`; in steps of bounded size.

    Raises QueueError. Where there is none, as nearly always, this costs one look along the index of due times.
    """
    latest = now + WAITS * longest_wait
    stray = f"due > {latest!r} AND due > {_ASKED_FOR}"
    sql = f"SELECT EXISTS (SELECT 1 FROM recipient WHERE due < ? AND {stray})"  # noqa: S608
    if store.transaction(lambda: store.db.execute(sql, (HELD,)).fetchone()[0]):
        task = AdminTask(Command.FLUSH, Selection(everything=True), now, stray)
        while not task.complete:
            task.step(store)
