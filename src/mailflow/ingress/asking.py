"""How a session asks its guards: one after the other, waiting only when one of them has to wait.

`Panel` holds the questions of all guards by stage, looked up once for each listener; a stage without questions costs
a session one test for emptiness. `Asked` is the part of a session that asks. While a question waits, one task runs for
this session and the core answers nothing; a guard that raises or takes longer than the panel's limit refuses with a 451.

Invariants: `finish` is called at most once, and only when no guard refused; after `stop_asking` nothing is called any more.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from mailflow.ingress.abuse.conduct import Conduct
from mailflow.ingress.policy.names import ClientNames
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Ask, Edit, Finding, Guard, Situation, Verdict, Watcher
from mailflow.smtp import replies
from mailflow.smtp.handler import PENDING, Answer
from mailflow.smtp.reply import Reply

Finish = Callable[[], Answer]


STAGE_SECONDS = 100.0
"""How long all questions of a stage may take together."""


class Panel:
    """The guards and watchers of a listener."""

    __slots__ = (
        "conduct",
        "connect",
        "data",
        "end",
        "helo",
        "mail",
        "modes",
        "names",
        "rcpt",
        "relays",
        "seconds",
        "session",
        "watchers",
    )

    def __init__(
        self,
        guards: Iterable[Guard] = (),
        watchers: Iterable[Watcher] = (),
        seconds: float = STAGE_SECONDS,
        session: Callable[..., Any] | None = None,
        *,
        conduct: Conduct | None = None,
        relays: bool = False,
        modes: Mapping[str, str] | None = None,
        names: ClientNames | None = None,
    ) -> None:
        """Guards are asked in this order. `seconds`: how long all questions of a stage may take together.

        `relays`: some guard may let strangers relay (`Verdict.relay`), so guards are asked before relaying is denied.
        `modes`: of the checks that are always in force, "enforce" where none is given. `names` finds clients' names.
        `session` makes the sessions, with the arguments of `Session`, where they are to be of a kind of their own.
        `conduct` judges what clients do that no client should; without it nothing is held against them.
        """
        guards = tuple(guards)
        self.connect, self.helo, self.mail, self.rcpt, self.data, self.end = (
            tuple(guard.at(stage) for guard in guards if stage in guard.stages) for stage in Stage
        )
        self.watchers = tuple(watchers)
        self.relays = relays
        self.modes = modes or {}
        self.names = names
        self.seconds = seconds
        self.session = session
        self.conduct = conduct


class Marks:
    """What guards have noted for one message."""

    __slots__ = ("discard", "header", "hold", "relay")

    def __init__(self) -> None:
        self.discard = False
        self.hold = ""
        self.header = b""
        self.relay = False
        """The recipient being decided on may be relayed for a stranger."""


class Asked:
    """A session, as far as it asks guards. Its subclass is their `Situation`."""

    __slots__ = ("_closing", "_marks", "_panel", "_task", "_verdict")

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._marks: Marks | None = None
        self._task: asyncio.Task[None] | None = None
        self._verdict: Verdict | None = None
        """The one that refused, until it is logged."""
        self._closing = False
        """The session ends with the refusal that is being given."""

    def event(self, name: str, /, level: int = 20, **fields: object) -> None:
        """Logs an event with what is known of the session."""
        raise NotImplementedError

    def _edit(self, edit: Edit) -> None:
        """Changes the envelope."""
        raise NotImplementedError

    def drop(self) -> None:
        """Closes the connection without a word."""
        raise NotImplementedError

    def _decided(self, answer: Reply) -> None:
        """The answer that was pending has come."""
        raise NotImplementedError

    def _ask(self, questions: tuple[Ask, ...], finish: Finish) -> Answer:
        """Asks; gives the refusal, or what `finish` gives, or PENDING (then `_decided` is called)."""
        rest = iter(questions)
        try:
            waiting = self._go_through(rest)
        except Exception:  # noqa: BLE001 - whatever a guard does, the client gets an answer
            return self._failed()
        if waiting is None:
            return self._refusal() or finish()
        self._task = asyncio.get_running_loop().create_task(self._wait(waiting, rest, finish))
        return PENDING

    def _go_through(self, questions: Iterator[Ask]) -> Awaitable[Finding] | None:
        """Asks until one refuses (then `_verdict` is set) or has to wait."""
        situation: Situation = self  # type: ignore[assignment] # its subclass is one
        for question in questions:
            found = question(situation)
            if found is None:
                continue
            if not isinstance(found, Verdict):
                if not isinstance(found, Awaitable):
                    raise TypeError(f"a policy check gave {type(found).__name__}, which is no verdict")
                return found
            if self._note(found):
                return None
        return None

    async def _wait(self, waiting: Awaitable[Finding] | None, rest: Iterator[Ask], finish: Finish) -> None:
        answer: Answer
        try:
            async with asyncio.timeout(self._panel.seconds):
                while waiting is not None:
                    found = await waiting
                    waiting = None if found is not None and self._note(found) else self._go_through(rest)
            if self._task is None:
                return
            answer = self._refusal() or finish()
        except TimeoutError:
            self.event("warning", level=40, reason="a policy check took too long")
            answer = replies.POLICY_TIMED_OUT
        except asyncio.CancelledError:
            if self._task is None:
                raise
            answer = self._failed()  # not the session was cancelled, but something that a guard waited for
        except Exception:  # noqa: BLE001 - as in _ask
            answer = self._failed()
        if self._task is not None:
            self._task = None
            if answer is not PENDING:
                self._decided(answer)

    def later(self, work: Callable[[], Awaitable[Reply]], failed: Reply) -> Answer:
        """Answers with what `work` gives, or with `failed` when it raises or takes longer than the panel's limit."""
        self._task = asyncio.get_running_loop().create_task(self._work(work, failed))
        return PENDING

    async def _work(self, work: Callable[[], Awaitable[Reply]], answer: Reply) -> None:
        try:
            async with asyncio.timeout(self._panel.seconds):
                answer = await work()
        except TimeoutError:
            self.event("warning", level=40, reason="a command took too long")
        except asyncio.CancelledError:
            if self._task is None:
                raise
            self.event("warning", level=40, reason=traceback.format_exc())
        except Exception:  # noqa: BLE001 - as in _ask
            self.event("warning", level=40, reason=traceback.format_exc())
        self._task = None
        self._decided(answer)

    def stop_asking(self) -> None:
        """The client is gone: what a guard still says interests nobody."""
        task, self._task = self._task, None
        if task is not None:
            # Behind its first step: what it is to wait for has begun by then, and ends in order.
            task.get_loop().call_soon(task.cancel)

    def _note(self, verdict: Verdict) -> bool:
        """Notes a verdict; True when it refuses."""
        if verdict.reply is not None:
            self._verdict = verdict
            return True
        if self._marks is None:
            self._marks = Marks()
        marks = self._marks
        if verdict.action is Action.DISCARD:
            marks.discard = True
        elif verdict.action is Action.HOLD:
            marks.hold = verdict.reason or verdict.rule or "held by policy"
        if verdict.header and verdict.header not in marks.header:  # a rule may be asked again for each recipient
            marks.header += verdict.header
        if verdict.edit is not None:
            self._edit(verdict.edit)
            if verdict.action is Action.EDIT:
                marks.hold = verdict.reason or marks.hold
        if verdict.relay:
            marks.relay = True
        return False

    def _refusal(self) -> Reply | None:
        verdict = self._verdict
        if verdict is None:
            return None
        self._closing = verdict.action is Action.CLOSE or verdict.action is Action.DROP
        if verdict.action is Action.DROP:
            self.drop()
        return verdict.reply

    def _failed(self) -> Reply:
        self.event("warning", level=40, reason=traceback.format_exc())
        return replies.POLICY_FAILED
