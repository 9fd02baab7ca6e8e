"""The scheduler: which delivery begins when (wishes 1, 18, 47, 57).

The queue on disk holds everything; the scheduler orders what is in memory. Callers (`flow`) ask `admits` or `room`
before they load, `add` jobs, take jobs from `next(now)` until it returns None, and `report` each with what it said
about its site. `deadline()` says when `next` is worth asking again though nothing happened. A destination is what a
`Route` calls so, "transport:next hop": one for each remote site, one for each local mailbox, so that a stuck mailbox
stops only itself (wish 1).

Pure and synchronous: `now` is an argument, any clock that does not go back. Nothing here opens, awaits, or decides
about retries; the order of the calls alone decides the order of the jobs.
"""

from mailflow.scheduler.core import DestinationView, Scheduler
from mailflow.scheduler.destination import Job, Lane
from mailflow.scheduler.settings import SchedulerSettings, TransportSettings
from mailflow.scheduler.window import Feedback

__all__ = [
    "DestinationView",
    "Feedback",
    "Job",
    "Lane",
    "Scheduler",
    "SchedulerSettings",
    "TransportSettings",
]
