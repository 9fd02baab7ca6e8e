"""The rules of a configuration in a running server: over the wire, in the log, and after a table's file has changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mailflow.errors import ConfigError
from mailflow.server import Server
from mailflow.settings import Settings
from tests.ingress.fakes import Client, FakeLog

CONFIG = """
hostname = "mx.here.test"
[[listener]]
bind = "127.0.0.1:0"
[[listener]]
bind = "127.0.0.1:0"
policy = "inside"
[local]
domains = ["here.test"]
users = ["alice", "bob"]
[relay]
networks = ["10.0.0.0/8"]
[table.senders]
type = "text"
file = "senders"
[[policy.mail]]
name = "known senders"
check = "check_sender_access senders"
[[policy.rcpt]]
name = "nobody writes to bob"
recipient = ["bob@here.test"]
action = "reject"
reply = "550 5.7.1 Bob is away"
[[policy.set.inside.rcpt]]
name = "the lab may send anywhere"
client = ["127.0.0.0/8"]
action = "permit_relay"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "m.toml").write_text(CONFIG)
    (tmp_path / "senders").write_text("bad.test REJECT go away\n")
    return Settings.load(tmp_path / "m.toml", environment={})


async def talk(server: Server, number: int, *lines: str) -> list[str]:
    host, port, _ = server.addresses[number]
    async with Client(*await asyncio.open_connection(host, port)) as client:
        await client.greet()
        return [await client.say(line.encode()) for line in lines]


@pytest.mark.interpreted("a log of another class")
def test_rules_over_the_wire(settings: Settings, tmp_path: Path) -> None:
    async def main() -> None:
        log = FakeLog()
        server = Server(settings, deliver=False, log=log)
        await server.start()
        try:
            first = await talk(
                server, 0, "MAIL FROM:<a@b.test>", "RCPT TO:<bob@here.test>", "RCPT TO:<alice@here.test>"
            )
            assert first == ["250 2.1.0 Ok", "550 5.7.1 Bob is away", "250 2.1.5 Ok"]
            (refusal,) = log.named("reject")
            assert refusal["rule"] == f"nobody writes to bob ({tmp_path}/m.toml:19)"
            assert (refusal["from_"], refusal["to"]) == ("a@b.test", "bob@here.test")

            bad = ("MAIL FROM:<a@bad.test>", "RCPT TO:<alice@here.test>", "RCPT TO:<x@far.test>")
            assert await talk(server, 0, *bad) == ["250 2.1.0 Ok", "554 5.7.1 go away", "554 5.7.1 Relay access denied"]
            assert log.named("reject")[1]["why"] == "senders: bad.test"
            assert log.named("reject")[2]["rule"] == "reject_unauth_destination"

            # Another listener, other rules.
            assert await talk(server, 1, *bad) == ["250 2.1.0 Ok", "250 2.1.5 Ok", "250 2.1.5 Ok"]

            (tmp_path / "new").write_text("other.test REJECT\n")
            (tmp_path / "new").replace(tmp_path / "senders")
            await server.guards.tables.refresh(lambda words: pytest.fail(words))
            assert (await talk(server, 0, *bad))[1] == "250 2.1.5 Ok"
        finally:
            await server.stop()

    asyncio.run(main())


def test_tables_that_cannot_be_used_keep_a_server_from_starting(settings: Settings, tmp_path: Path) -> None:
    broken = settings.model_copy(
        update={"table": {"senders": settings.table["senders"].model_copy(update={"type": "cidr"})}}
    )

    with pytest.raises(ConfigError, match=r"senders:1.*not a network"):
        broken.examine()  # what `mailflow config check` does

    async def main() -> None:
        server = Server(broken, deliver=False, log=FakeLog())
        with pytest.raises(ConfigError, match=r"senders:1.*not a network"):
            await server.start()

    asyncio.run(main())
