"""The command line without a server: exit codes, words, and that nothing ends in a traceback."""

import io
import json
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailflow.cli.app import run
from mailflow.cli.listing import format_bytes, message_fields, message_lines, printable
from mailflow.envelope import HELD, Peer
from mailflow.store.values import QueuedMessage, QueuedRecipient
from tests.support.form import COMPILED
from tests.support.server import environment

CONFIG = """\
hostname = "mx.example.test"
spool = "spool"
[relay]
host = "[127.0.0.1]:1"
[[route]]
match = "partner.example"
next_hop = "[127.0.0.2]:25"
[local]
domains = ["example.test"]
users = ["alice", "bob"]
maildir = "mail/{user}"
[control]
socket = "c.sock"
"""


class Result(SimpleNamespace):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


Mailflow = Callable[..., Result]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "mailflow.toml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def mailflow(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mailflow]:
    """Runs a command line in this process, in an empty directory, with MAILFLOW_CONFIG set."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("MAILFLOW_CONFIG", str(config))

    def call(*words: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        code = run(words)
        captured = capfd.readouterr()
        return Result(code=code, out=captured.out, err=captured.err)

    return call


def send(mailflow: Mailflow, *recipients: str, subject: str = "hello") -> str:
    result = mailflow("send", "-f", "me@example.test", *recipients, stdin=f"Subject: {subject}\n\nHello.\n".encode())
    assert (result.code, result.err) == (0, "")
    return str(result.out.strip())


@pytest.mark.wish(84)
def test_version_and_no_configuration_is_needed(mailflow: Mailflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILFLOW_CONFIG", "/nonexistent")
    version = mailflow("version")
    assert version.code == 0
    assert version.out.startswith("mailflow ")
    assert mailflow("--version").out == version.out
    assert mailflow("config", "get", "version").out == version.out.removeprefix("mailflow ")


def test_version_tells_the_form(mailflow: Mailflow) -> None:
    lines = mailflow("version", "-v").out.splitlines()
    assert lines[1] == ("form compiled" if COMPILED else "form interpreted")


def test_a_quick_start() -> None:
    def seconds() -> float:
        """Of processor time: tests share the machine."""
        begun = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        subprocess.run(
            [sys.executable, "-m", "mailflow", "version"], env=environment(), check=True, capture_output=True
        )
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - begun

    assert min(seconds() for _ in range(5)) < 0.35  # 0.13 s on a quiet machine
    loaded = "import sys, mailflow.cli.app, mailflow.cli.version; print({'pydantic', 'aiohttp', 'asyncio'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", loaded], env=environment(), check=True, capture_output=True, text=True
    )
    assert result.stdout == "set()\n"


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "Usage: mailflow"),
            (["statu"], "did you mean 'status'?"),
            (["queue"], "Usage: mailflow queue"),
            (["queue", "hold"], "give either queue ids or --all"),
            (["queue", "delete", "--all", "--sender", "x"], "give either queue ids or --all"),
            (["queue", "flush", "--all", "--sender", "x"], "--all goes with nothing else"),
            (["queue", "list", "--older", "yesterday"], "not a duration"),
            (["queue", "list", "--larger", "much"], "not a size"),
            (["queue", "count", "--by", "weather"], "--by"),
            (["queue", "hold", "--all", "1js8he3dc00"], "give either queue ids or --all"),
            (["queue", "delete", "nonsense"], "not a queue id: 'nonsense'"),
            (["queue", "show"], "Missing argument"),
            (["queue", "list", "--nonsense"], "No such option"),
            (["send"], "no recipients"),
            (["resolve"], "Missing argument"),
            (["config", "get", "relay.hots"], "relay.hots: no such setting, did you mean host?"),
            (
                ["config", "check", "--config", "/nonexistent"],
                "/nonexistent: cannot be read: No such file or directory",
            ),
            (["config", "check", "--set", "log.formt=x"], "log.formt: no such setting, did you mean format?"),
            (["serve", "--set", "spool=/dev/null/x"], "/dev/null is not a directory"),
        ],
    )
    def test_wrong_usage_and_configuration_is_2(self, mailflow: Mailflow, words: list[str], message: str) -> None:
        result = mailflow(*words)
        assert result.code == 2
        assert message in result.err
        assert result.out == ""

    @pytest.mark.parametrize(
        "words", [["--help"], ["queue", "--help"], ["queue", "hold", "-h"], ["serve", "-h"], ["send", "-h"]]
    )
    def test_help(self, mailflow: Mailflow, words: list[str]) -> None:
        result = mailflow(*words)
        assert (result.code, result.err) == (0, "")
        assert "Usage: mailflow" in result.out

    def test_config_before_and_after_the_words(self, mailflow: Mailflow, tmp_path: Path) -> None:
        other = tmp_path / "other.toml"
        other.write_text('hostname = "other.example.test"\n')
        for words in (
            ["--config", str(other), "config", "get", "hostname"],
            ["config", "--config", str(other), "get", "hostname"],
            ["config", "get", "hostname", "--config", str(other)],
            ["config", "get", "--set", "hostname=other.example.test", "hostname"],
        ):
            assert mailflow(*words).out == "other.example.test\n"

    def test_the_file_in_the_working_directory(self, mailflow: Mailflow, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MAILFLOW_CONFIG")
        Path("mailflow.toml").write_text('hostname = "here.example.test"\n')
        assert mailflow("config", "get", "hostname").out == "here.example.test\n"

    def test_an_internal_error_has_words_and_v_shows_more(
        self, mailflow: Mailflow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", None)
        broken = run(["send", "a@example.test"])
        assert broken == 70


@pytest.mark.wish(3)
class TestConfig:
    def test_check(self, mailflow: Mailflow, config: Path) -> None:
        result = mailflow("config", "check")
        assert result.code == 0
        assert f"{config}: configuration is good" in result.err
        assert f"host name is mx.example.test ({config}:1)" in result.err
        assert mailflow("-q", "config", "check").err == ""

    def test_every_mistake_is_a_line(self, mailflow: Mailflow, config: Path) -> None:
        config.write_text("hostname = 5\nspol = 1\n[log]\nlevel = 'loud'\n")
        result = mailflow("config", "check")
        assert result.code == 2
        assert [line.split(": ")[1:3] for line in result.err.splitlines()] == [
            [f"{config}:1", "hostname"],
            [f"{config}:2", "spol"],
            [f"{config}:4", "log.level"],
        ]

    def test_show_another_file(self, mailflow: Mailflow, tmp_path: Path) -> None:
        other = tmp_path / "other.toml"
        other.write_text('hostname = "other.example.test"\n[log]\nlevel = "info"\n')
        result = mailflow("config", "show", "--file", str(other), "--diff")
        assert result.out == f'hostname = "other.example.test"  # {other}:1\n'
        assert 'level = "info"' in mailflow("config", "show", "--file", str(other)).out

    def test_show_json(self, mailflow: Mailflow, config: Path) -> None:
        rows = {str(row["key"]): row for row in mailflow("config", "show", "--json").rows}
        assert rows["relay.host"] == {
            "key": "relay.host",
            "value": "[127.0.0.1]:1",
            "default": None,
            "source": f"{config}:4",
        }
        assert rows["log.level"]["source"] == ""
        assert len(mailflow("config", "show", "--json", "--diff").rows) == 9

    def test_get(self, mailflow: Mailflow) -> None:
        assert mailflow("config", "get", "local.users").out == '["alice", "bob"]\n'
        assert mailflow("config", "get", "route[0].match").out == "partner.example\n"
        assert mailflow("config", "get", "queue.lifetime").out == "5d\n"
        assert mailflow("config", "get", "smtp.helo").out == "\n"

    def test_schema_and_reference(self, mailflow: Mailflow) -> None:
        schema = json.loads(mailflow("config", "schema").out)
        assert schema["properties"]["hostname"]["type"] == "string"
        assert schema["additionalProperties"] is False
        assert schema["properties"]["spool"]["description"].startswith("The directory of the queue")
        assert schema["$defs"]["QueueSettings"]["properties"]["reserve"]["description"].count("\n") == 1
        assert "## `[limits]`" in mailflow("config", "reference").out


class TestResolve:
    def test_json(self, mailflow: Mailflow, config: Path) -> None:
        result = mailflow("resolve", "--json", "alice@example.test", "x@partner.example", "y@far.example")
        assert result.code == 0
        assert [(r["transport"], r["next_hop"], r["recipient"]) for r in result.rows] == [
            ("local", "alice", "alice@example.test"),
            ("smtp", "[127.0.0.2]:25", "x@partner.example"),
            ("smtp", "[127.0.0.1]:1", "y@far.example"),
        ]
        assert [str(r["why"]).rpartition(", ")[2] for r in result.rows] == [f"{config}:{n}" for n in (9, 6, 4)]

    def test_words_and_refusal(self, mailflow: Mailflow) -> None:
        result = mailflow("resolve", "alice@example.test", "nobody@example.test")
        assert result.code == 1
        assert result.out.splitlines()[:3] == ["alice@example.test", "  kind       local", "  transport  local"]
        assert "  reply      550 5.1.1 No such user" in result.out


@pytest.mark.wish(51)
class TestQueueWithoutServer:
    def test_no_queue_at_all(self, mailflow: Mailflow) -> None:
        for words in (["list"], ["list", "--json"], ["hold", "--all"], ["show", "1js8he3dc00"], ["flush"]):
            result = mailflow("queue", *words)
            assert result.code == 1
            assert "there is no queue here" in result.err

    def test_listing(self, mailflow: Mailflow) -> None:
        first, second = send(mailflow, "alice@example.test", "x@far.example"), send(mailflow, "bob@example.test")
        rows = mailflow("queue", "list", "--json").rows
        assert [row["id"] for row in rows] == [first, second]
        assert rows[0]["sender"] == "me@example.test"
        assert rows[0]["remaining"] == 2
        assert abs(float(str(rows[0]["arrived"])) - time.time()) < 60
        recipients = rows[0]["recipients"]
        assert isinstance(recipients, list)
        assert [(r["address"], r["destination"], r["state"], r["attempts"]) for r in recipients] == [
            ("alice@example.test", "local:alice", "queued", 0),
            ("x@far.example", "smtp:[127.0.0.1]:1", "queued", 0),
        ]
        lines = mailflow("queue", "list").out.splitlines()
        assert lines[0].startswith(first)
        assert lines[1] == "    queued    alice@example.test"
        assert lines[-1].startswith("-- 2 messages, 3 recipients, ")
        assert len(mailflow("queue", "list", "--json", "--limit", "1").rows) == 1

    def test_a_mistake_elsewhere_does_not_hide_the_queue(self, mailflow: Mailflow, config: Path) -> None:
        number = send(mailflow, "alice@example.test")
        config.write_text(CONFIG + "[limits]\nrecipient = 5\n")
        assert mailflow("queue", "list", "--json").rows[0]["id"] == number
        assert mailflow("queue", "show", number).code == 0
        assert mailflow("queue", "count").out.startswith("1 message, 1 recipient")
        assert mailflow("queue", "check").out == "The queue is whole\n"
        for words in (["queue", "delete", number], ["queue", "list", "--destination", "far.example"], ["status"]):
            result = mailflow(*words)  # without a server, and for where mail goes, the whole configuration counts
            assert (result.code, result.out) == (2, "")
            assert ".toml:15: limits.recipient: unknown key, did you mean recipients?" in result.err

    @pytest.mark.parametrize(
        ("text", "words", "message"),
        [
            ('spol = "spool"\n', [], ".toml:1: spol: unknown key, did you mean spool?"),
            ("spool = 5\n", [], ".toml:1: spool: 5 has the wrong type (accepted: a path in quotes"),
            ("spool =\n", [], ".toml:1: Invalid value"),
            ('spool = "/dev/null/x"\n', [], ".toml:1: spool: /dev/null is not a directory"),
            ('spool = "spool"\n[control]\nsocket = 5\n', [], ".toml:3: control.socket: 5 has the wrong type"),
            ('spool = "spool"\n', ["--set", "spol=x"], "command line: spol: no such setting, did you mean spool?"),
            ('spool = "spool"\n', ["--set", "log.level=loud"], 'command line: log.level: "loud" is not one of'),
        ],
    )
    def test_a_mistake_about_the_queue_is_told(
        self, mailflow: Mailflow, config: Path, text: str, words: list[str], message: str
    ) -> None:
        send(mailflow, "alice@example.test")
        config.write_text(text)
        for command in ("list", "count"):
            result = mailflow("queue", command, *words)
            assert (result.code, result.out) == (2, "")
            assert message in result.err

    def test_show(self, mailflow: Mailflow) -> None:
        number = send(mailflow, "alice@example.test", subject="greetings")
        assert mailflow("queue", "show", number.upper(), "--json").rows[0]["id"] == number
        assert "by local:alice, 0 attempts" in mailflow("queue", "show", number).out
        content = mailflow("queue", "show", number, "--content").out
        assert "Subject: greetings\n\nHello.\n" in content.replace("\r\n", "\n")
        missing = mailflow("queue", "show", "1js8he3dc00")
        assert (missing.code, missing.err) == (1, "mailflow: 1js8he3dc00: not in the queue\n")

    def test_hold_release_delete(self, mailflow: Mailflow) -> None:
        first, second = send(mailflow, "alice@example.test"), send(mailflow, "bob@example.test")
        assert mailflow("queue", "hold", first).out == f"{first}  on hold\n"
        row = mailflow("queue", "list", "--json").rows[0]["recipients"]
        assert isinstance(row, list)
        assert (row[0]["state"], row[0]["due"]) == ("held", None)
        assert mailflow("queue", "release", "--all", "--json").rows == [{"id": first, "recipients": 1}]
        gone = mailflow("queue", "delete", second, "1js8he3dc00")
        assert (gone.code, gone.out) == (1, f"{second}  deleted\n")
        assert gone.err == "mailflow: 1js8he3dc00: not in the queue, or nothing to delete\n"
        assert mailflow("queue", "delete", "--all").code == 0
        empty = mailflow("queue", "list")
        assert (empty.code, empty.out) == (0, "Mail queue is empty\n")
        assert mailflow("queue", "list", "--json").out == ""

    def test_flush(self, mailflow: Mailflow) -> None:
        send(mailflow, "x@far.example")
        result = mailflow("queue", "flush", "--json")
        assert (result.code, set(result.rows[0])) == (0, {"messages", "recipients"})
        assert "for smtp:[127.0.0.2]:25 now due" in mailflow("queue", "flush", "partner.example").out
        assert "for local:alice now due" in mailflow("queue", "flush", "local:alice").out


@pytest.mark.wish(51)
class TestQueueConditions:
    """What the conditions find is tested in tests/queue; here: that the words reach them, and what is said."""

    def test_list_shows_what_delete_would_change(self, mailflow: Mailflow) -> None:
        send(mailflow, "alice@example.test", "x@far.example", "y@far.example")
        send(mailflow, "bob@example.test")
        [row] = mailflow("queue", "list", "--recipient", "*@FAR.example", "--json").rows
        assert isinstance(row["recipients"], list)
        assert [r["address"] for r in row["recipients"]] == ["x@far.example", "y@far.example"]
        listed = mailflow("queue", "list", "--recipient", "*@far.example").out.splitlines()
        assert listed[-1].startswith("-- 1 message, 2 recipients, ")
        deleted = mailflow("queue", "delete", "--recipient", "*@far.example")
        assert (deleted.code, deleted.out) == (0, "2 recipients in 1 message deleted\n")
        again = mailflow("queue", "delete", "--recipient", "*@far.example")
        assert (again.code, again.out) == (0, "0 recipients in 0 messages deleted\n")
        assert mailflow("queue", "list", "--recipient", "*@far.example").out == "No such mail in the queue\n"
        assert len(mailflow("queue", "list", "--json").rows) == 2

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            (["--sender", "me@*"], 2),
            (["--sender", "<>"], 0),
            (["--older", "1h"], 0),
            (["--newer", "1h"], 2),
            (["--larger", "1KiB"], 0),
            (["--smaller", "1KiB", "--state", "due"], 2),
            (["--client", "local"], 2),
            (["--reason", "refused"], 0),
            (["--destination", "local:alice"], 1),
            (["--next-hop", "partner.example"], 1),
            (["--destination", "smtp:*"], 1),
            (["--destination", "al*"], 1),
        ],
    )
    def test_every_option(self, mailflow: Mailflow, words: list[str], found: int) -> None:
        send(mailflow, "alice@example.test")
        send(mailflow, "x@partner.example")
        assert len(mailflow("queue", "list", "--json", *words).rows) == found
        assert mailflow("queue", "count", "--json", *words).rows[0]["messages"] == found
        if "--state" not in words:
            assert len(mailflow("queue", "hold", "--json", *words).rows) == found
            assert len(mailflow("queue", "release", "--json", *words, "--limit", "1").rows) == min(1, found)

    def test_a_domain_behind_a_relay_for_many_means_only_its_own_mail(self, mailflow: Mailflow) -> None:
        send(mailflow, "x@far.example")
        send(mailflow, "y@other.example")  # both go to relay.host
        [row] = mailflow("queue", "list", "--destination", "far.example", "--json").rows
        assert isinstance(row["recipients"], list)
        assert [r["address"] for r in row["recipients"]] == ["x@far.example"]

    def test_count(self, mailflow: Mailflow) -> None:
        assert mailflow("queue", "count").code == 1  # there is no queue
        first = send(mailflow, "alice@example.test", "x@far.example")
        send(mailflow, "y@far.example")
        mailflow("queue", "hold", first)
        assert mailflow("queue", "count").out == "2 messages, 3 recipients: 1 queued, 0 deferred, 2 held\n"
        rows = mailflow("queue", "count", "--by", "recipient-domain", "--json").rows
        assert [(r["recipient-domain"], r["messages"], r["recipients"]) for r in rows] == [
            ("far.example", 2, 2),
            ("example.test", 1, 1),
        ]
        lines = mailflow("queue", "count", "--by", "state", "--limit", "1").out.splitlines()
        assert lines[0].split() == ["recipients", "messages", "oldest", "state"]
        assert [line.split()[:2] + line.split()[3:] for line in lines[1:]] == [["2", "1", "held"]]

    def test_flush_by_id_and_condition(self, mailflow: Mailflow) -> None:
        number = send(mailflow, "x@far.example", "y@partner.example")
        assert mailflow("queue", "flush", "--id", number).out == "2 recipients in 1 message now due\n"
        assert mailflow("queue", "flush", "--recipient", "y@*").out == "1 recipient in 1 message now due\n"
        assert mailflow("queue", "flush", "--sender", "x").out == "0 recipients in 0 messages now due\n"


@pytest.mark.wish(82)
class TestQueueCare:
    def test_a_whole_queue(self, mailflow: Mailflow) -> None:
        send(mailflow, "alice@example.test")
        for words in (["check"], ["check", "--full"], ["check", "--repair"]):
            result = mailflow("queue", *words)
            assert (result.code, result.out, result.err) == (0, "The queue is whole\n", "")
        assert mailflow("queue", "check", "--json").out == ""

    def test_damage_is_said_mended_and_waits_for_the_operator(self, mailflow: Mailflow, tmp_path: Path) -> None:
        first, second = send(mailflow, "alice@example.test"), send(mailflow, "bob@example.test")
        with sqlite3.connect(tmp_path / "spool" / "queue.db") as db:
            db.execute("UPDATE content SET data = x'00' WHERE id = (SELECT min(id) FROM message)")
            db.execute("UPDATE message SET remaining = 5 WHERE id = (SELECT max(id) FROM message)")
        db.close()
        found = mailflow("queue", "check")
        assert found.code == 1
        assert f"message {first}: its content does not match its checksum" in found.out
        assert f"message {second}: says that 5 of its recipients are left, and has 1" in found.out
        assert found.out.endswith("-- 2 findings\n")
        mended = mailflow("queue", "check", "--repair")
        assert (mended.code, mended.out.splitlines()[-1]) == (1, "-- 2 findings, 1 mended")
        rows = mailflow("queue", "check", "--json").rows
        assert [(r["kind"], r["id"]) for r in rows] == [("quarantined", first)]
        assert mailflow("queue", "list", "--state", "held", "--json").rows[0]["id"] == first
        assert mailflow("queue", "delete", first).code == 0
        assert mailflow("queue", "check").code == 0
        assert (tmp_path / "spool" / "damaged" / f"{first}.eml").read_bytes() == b"\0"

    def test_what_cannot_be_checked_is_2(self, mailflow: Mailflow, tmp_path: Path) -> None:
        for words in (["check"], ["check", "--repair"]):
            result = mailflow("queue", *words)
            assert (result.code, result.out) == (2, "")
            assert "cannot check the queue: " in result.err
        assert mailflow("queue", "compact").code == 1

    def test_compact(self, mailflow: Mailflow) -> None:
        send(mailflow, "alice@example.test")
        result = mailflow("queue", "compact", "--json")
        assert (result.code, set(result.rows[0])) == (0, {"bytes"})
        assert mailflow("queue", "compact").out.endswith(" given back to the disk\n")


class TestSend:
    def test_recipients_from_the_header_and_no_bcc(self, mailflow: Mailflow) -> None:
        text = (
            b"From: Me <me@example.test>\nTo: alice@example.test\nBcc: x@far.example,\n bob@example.test\n\nBcc: body\n"
        )
        result = mailflow("send", "-t", stdin=text)
        row = mailflow("queue", "list", "--json").rows[0]
        assert isinstance(row["recipients"], list)
        assert {r["address"] for r in row["recipients"]} == {"alice@example.test", "x@far.example", "bob@example.test"}
        assert row["sender"] == "me@example.test"
        content = mailflow("queue", "show", result.out.strip(), "--content").out
        assert "x@far.example" not in content
        assert "Bcc: body" in content

    @pytest.mark.parametrize("sender", ["", "<>"])
    def test_the_null_sender(self, mailflow: Mailflow, sender: str) -> None:
        mailflow("send", "-f", sender, "alice@example.test", stdin=b"Subject: x\n\nx\n")
        assert mailflow("queue", "list", "--json").rows[0]["sender"] == ""

    def test_the_sender_is_the_user_when_nothing_says_it(self, mailflow: Mailflow) -> None:
        mailflow("send", "alice@example.test", stdin=b"Subject: x\n\nx\n")
        assert str(mailflow("queue", "list", "--json").rows[0]["sender"]).endswith("@mx.example.test")

    def test_quiet(self, mailflow: Mailflow) -> None:
        assert mailflow("-q", "send", "alice@example.test", stdin=b"x\n").out == ""

    def test_a_refused_recipient_and_nothing_is_queued(self, mailflow: Mailflow) -> None:
        result = mailflow("send", "alice@example.test", "nobody@example.test", stdin=b"x\n")
        assert result.code == 1
        assert "550 5.1.1" in result.err
        assert mailflow("queue", "list").out == "Mail queue is empty\n"

    def test_too_large(self, mailflow: Mailflow) -> None:
        result = mailflow("send", "alice@example.test", "--set", "limits.message_size=1024", stdin=b"x" * 2000)
        assert (result.code, "larger than limits.message_size" in result.err) == (1, True)

    def test_no_recipients_in_the_header(self, mailflow: Mailflow) -> None:
        assert mailflow("send", "-t", stdin=b"Subject: x\n\n").code == 2


def test_status_without_server(mailflow: Mailflow) -> None:
    result = mailflow("status")
    assert (result.code, result.out) == (1, "")
    assert "no server listens on" in result.err
    assert "control.enabled = false" in mailflow("status", "--set", "control.enabled=false").err


def test_a_reader_that_goes_away_is_no_error(config: Path) -> None:
    command = f'"{sys.executable}" -m mailflow config show --config "{config}" | true'
    result = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True)
    assert result.stderr == ""


class TestListing:
    message = QueuedMessage(
        id=1 << 50,
        queue_id="10000000000",
        sender="",
        size=1536,
        arrived=1e9,
        peer=Peer("192.0.2.1", 1, "", "evil\x1b[2J", "ESMTP"),
        remaining=5,
        recipients=(
            QueuedRecipient(0, "a@b.test", "smtp:b.test", "x@y.test", "deferred", 1e9, 1, "host said \x1b]0;owned\x07"),
            QueuedRecipient(1, "c@b.test", "smtp:b.test", "", "held", HELD, 2, ""),
        ),
    )

    def test_no_control_characters_reach_the_terminal(self) -> None:
        lines = message_lines(self.message, details=True)
        assert all(line.isprintable() for line in lines)
        assert any("owned" in line for line in lines)
        assert lines[-1] == "    and 3 more recipients"

    def test_fields(self) -> None:
        fields = message_fields(self.message)
        assert fields["recipients"][1]["due"] is None
        assert json.loads(json.dumps(fields)) == fields

    def test_sizes(self) -> None:
        assert [format_bytes(n) for n in (0, 1023, 1536, 5 << 20, 3 << 60)] == [
            "0 B",
            "1023 B",
            "1.5 KiB",
            "5.0 MiB",
            "3145728.0 TiB",
        ]
        assert printable("a\u202eb") == "a\ufffdb"
