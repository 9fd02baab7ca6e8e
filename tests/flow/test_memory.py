"""What the flow keeps in memory: huge lists by slices, content within the budget, clients held back in a flood."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailflow.delivery.request import Delivery, Done
from mailflow.pressure import CROWD, CROWDED_SECONDS, HOLD_SECONDS, LOOK_SECONDS, MOVED_PER_ANSWER, BackPressure
from mailflow.smtp.reply import Reply, reply
from tests.fakes.agent import TAKEN, FakeAgent
from tests.flow.bench_of_parts import Bench
from tests.flow.test_flow import play

OK = reply(250, "2.0.0", "Ok")


@pytest.mark.wish(37)
def test_a_huge_list_keeps_its_window_full_with_few_recipients_in_memory(tmp_path: Path) -> None:
    agent = FakeAgent(None)
    window, step, recipients = 2, 10, 3000

    async def story(b: Bench) -> None:
        await b.submit(*(f"u{n}@big.example" for n in range(recipients)))
        await b.until(lambda: len(agent.open) == window)
        (message,) = b.flow._active.values()
        most, done = 0, 0
        while done < recipients - window * step:
            await b.until(lambda: len(b.scheduler) >= window)  # the next ones are here before these have ended
            most = max(most, len(message.recipients))
            done += window * step
            agent.finish()
            assert len(agent.open) == window, f"idle slots after {done}"
            if done == 1000:
                await b.submit("single@big.example")
                later = len(agent.seen)
        agent.answer = lambda _address: TAKEN
        agent.finish()
        await b.empty()
        assert most <= 5 * window * step + 200, "what is under way, more for three times as many, and a slice"
        passed = next(n for n, (_, who) in enumerate(agent.seen) if who == ("single@big.example",)) - later
        assert passed * step <= 2 * window * step + 200, "a single message does not wait for the rest of the list"
        everybody = [who for _, seen in agent.seen for who in seen]
        assert len(everybody) == len(set(everybody)) == recipients + 1

    narrow = {"initial_window": window, "max_window": window}
    play(tmp_path / "spool", story, agent, scheduler=narrow, recipients_per_delivery=step)


def test_content_that_is_read_back_stays_within_the_budget_and_all_of_it_comes(tmp_path: Path) -> None:
    agent, size, limit = FakeAgent(None), 80_000, 400_000

    async def story(b: Bench) -> None:
        b.budget.used = limit + 1  # nothing is kept as it comes in
        for n in range(30):
            await b.submit(f"u@d{n % 10}.example", content=b"Subject: x\r\n\r\n" + b"x" * 76 * 1000 + b"\r\n" * 2000)
        b.budget.used -= limit + 1
        most = 0
        while (await b.queue.counts()).recipients:
            most = max(most, b.budget.used)
            agent.finish()
            await asyncio.sleep(0.001)
        assert len(agent.seen) == 30
        assert size < most <= limit, "large contents wait for one another"
        assert b.budget.used == 0

    play(tmp_path / "spool", story, agent, content_memory=limit)


def test_large_messages_that_share_a_destination_end_one_after_the_other(tmp_path: Path) -> None:
    """They are in content files, so they hold no memory: whichever ends first takes nothing away from the others."""
    agent = FakeAgent(None)

    async def story(b: Bench) -> None:
        for n in range(3):
            await b.submit(f"u{n}@far.example", content=b"Subject: x\r\n\r\n" + b"x" * 70_000)
        await b.until(lambda: len(agent.open) == 3)
        agent.finish()
        await b.empty()
        assert b.budget.used == 0

    play(tmp_path / "spool", story, agent, threshold=66_000)


@pytest.mark.wish(62)
def test_clients_are_held_in_a_flood_while_mail_from_disk_moves() -> None:
    clock, answered = [100.0], list[Reply]()

    async def story() -> None:
        pressure = BackPressure(lambda: clock[0])

        async def a_round(seconds: float) -> None:
            clock[0] += 1.0
            pressure.moved(1)
            clock[0] += seconds
            await asyncio.sleep(0)

        await a_round(0.0)
        assert not pressure.on, "there is time left"
        await a_round(0.02)
        assert pressure.on
        for _ in range(4):
            pressure.delayed(answered.append)(OK)
        pressure.moved(MOVED_PER_ANSWER)
        assert len(answered) == 1
        pressure.moved(2 * MOVED_PER_ANSWER)
        assert len(answered) == 3
        clock[0] += HOLD_SECONDS + 0.01
        async with asyncio.timeout(5):
            while len(answered) < 4 or pressure.on:  # nothing moves any more: the timer lets the last one go
                await asyncio.sleep(0.001)

    asyncio.run(story())


@pytest.mark.wish(62)
def test_clients_are_held_while_mail_piles_up_that_only_waits_for_the_loop() -> None:
    clock, answered = [100.0], list[Reply]()

    async def story() -> None:
        pressure = BackPressure(lambda: clock[0])

        async def a_delivery(seconds: float, round_: float) -> None:
            clock[0] += LOOK_SECONDS
            pressure.sent(seconds)
            clock[0] += round_
            await asyncio.sleep(0)

        for _ in range(3):
            await a_delivery(1.0, 0.001)
        assert not pressure.on, "it waits for its destination"
        for _ in range(3):
            await a_delivery(0.002, 0.001)
        assert pressure.on
        for _ in range(3):
            pressure.delayed(answered.append)(OK)
        assert not answered
        pressure.sent(0.002)
        pressure.sent(0.002)
        assert len(answered) == 2, "one for each delivery"
        clock[0] += 2 * CROWDED_SECONDS
        async with asyncio.timeout(5):
            while len(answered) < 3 or pressure.on:  # the crowd is over: the timer lets the last one go
                await asyncio.sleep(0.001)

    asyncio.run(story())


class MuteHost(FakeAgent):
    """Keeps what is for mute.example, and takes the rest at once."""

    def start(self, delivery: Delivery, done: Done) -> None:
        if delivery.next_hop == "mute.example":
            super().start(delivery, done)
        else:
            delivery.fail(TAKEN)
            done(delivery)


def test_new_mail_for_a_mute_host_leaves_room_to_read_others_back(tmp_path: Path) -> None:
    """It is kept in memory as it comes in, and some of it was read back, when large mail for another host is due."""
    agent = MuteHost(None)
    content = b"Subject: x\r\n\r\n" + b"x" * 80_000

    async def story(b: Bench) -> None:
        for n in range(30):
            await b.submit(f"u{n}@mute.example", content=content)
        await b.until(lambda: len(agent.open) > 8)
        for n in range(5):
            await b.submit(f"u{n}@good.example", content=content)
            assert (await b.receipt.wait(5)).ok
        agent.answer = lambda _address: TAKEN
        agent.finish()
        await b.empty()
        assert b.budget.used == 0

    wide = {"initial_window": 20, "max_window": 20}
    play(tmp_path / "spool", story, agent, content_memory=1_200_000, scheduler=wide)


@pytest.mark.wish(62)
def test_only_a_crowd_for_a_prompt_host_holds_clients_up(tmp_path: Path) -> None:
    """However much mail waits for a mute one, it is none of the others' affair."""
    agent = MuteHost(None)

    async def story(b: Bench) -> None:
        for n in range(CROWD + 20):
            await b.submit(f"u{n}@mute.example")
        await b.until(lambda: len(b.scheduler) > CROWD)
        pressure = b.flow._pressure
        pressure._round = 5.0  # whoever answers within 20 s is prompt
        for n in range(3):
            await b.submit(f"u{n}@good.example")
            assert (await b.receipt.wait(5)).ok
        assert pressure._crowded_at < 0
        agent.answer = lambda _address: TAKEN  # it answers now, and at once
        agent.finish()
        await b.empty()
        assert pressure._crowded_at > 0

    play(tmp_path / "spool", story, agent)
