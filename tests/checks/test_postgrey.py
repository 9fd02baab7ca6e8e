"""Postgrey, a policy server of the real world, behind our client."""

from __future__ import annotations

import asyncio
import getpass
import grp
import os
import shutil
from pathlib import Path

import pytest

from mailflow.ingress.checks.policy_service import PolicyService
from mailflow.ingress.checks.settings import PolicyServiceSettings
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action
from tests.checks.fakes import FakeSituation, in_loop

POSTGREY = shutil.which("postgrey", path="/usr/sbin:/usr/bin")


@pytest.mark.skipif(POSTGREY is None, reason="postgrey is not installed (Debian: postgrey)")
@in_loop
async def test_postgrey_delays_and_then_prepends_its_header(tmp_path: Path):
    socket = tmp_path / "s"
    postgrey = await asyncio.create_subprocess_exec(
        POSTGREY,
        *("--unix", str(socket), "--dbdir", str(tmp_path), "--delay", "1", "--hostname", "mx.test"),
        *(
            "--user",
            getpass.getuser(),
            "--group",
            grp.getgrgid(os.getgid()).gr_name,
            "--pidfile",
            str(tmp_path / "pid"),
        ),
        stdout=asyncio.subprocess.DEVNULL,  # a line for each question: it stops where nobody reads them
        stderr=asyncio.subprocess.DEVNULL,
    )
    service = PolicyService(PolicyServiceSettings(address=f"unix:{socket}", default_action="DUNNO"))
    try:
        async with asyncio.timeout(30):
            while (first := await greylisted(service, instance=1)).verdict is None:
                assert postgrey.returncode is None  # it does not listen yet
            assert first.verdict.reply.text.startswith("450 4.2.0 Greylisted, see http")
            number = 1
            while (later := await greylisted(service, instance=number)).verdict.reply is not None:
                number += 1  # each time a second has not gone by yet
        assert later.verdict.action is Action.HEADER
        assert later.verdict.header.startswith(b"X-Greylist: delayed ")
    finally:
        await service.close()
        postgrey.kill()
        await postgrey.wait()


async def greylisted(service: PolicyService, instance: int):
    return await service.consult(FakeSituation("198.51.100.7", instance=f"mark.{instance}"), Stage.RCPT)
