"""The settings of the queue: section [queue] of the configuration.

Durations are seconds, sizes bytes, once loaded. The waits between attempts belong here because they decide what is
written to disk as a recipient's next due time; how many deliveries run at once is the scheduler's section.
"""

from __future__ import annotations

from pydantic import field_validator

from mailflow.setting import Duration, Section, Size, setting


class QueueSettings(Section):
    """The queue on disk: how long and how often a message is tried, and how much room it may take."""

    backoff: list[Duration] = setting(["5m", "2h"], postfix="minimal_backoff_time, maximal_backoff_time")
    """Wait after the first failed attempt, and the longest wait. Each failure doubles the wait until the longest is
    reached; some jitter is added so that messages deferred together do not come back together."""
    lifetime: Duration = setting("5d", postfix="maximal_queue_lifetime")
    """How long a message is tried before it is returned to its sender as undeliverable. 0: one attempt only."""
    bounce_lifetime: Duration = setting("5d", postfix="bounce_queue_lifetime")
    """The same for a message with the null sender (a bounce), which is then dropped, for it has nobody to return to."""
    reserve: Size = setting("64MiB", postfix="queue_minfree")
    """Free space on the spool's disk that new mail may not use up; it is left for bounces and deferrals. A message
    that would go below it is refused with 452."""
    content_file_threshold: Size = setting("1MiB", ge=65_536, le=67_108_864)
    """A message larger than this is written to a file of its own below the spool while it arrives, with bounded memory;
    a smaller one is collected in memory and stored in the database. Measured in docs/queue.md."""
    segment_threshold: Size = setting("8KiB")
    """Contents of at least this size are stored in segment files, of 64 MiB, whose pages are written once, in place, and
    used again; smaller ones in the database. So are larger ones when those of one commit are less than 32 times this
    together, for a segment needs a sync of its own. Measured in docs/queue.md."""
    content_memory: Size = setting("128MiB", ge=1_048_576)
    """Content in memory, over all messages: while it arrives, until its first delivery, and when it is read from disk as
    its turn comes. Up to half of it, new content is kept for its first delivery. Beyond all of it, messages above 64 KiB are
    streamed to files as they arrive."""
    write_buffer: Size = setting("64MiB", ge=1_048_576)
    """Bytes that may wait in memory for the disk: accepted content, 2 KiB for each row and 4 KiB for each outcome. More
    is refused with 451 until some is written."""
    cache: Size = setting("32MiB", ge=1_048_576)
    """Memory for pages of the database."""
    checkpoint: Size = setting("16MiB", ge=1_048_576)
    """Size that the write-ahead log grows to before its pages are copied to the database. It is then used again from
    its beginning; the file stays this large."""

    redo_log: Size = setting("16MiB", le=268_435_456)
    """Size up to which a file grows in which mail is made durable before it is in the database: one write and one sync for a
    commit, instead of every page that it touches. Mail that leaves at once never enters the database; what is there
    for a quarter of a second does. There are two such files. 0: everything goes to the database at once."""
    check_interval: Duration = setting("1d")
    """How often a running server looks for damage in its database, the first time after its start; contents are not
    read. It takes a second of a processor for each 200,000 messages. 0: never."""

    @field_validator("backoff")
    @classmethod
    def _two_waits(cls, value: list[float]) -> list[float]:
        if len(value) != 2 or not 0 < value[0] <= value[1]:
            raise ValueError('not two waits, the shorter first (accepted: ["5m", "2h"])')
        return value

    @property
    def first_wait(self) -> float:
        """Seconds to wait after the first failed attempt."""
        return self.backoff[0]

    @property
    def longest_wait(self) -> float:
        """Seconds that a wait never exceeds."""
        return self.backoff[1]
