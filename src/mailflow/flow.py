"""A message's way through mailflow. Read this first, then one file per step.

    ingress, API, command line       who may send what to whom            ingress/  api.py  rewrite.py
      └ begin · write · finish       content collected, or streamed       intake.py
          └ accept                   Received:, and what is missing       cleanup.py
              └ enqueue ═► disk      POINT ONE: 250 only after this       queue.py
                  └ admit            one job for each destination         scheduler/  backlog.py  loader.py
                      └ pump         whose turn is it?                    scheduler/
                          └ attempt  an agent does it                     delivery/
                              └ settle ═► disk    POINT TWO: out only     settle.py  bounce.py  queue.py
                                                  with its consequence

Everything here runs in the event loop and never waits: each step is a method, and the next one is called back. For
one message there are made: the message, its delivery, its job, its report. `Flow` is the only one that changes the
queue and the only caller of scheduler and agents. The two points of acknowledgement are marked below; nothing may be
said to a client before the first, and nothing may leave the queue but by the second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mailflow.alarm import Alarm
from mailflow.backlog import Backlog
from mailflow.cleanup import qualify
from mailflow.crowds import Crowds
from mailflow.delivery.request import Delivery, Fact, Stage, Trouble
from mailflow.delivery.trouble import SiteHealth, about_site, health
from mailflow.envelope import HELD, Content, InboundEnvelope, Message, Recipient
from mailflow.errors import QueueError, QueueFull
from mailflow.flow_parts import FlowParts
from mailflow.ids import format_id
from mailflow.intake import Incoming
from mailflow.loader import Loader
from mailflow.pressure import CROWD, BackPressure
from mailflow.queue import Changed, Settlement
from mailflow.queuetime import QueueTime
from mailflow.readback import ReadBack
from mailflow.report import Action
from mailflow.scheduler import Feedback, Job, Lane
from mailflow.settle import Conclusion, conclude
from mailflow.smtp.reply import Reply, reply

_GOOD, _NEW, _DEFERRED, _DELAYED, _WELL = Feedback.GOOD, Lane.NEW, Lane.DEFERRED, Action.DELAYED, SiteHealth.GOOD
"""Constants, because looking a member up in its Enum costs more than comparing it."""
_FEEDBACK = {health: Feedback[health.name] for health in SiteHealth}
_NO_ROOM = reply(*QueueFull.reply)
_CLOSING = reply(421, "4.3.2", "Service is shutting down")

SUSPENDED_AT_ONCE = 50
"""Deliveries to a dead site that are put off before the loop gets its turn again."""


class Flow:
    """See the module's description."""

    def __init__(self, parts: FlowParts, *, deliver: bool = True) -> None:
        """`deliver=False`: messages are taken in and stay on disk."""
        self.parts = parts
        self._deliver = deliver
        self._queue, self._scheduler, self._journal = parts.queue, parts.scheduler, parts.journal
        self._now, self._clock = parts.now, parts.clock
        self._time = QueueTime(parts.now, parts.clock, self._clock_was_set)
        self._policy = parts.policy
        backlog = self._backlog = Backlog()
        told = (parts.lost, parts.journal.unread)
        self._loader = Loader(parts.queue, backlog, parts.scheduler, self._room, self._loaded, self._time, *told)
        self._active: dict[int, Message] = {}
        """Messages with a recipient in memory. There is never a second object for the same message."""
        self._crowds = Crowds(parts.recipients_per_delivery, parts.scheduler.settings.max_window)
        self._readback = ReadBack(parts.queue, parts.budget, parts.threshold, self._begin, self._unread)
        self._pressure = BackPressure()
        self._withdrawn: set[int] = set()
        """Messages that were held or deleted during an attempt; no more than are active."""
        self._pumping = False
        self._closing = False
        self._alarm = Alarm(self.pump)
        parts.queue.on_commit = self.pump

    @property
    def active(self) -> int:
        """Messages that have a recipient in memory."""
        return len(self._active)

    # Starting and ending

    async def start(self) -> None:
        """Takes up what an earlier run left in the queue, or what nobody could find there before it was mended."""
        await self._loader.survey()
        self.pump()

    async def close(self, grace: float) -> None:
        """Begins nothing more, and lets what is under way end for at most `grace` seconds."""
        self._closing = True
        self._loader.close()
        self._readback.close()
        self._pressure.release()
        self._alarm.cancel()
        async with asyncio.TaskGroup() as group:
            for agent in self.parts.agents.values():
                group.create_task(agent.close(grace))

    # In: content comes, is cleaned up, and is safe

    def room(self, size: int) -> Reply | None:
        """Whether a message of `size` bytes may come; None when it may (wish 61)."""
        if self._closing:
            return _CLOSING
        return None if self._queue.room(size) else _NO_ROOM

    def begin(self, envelope: InboundEnvelope) -> Incoming | Reply:
        """A message begins (DATA). Returns where its content goes, or the refusal to be given."""
        if self._closing:
            return _CLOSING
        number = self._queue.new_id()
        if envelope.release:
            envelope.release -= self._time.skew
        if "@" not in envelope.sender:
            envelope.sender = qualify(envelope.sender, self.parts.origin_domain)
        return Incoming(self.parts, self.accept, envelope, number, format_id(number), self._now())

    def accept(self, message: Message, done: Callable[[Reply], None]) -> None:
        """The message is complete. `done` is called with what the client hears."""
        self._journal.received(message)
        self._queue.enqueue(message, partial(self._queued, message, done, self._clock()))

    def _queued(self, message: Message, done: Callable[[Reply], None], since: float, error: QueueError | None) -> None:
        if error is not None:
            self._journal.refused(message, str(error))
            code, status, text = error.reply
            done(Reply(code, status, (text,)))
            return
        self._journal.queued(message, self._clock() - since)
        if self._pressure.on:
            done = self._pressure.delayed(done)
        done(Reply(250, "2.0.0", ("Ok: queued as " + message.queue_id,)))  # POINT ONE: it is on disk
        self._admit(message)

    # Scheduling: memory holds what is about to be delivered, disk holds everything

    def _admit(self, message: Message) -> None:
        """Gives a message that is new in the queue to the scheduler, or leaves it on disk where there is no room."""
        if not self._deliver:
            return
        recipients = message.recipients
        if recipients[0].attempts:
            self._put_off(recipients)
            return
        if message.id in self._active:  # a slice from disk showed it before its commit was told
            message = self._active[message.id]
            recipients = self._crowds.missing(message, recipients)
        else:
            self._readback.keep(message)
            if len(recipients) == 1 and not self._backlog.sites and self._scheduler.admits(recipients[0].destination):
                self._add(message, recipients, _NEW)  # by far the most
                return
            message.recipients = []
        groups: dict[str, list[Recipient]] = {}
        for recipient in recipients:
            groups.setdefault(recipient.destination, []).append(recipient)
        for destination, group in groups.items():
            self._admit_group(message, destination, group)
        if message.id not in self._active:
            self._readback.release(message)

    def _put_off(self, recipients: list[Recipient]) -> None:
        """A new message that is on hold, or is to be delivered later: it waits on disk."""
        for recipient in recipients if recipients[0].due < HELD else ():
            self._backlog.note(recipient.destination, _DEFERRED, recipient.due)

    def _admit_group(self, message: Message, destination: str, recipients: list[Recipient]) -> None:
        """The recipients of a new message that go to one destination, or as many as there is room for."""
        behind = self._backlog.sites and self._backlog.has_overflow(destination)
        due = min(recipients[0].due, self._time.now())
        if behind or not self._scheduler.admits(destination):
            self._backlog.note(destination, _NEW, due, overflow=len(recipients))
            return
        if len(recipients) > self._crowds.most:
            # The rest follows in slices (wish 37). What comes later need not wait behind it.
            self._backlog.note(destination, _NEW, due)
            recipients = recipients[: self._crowds.most]
        self._crowds.join(message, recipients)
        self._add(message, recipients, _NEW)

    def _add(
        self, message: Message, recipients: list[Recipient], lane: Lane, *, first: bool = False, waited: bool = False
    ) -> None:
        """Gives recipients of one destination to the scheduler. `first`: they come back; `waited`: they were on disk."""
        self._active[message.id] = message
        step, clock = self.parts.recipients_per_delivery, self._clock()
        destination = recipients[0].destination
        transport, _, next_hop = destination.partition(":")
        for start in range(0, len(recipients), step):
            some = recipients if len(recipients) <= step else recipients[start : start + step]
            delivery = Delivery(message, some, transport, next_hop, b"", clock)
            job = Job(destination, lane, message.id, len(some), delivery)
            if waited:
                self._scheduler.restore(job, clock)
            else:
                self._scheduler.add(job, clock, first=first)

    def _loaded(self, lane: Lane, messages: list[Message]) -> None:
        """A slice came from disk: what is not in memory already becomes jobs."""
        self._pressure.moved(sum(len(found.recipients) for found in messages))
        for found in messages:
            known = self._active.get(found.id)
            if known is None:
                self._restore(found, lane)
            elif recipients := self._crowds.missing(known, found.recipients):
                self._crowds.join(known, recipients)
                self._add(known, recipients, lane)
        self.pump()

    def _room(self, destination: str, lane: Lane) -> int:
        """How many recipients of this destination the loader may fetch with one slice."""
        return self._crowds.slice(destination, self._scheduler.room_for_slice(destination, lane))

    def _restore(self, message: Message, lane: Lane) -> None:
        """A message that was on disk only: to the back of its lane, but new mail keeps its place in order of arrival."""
        recipients, message.recipients = message.recipients, []
        if recipients:
            self._crowds.join(message, recipients)
            self._add(message, recipients, lane, waited=lane is _NEW)

    def _make_room(self, destination: str) -> None:
        """Recipients have left memory: the next ones may come (before the last have gone, wish 37)."""
        for lane in (_NEW, _DEFERRED):
            if self._backlog.blocked(destination, lane) and not self._scheduler.full(lane):
                self._backlog.unblock_lane(lane)
                if self._room(destination, lane):
                    self._backlog.unblock(destination, lane)

    def pump(self) -> None:
        """Starts everything that may start now. Called after each commit, each outcome, and by the timer."""
        if self._pumping or self._closing or not self._deliver:
            return
        self._pumping = True
        try:
            if self._backlog.sites:
                self._loader.pump()
            clock = self._clock()
            while (job := self._scheduler.next(clock)) is not None:
                self._attempt(job, clock)
        finally:
            self._pumping = False
        at = self._scheduler.deadline()
        if at is not None or self._backlog.sites:
            self._set_alarm(at, clock)

    def _set_alarm(self, at: float | None, clock: float) -> None:
        """For the earlier of what the scheduler (`at`) and the backlog wait for."""
        due = self._backlog.deadline()
        if due is not None:
            due = clock + max(0.001, due - self._time.now())
            at = due if at is None else min(at, due)
        if at is not None:
            self._alarm.set(at, clock)

    # Out: content, agent, outcome

    def _attempt(self, job: Job, clock: float) -> None:
        delivery: Delivery = job.payload
        delivery.job = job
        delivery.started = delivery.connected = clock
        content = delivery.message.content
        if content is None:
            self._readback.fetch(delivery)
        else:
            delivery.content = content
            try:
                self.parts.agents[delivery.transport].start(delivery, self._finished)
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is the agent's
                self._broken(delivery, self._finished, error)

    def _begin(self, delivery: Delivery, content: Content) -> None:
        """The content of a delivery was read back from disk."""
        delivery.content = content
        try:
            self.parts.agents[delivery.transport].start(delivery, self._ended)
        except Exception as error:  # noqa: BLE001 -- as in `_attempt`
            self._broken(delivery, self._ended, error)

    def _broken(self, delivery: Delivery, done: Callable[[Delivery], None], error: Exception) -> None:
        """An agent raised, which it must not: its slot and memory are given back, and it is tried again like any failure."""
        self._journal.broken(delivery.message, f"transport {delivery.transport}: {type(error).__name__}: {error}")
        if delivery.job is not None:  # else it has been told what became of it before
            delivery.fail(Fact(Stage.RESOLVE, trouble=Trouble.BROKEN))
            done(delivery)

    def _ended(self, delivery: Delivery) -> None:
        self._finished(delivery)
        self._readback.give_back(delivery)

    def _unread(self, delivery: Delivery, damage: str) -> None:
        """The content could not be read back; `damage`: because it is damaged, and how."""
        self._ended(delivery)
        if damage and self._queue.quarantine(delivery.message.id, self.withdraw):
            self._journal.damaged(delivery.message, damage)

    def _finished(self, delivery: Delivery) -> None:
        """An agent is done: what follows, and whose turn is it now?"""
        job: Job = delivery.job  # type: ignore[assignment]
        delivery.job = None  # or they would keep each other in memory until the garbage collector came
        clock = self._clock()
        state = health(delivery)
        if state is not _WELL:
            self._time.look()  # before waits are reckoned
        conclusion = conclude(delivery, self._policy, self._now(), clock)
        feedback = _GOOD if state is _WELL else _FEEDBACK[state]
        self._scheduler.report(job, feedback, clock)
        if len(self._scheduler) > CROWD and self._scheduler.waiting(job.destination) > CROWD:
            self._pressure.sent(clock - delivery.started)
        if conclusion.returned:
            self._take_back(delivery.message, conclusion.returned, job.lane)
        if conclusion.reports:
            self._settle(delivery, conclusion)
        if feedback is not _GOOD and self._scheduler.is_dead(job.destination):
            self._suspend(job.destination, delivery)
        if self._backlog.sites:
            self._make_room(job.destination)
        self.pump()

    def _take_back(self, message: Message, recipients: list[Recipient], lane: Lane) -> None:
        """They were not attempted: once more, unless the operator has held or deleted them meanwhile."""
        if message.id not in self._withdrawn:
            self._add(message, recipients, lane, first=True)
        else:  # the disk knows what shall be
            self._drop(message, recipients)
            self._backlog.note(recipients[0].destination, lane, self._time.now())

    def _settle(self, delivery: Delivery, conclusion: Conclusion) -> None:
        """Logs what became of each recipient and hands the consequences to the queue."""
        message = delivery.message
        if self._crowds:
            self._crowds.ended(message, conclusion.done + conclusion.deferred)
        if delivery.hosts:
            decided = conclusion.reports[0].action is not _DELAYED
            self._journal.attempts(message, delivery.hosts, decided=decided)
        for report in conclusion.reports:
            self._journal.outcome(report)
        notable = self.parts.bouncing.notable(message, conclusion.to_tell) if conclusion.tell else []
        if notable:
            content = delivery.content or message.content
            self.parts.bouncing.make(message, content, notable, partial(self._commit, message, conclusion))
        else:
            self._commit(message, conclusion, [])

    def _commit(self, message: Message, conclusion: Conclusion, new: list[Message]) -> None:
        settlement = Settlement(message, conclusion.done, conclusion.deferred, new)
        self._queue.settle(settlement, partial(self._settled, settlement, conclusion))  # POINT TWO: all or nothing

    def _settled(self, settlement: Settlement, conclusion: Conclusion, error: QueueError | None) -> None:
        """The consequences are on disk."""
        message = settlement.message
        self._drop(message, settlement.done + settlement.deferred)
        if error is not None:
            self._unsettled(settlement, error)
            return
        for recipient in settlement.deferred:
            self._backlog.note(recipient.destination, _DEFERRED, recipient.due)
        for bounce in settlement.new:
            self._journal.queued(bounce, 0.0)
            self._admit(bounce)
        self.parts.reported(message, conclusion.reports)
        if message.remaining == 0:
            self._journal.removed(message)

    def _unsettled(self, settlement: Settlement, error: QueueError) -> None:
        """The queue refused the consequences. On disk nothing has changed: everything is due, now or after a restart."""
        message = settlement.message
        message.remaining += len(settlement.done)
        self._journal.unsettled(message, str(error))
        later = self._time.now() + self._policy.longest_wait
        for recipient in settlement.done + settlement.deferred:
            for lane in Lane:
                self._backlog.note(recipient.destination, lane, later)

    def _drop(self, message: Message, recipients: list[Recipient]) -> None:
        """Takes recipients out of memory that were attempted or are held: a slice under way may show them as they were."""
        if self._loader.loading:
            for recipient in recipients:
                self._loader.forget(message.id, recipient.number)
        if len(recipients) == len(message.recipients):
            message.recipients = []
        elif self._crowds.leave(message, recipients):
            if self._backlog.sites:
                self._make_room(recipients[0].destination)
            return
        self._active.pop(message.id, None)
        self._readback.release(message)

    # Sites that are down

    def _suspend(self, destination: str, failed: Delivery) -> None:
        """A site is dead: what waits for it in memory is deferred for the same reason, without an attempt.

        Nobody fails for another's fault: without a reason that is the site's, and passes, the jobs wait for the probe.
        """
        fact = about_site(failed)
        if fact is not None and (jobs := self._scheduler.withdraw(destination, self._clock())):
            self._give_up(deque(jobs), fact)

    def _give_up(self, jobs: deque[Job], fact: Fact) -> None:
        for _ in range(min(SUSPENDED_AT_ONCE, len(jobs))):
            delivery: Delivery = jobs.popleft().payload
            delivery.fail(fact)
            delivery.started = delivery.connected = self._clock()
            self._settle(delivery, conclude(delivery, self._policy, self._now(), self._clock()))
        if jobs:
            asyncio.get_running_loop().call_soon(self._give_up, jobs, fact)

    # For the operator

    def withdraw(self, changed: list[Changed]) -> None:
        """Takes the waiting jobs of messages out of memory: some of their recipients are held or deleted on disk.

        The others are loaded again.
        """
        message_ids = [c.id for c in changed]
        if self._loader.loading:
            for c in changed:
                for number in c.numbers:
                    self._loader.forget(c.id, number)
        for job in self._scheduler.remove(*message_ids, now=self._clock()):
            self._drop(job.payload.message, job.payload.recipients)
            self.wake(job.destination, probe=False)
        self._withdrawn.update(message_ids)
        self._withdrawn &= self._active.keys()

    def wake(self, destination: str, *, probe: bool) -> None:
        """Mail for this destination on disk may be due now; `probe`: also if it is taken for dead."""
        if probe:
            self._scheduler.wake(destination, self._clock())
        self._backlog.wake(destination, self._time.now())

    def _clock_was_set(self, by: float) -> None:
        """The wall clock leapt. What waits, waits as long as it would have: due times stay in the time before."""
        self._journal.clock_set(by)
        self._queue.skew = self._time.skew
        self._policy = replace(self.parts.policy, skew=self._time.skew)

    def __repr__(self) -> str:
        return f"<Flow active={len(self._active)} {self._scheduler!r} {self._backlog!r}>"
