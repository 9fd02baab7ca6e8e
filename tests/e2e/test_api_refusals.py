"""What the Python API does not let through."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailflow import Mailflow
from mailflow.errors import SendError
from tests.e2e.test_api import settings
from tests.support.client import mail

INJECTED = [
    "alice@example.test\r\nRCPT TO:<eve@remote.test>",
    "alice@example.test> NOTIFY=NEVER",
    "alice@example.test\nX-Injected: yes",
    "alice@@example.test",
    "al ice@example.test",
    "a" * 65 + "@example.test",
    "",
]


@pytest.mark.parametrize("address", INJECTED)
def test_a_recipient_that_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    async def main() -> None:
        async with Mailflow(settings(tmp_path), deliver=False) as mta:
            with pytest.raises(SendError) as refused:
                await mta.send(mail(), sender="app@example.test", recipients=[address])
            assert refused.value.reply[:2] == (553, "5.1.3")
            assert (await mta.server.queue.counts()).messages == 0

    asyncio.run(main())


@pytest.mark.parametrize("address", INJECTED[:-1])
def test_a_sender_that_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    """It would go into MAIL FROM and Return-Path: as it is."""

    async def main() -> None:
        async with Mailflow(settings(tmp_path), deliver=False) as mta:
            with pytest.raises(SendError) as refused:
                await mta.send(mail(), sender=address, recipients=["alice@example.test"])
            assert refused.value.reply[:2] == (553, "5.1.7")

    asyncio.run(main())


def test_a_disk_below_its_reserve_takes_no_message_of_a_program(tmp_path: Path) -> None:
    async def main() -> None:
        queue = {"reserve": 2**60}
        async with Mailflow(settings(tmp_path, queue=queue), deliver=False) as mta:
            with pytest.raises(SendError) as refused:
                await mta.send(mail(), sender="", recipients=["alice@example.test"])
            assert refused.value.reply[0] == 452

    asyncio.run(main())


def test_a_cancelled_send_leaves_the_server_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with Mailflow(settings(tmp_path)) as mta:
            first = asyncio.create_task(mta.send(mail(), sender="", recipients=["alice@example.test"]))
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            receipt = await mta.send(mail(), sender="", recipients=["alice@example.test"])
            assert (await receipt.wait(timeout=20)).ok
            async with asyncio.timeout(20):  # the first may have been queued, and be delivered after the second
                while mta.status()["content_memory"]:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
