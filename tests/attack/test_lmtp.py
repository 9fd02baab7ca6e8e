"""LMTP: as many replies as recipients were accepted from the client, whatever guards make of them (RFC 2033 §4.2)."""

from __future__ import annotations

import asyncio

import pytest

from mailflow.envelope import Recipient
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Action, Edit, Verdict
from tests.attack.rig import Talk


class Editor:
    """Puts so many recipients in place of the message's, or of each, at one stage."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.stages = {stage}
        self.number = number

    def at(self, _stage):
        def ask(_situation):
            many = [Recipient(0, f"bob{i}@example.test", "local:bob") for i in range(self.number)]
            return Verdict(Action.EDIT, edit=Edit(recipients=many))

        return ask


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.END])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("content", [b"DATA\r\nx: y\r\n.\r\n", b"BDAT 6 LAST\r\nx: y\r\n"])
def test_a_reply_for_each_recipient_that_the_client_gave(stage, number, content):
    async def run():
        talk = Talk("10.0.0.7", [Editor(stage, number)], lmtp=True, tls="no")
        given = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<alice@example.test>\r\nRCPT TO:<bob@example.test>\r\n"
        said = await talk.say(b"LHLO x\r\n" + given + content + b"NOOP\r\n")
        assert sum("queued" in each for each in said) == 2
        assert said[-1] == "250 2.0.0 Ok"
        assert talk.intake.accepted

    asyncio.run(run())
