"""The operator's commands on a flow under way."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mailflow.observe.log import EventLog
from mailflow.observe.settings import LogSettings
from mailflow.operator import Operator
from mailflow.server import Server
from mailflow.store.reader import list_messages
from tests.fakes.agent import DOWN, TAKEN, FakeAgent
from tests.flow.bench_of_parts import Bench
from tests.flow.test_flow import play

DEADLY = {"dead_after": 1, "probe": (500.0, 1000.0)}


def operator(b: Bench) -> Operator:
    log = EventLog(LogSettings(to="none"))
    parts = SimpleNamespace(queue=b.queue, flow=b.flow, scheduler=b.scheduler, log=log)
    return Operator(cast("Server", parts))


async def run(b: Bench, command: str, selection: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry async for step in operator(b).change(command, selection) for entry in step]


@pytest.mark.wish(46)
@pytest.mark.parametrize("destination", [None, "smtp:far.example"])
def test_a_flush_also_reaches_mail_that_was_due_and_waits_for_a_dead_site(
    tmp_path: Path, destination: str | None
) -> None:
    agent = FakeAgent(lambda _address: DOWN)

    async def story(b: Bench) -> None:
        await b.submit("a@far.example")
        await b.until(lambda: not b.flow.active)
        b.step(20.0)  # due, but no probe yet
        await asyncio.sleep(0.02)
        assert len(agent.seen) == 1
        agent.answer = lambda _address: TAKEN
        await run(b, "flush", {"destination": destination} if destination else {"all": True})
        await b.empty()

    play(tmp_path / "spool", story, agent, scheduler=DEADLY)


def test_hold_release_and_delete_under_way(tmp_path: Path) -> None:
    """Random looks at the wrong moment are in tests/queue; here: memory follows the disk."""
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        for n in range(30):
            await b.submit(f"u{n}@far.example")
        await b.queue.write_out()
        ids = [m.queue_id for m in list_messages(tmp_path / "spool")]
        held = await run(b, "hold", {"ids": ids[:20]})
        assert len(held) == 20
        await run(b, "delete", {"ids": ids[20:25]})
        while (await b.queue.counts()).recipients > (await b.queue.counts()).held:
            agent.finish()
            await asyncio.sleep(0.001)
        await run(b, "release", {"all": True})
        while (await b.queue.counts()).recipients:
            agent.finish()
            await asyncio.sleep(0.001)
        seen = [a for _, some in agent.seen for a in some]
        assert len(seen) == len(set(seen)), "nothing twice"
        assert set(seen) == {f"u{n}@far.example" for n in (*range(20), *range(25, 30))}
        assert b.flow.active == 0
        assert b.budget.used == 0

    play(tmp_path / "spool", story, agent, scheduler={"initial_window": 2, "max_window": 2})


@pytest.mark.wish(82)
def test_a_damaged_message_is_put_on_hold_and_all_others_go_on(tmp_path: Path) -> None:
    agent = FakeAgent(lambda _address: DOWN)
    spool = tmp_path / "spool"

    async def story(b: Bench) -> None:
        for n in range(5):
            await b.submit(f"u{n}@far.example")
        await b.until(lambda: not b.flow.active)
        damaged = [m.id for m in list_messages(spool)][2]
        with closing(sqlite3.connect(spool / "queue.db")) as db, db:
            db.execute("UPDATE content SET data = CAST('other' AS BLOB) WHERE id = ?", (damaged,))
        agent.answer = lambda _address: TAKEN
        await run(b, "flush", {"all": True})
        await b.until(lambda: [r.state for m in list_messages(spool) for r in m.recipients] == ["held"])
        [message] = list_messages(spool)
        assert message.id == damaged
        assert "damaged" in message.recipients[0].reason
        await b.until(lambda: (b.flow.active, b.budget.used) == (0, 0))
        words = f"content of message {message.queue_id} does not match"
        await b.until(lambda: words in (tmp_path / "log").read_text())

    play(spool, story, agent)
