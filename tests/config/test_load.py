"""Loading: which source wins, and that every mistake is told with its place, key and accepted form."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mailflow.config.names import complete, search_domain
from mailflow.errors import ConfigError
from mailflow.settings import Settings

BASE = 'hostname = "mx.example.test"\n'

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str = "", environment: dict[str, str] | None = None, overrides: Sequence[str] = ()) -> Settings:
        file = tmp_path / "mailflow.toml"
        file.write_text(BASE + text)
        return Settings.load(file, environment=environment or {}, overrides=overrides)

    return load


def problems(load: Load, *arguments: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    return [f"{Path(p.file).name}:{p.line}: {p.key}: {p.message} ({p.accepted})" for p in caught.value.problems]


def test_the_documented_configuration(load: Load, tmp_path: Path) -> None:
    settings = load("""
spool = "var/spool"
[[listener]]
bind = "127.0.0.1:2525"
[relay]
networks = ["127.0.0.0/8", "[::1]/128"]
host = "[127.0.0.1]:2526"
[[route]]
match = "slow.example"
transport = "smtp"
next_hop = "[127.0.0.2]:2527"
[local]
domains = ["example.test"]
users = ["alice", "bob"]
maildir = "var/mail/{user}"
[dns]
nameservers = ["127.0.0.1:5353"]
[queue]
backoff = ["5m", "2h"]
lifetime = "5d"
[scheduler]
probe = ["1m", "30m"]
""")
    assert settings.hostname == "mx.example.test"
    assert settings.spool == tmp_path / "var/spool"
    assert settings.control_socket == tmp_path / "var/spool/control.sock"
    assert settings.local.maildir == str(tmp_path / "var/mail/{user}")
    assert [str(listener.bind) for listener in settings.listener] == ["127.0.0.1:2525"]
    assert str(settings.relay.host) == "[127.0.0.1]:2526"
    assert settings.queue.backoff == [300, 7200]
    assert settings.scheduler.probe == (60, 1800)
    assert settings.route[0].next_hop == "[127.0.0.2]:2527"
    assert settings.dns.nameservers[0].port == 5353
    assert settings.origin("route[0].match").endswith("mailflow.toml:10")
    assert settings.origin("local.users").endswith("mailflow.toml:15")
    assert settings.origin("log.format") == ""


def test_in_a_program() -> None:
    settings = Settings(hostname="app.example", spool="q", relay={"host": "[192.0.2.1]:25"}, limits={"recipients": 500})
    assert (settings.spool, settings.relay.host.port, settings.limits.recipients) == (Path("q"), 25, 500)
    assert settings.shutdown_grace == 10
    settings.verify()


class TestSources:
    def test_command_line_over_environment_over_file_over_default(self, load: Load) -> None:
        text = '[log]\nformat = "json"\nlevel = "error"\nto = "stdout"\n'
        environment = {"MAILFLOW_LOG__LEVEL": "warning", "MAILFLOW_LOG__TO": "none"}
        settings = load(text, environment, ["log.to=stderr"])
        log = settings.log
        assert (log.format, log.level, log.to, log.buffer) == ("json", "warning", "stderr", 50_000)
        assert settings.origin("log.format").endswith("mailflow.toml:3")
        assert settings.origin("log.level") == "environment variable MAILFLOW_LOG__LEVEL"
        assert settings.origin("log.to") == "command line"
        assert settings.origin("log.buffer") != "command line"

    def test_environment_reads_text_by_type(self, load: Load) -> None:
        settings = load(
            "",
            {
                "MAILFLOW_LIMITS__RECIPIENTS": "500",
                "MAILFLOW_SCHEDULER__RESERVE": "0.5",
                "MAILFLOW_CONTROL__ENABLED": "no",
                "MAILFLOW_SHUTDOWN_GRACE": "3",
                "MAILFLOW_QUEUE__LIFETIME": "1d",
                "MAILFLOW_LOCAL__USERS": "alice, 007",
                "MAILFLOW_LOCAL__DOMAINS": '["a.test", "b.test"]',
                "MAILFLOW_RELAY__NETWORKS": "10.0.0.0/8,[::1]/128",
                "MAILFLOW_RELAY__DOMAINS": "",
                "MAILFLOW_RELAY__HOST": "",
                "MAILFLOW_SCHEDULER__TRANSPORT__SMTP__SLOTS": "7",
                "MAILFLOW_SCHEDULER__TRANSPORT__LOCAL": '{"slots": 3}',
            },
        )
        assert settings.limits.recipients == 500
        assert settings.scheduler.reserve == 0.5
        assert settings.control.enabled is False
        assert settings.shutdown_grace == 3
        assert settings.queue.lifetime == 86_400
        assert settings.local.users == ["alice", "007"]
        assert settings.local.domains == ["a.test", "b.test"]
        assert [str(n) for n in settings.relay.networks] == ["10.0.0.0/8", "::1/128"]
        assert (settings.relay.domains, settings.relay.host) == ([], None)
        assert settings.scheduler.transport["smtp"].slots == 7
        assert settings.scheduler.transport["local"].slots == 3

    def test_lists_of_tables(self, load: Load) -> None:
        whole = {"MAILFLOW_LISTENER": '[{"bind": "0.0.0.0:25"}]', "MAILFLOW_LISTENER__1__BIND": "[::]:25"}
        settings = load(
            '[[listener]]\nbind = "127.0.0.1:1"\n', whole, ["listener[0].backlog=9", "listener.1.backlog=8"]
        )
        assert [(str(x.bind), x.backlog) for x in settings.listener] == [("0.0.0.0:25", 9), ("[::]:25", 8)]
        assert settings.origin("listener[0].bind") == "environment variable MAILFLOW_LISTENER"

    def test_one_element_of_the_file_changed(self, load: Load) -> None:
        settings = load('[[listener]]\nbind = "127.0.0.1:1"\n', {"MAILFLOW_LISTENER__0__BIND": "127.0.0.1:2"})
        assert settings.listener[0].bind.port == 2

    def test_secrets_from_files(self, load: Load, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("[192.0.2.9]:587\n")
        settings = load("", {"MAILFLOW_RELAY__HOST_FILE": str(secret)})
        assert str(settings.relay.host) == "[192.0.2.9]:587"
        assert settings.origin("relay.host") == "environment variable MAILFLOW_RELAY__HOST_FILE"
        missing = {"MAILFLOW_RELAY__HOST_FILE": str(tmp_path / "missing")}
        assert "cannot be read: No such file or directory" in problems(load, "", missing)[0]
        twice = {"MAILFLOW_RELAY__HOST_FILE": str(secret), "MAILFLOW_RELAY__HOST": "x:1"}
        assert "given twice" in problems(load, "", twice)[0]

    def test_other_variables_do_not_matter(self, load: Load) -> None:
        load("", {"MAILFLOW_CONFIG": "x", "MAILFLOWX": "y", "PATH": "z"})

    def test_the_process_environment_is_the_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAILFLOW_HOSTNAME", "env.example.test")
        assert Settings.load(None).hostname == "env.example.test"


class TestMistakes:
    def test_all_are_told_at_once_in_the_order_of_the_file(self, load: Load) -> None:
        text = 'hostnam = "mx"\nspool = 5\n[relay]\nhots = "x"\nnetworks = [\n"127.0.0.0/8",\n"nope"]\n[[listener]]\nbind = "::1"\n'
        found = problems(load, text, {"MAILFLOW_QUEUE__LIFETIM": "x"}, ["limits.errors=0"])
        assert [line.split(" (")[0] for line in found] == [
            "mailflow.toml:2: hostnam: unknown key, did you mean hostname?",
            "mailflow.toml:3: spool: 5 has the wrong type",
            "mailflow.toml:5: relay.hots: unknown key, did you mean host?",
            "mailflow.toml:8: relay.networks[1]: not a network",
            "mailflow.toml:10: listener[0].bind: not a host and port",
            "environment variable MAILFLOW_QUEUE__LIFETIM:0: : no such setting, did you mean MAILFLOW_QUEUE__LIFETIME?",
            "command line:0: limits.errors: 0 is out of range",
        ]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (
                "[limits]\nrecipients = true",
                "3: limits.recipients: true has the wrong type (a whole number, such as 10)",
            ),
            ('[limits]\nrecipients = "5"', '3: limits.recipients: "5" has the wrong type (a whole number, such as 10)'),
            ("[limits]\nrecipients = 5.5", "3: limits.recipients: 5.5 has the wrong type (a whole number, such as 10)"),
            ("[limits]\nrecipients = 5", "3: limits.recipients: 5 is out of range (100 or more)"),
            ("limits = 5", "2: limits: 5 has the wrong type (a table)"),
            ("listener = 5", '2: listener: 5 has the wrong type (a list, such as ["one", "two"])'),
            ("[[listener]]", "2: listener[0].bind: is required ()"),
            ('listener = [{ bind = "a:1", typo = 1 }]', "2: listener[0].typo: unknown key ()"),
            ('[log]\nformat = "xml"', '3: log.format: "xml" is not one of the choices ("text" or "json")'),
            ("shutdown_grace = true", "2: shutdown_grace: not a duration"),
            ('shutdown_grace = "-5s"', "2: shutdown_grace: not a duration"),
            ("shutdown_grace = 1979-05-27", "2: shutdown_grace: not a duration"),
            ('[limits]\nmessage_size = "25 megs"', "3: limits.message_size: not a size"),
            ('[control]\nenabled = "yes"', '3: control.enabled: "yes" has the wrong type (true or false)'),
            (
                "[scheduler.transport.smtp]\nslot = 1",
                "3: scheduler.transport.smtp.slot: unknown key, did you mean slots? ()",
            ),
            ('[dns]\nnameservers = ["ns.example"]', "3: dns.nameservers[0]: a name server is given by its address"),
            ('[queue]\nbackoff = ["2h"]', "3: queue.backoff: not two waits"),
            ("message_size = 1", "2: message_size: unknown key, did you mean limits.message_size? ()"),
            ('[[route]]\nmatch = "a b"', "3: route[0].match: not a pattern"),
            ('[[route]]\nmatch = "a"\ntransport = "uucp"', '4: route[0].transport: "uucp" is not one of the choices'),
            ('domain = "not a name"', '2: domain: "not a name" is not a host name'),
            ('[log]\nto = ""', "3: log.to: is empty (any text)"),
            ("nonsense", "2: : Expected '=' after a key in a key/value pair ()"),
            ('hostname = "again.example"', "2: : the same key or table is given twice ()"),
            ("[a]\n[a]", "3: : the same key or table is given twice ()"),
            ('x = "open', "2: : "),
        ],
    )
    def test_each_names_line_key_and_accepted_form(self, load: Load, text: str, problem: str) -> None:
        found = problems(load, text)
        assert len(found) == 1
        assert found[0].startswith(f"mailflow.toml:{problem}")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (
                '[[listener]]\nbind = "127.0.0.1:25"\n[[listener]]\nbind = "0.0.0.0:25"',
                "5: listener[1].bind: 0.0.0.0:25 is taken already",
            ),
            (
                '[[listener]]\nbind = "[::1]:25"\n[[listener]]\nbind = "[::1]:25"',
                "5: listener[1].bind: [::1]:25 is taken already",
            ),
            ('[local]\nusers = ["a", "b"]\nmaildir = "mail"', "4: local.maildir: all users would share one Maildir"),
            ('[local]\nusers = ["a", "../b"]', '3: local.users[1]: "../b" cannot be the name of a mailbox'),
            ('[local]\nusers = [\n"a",\n"b/c"]', '5: local.users[1]: "b/c" cannot be the name of a mailbox'),
            ('[local]\nusers = ["a"]\npostmaster = "x"', '4: local.postmaster: "x" is not in local.users (one of "a")'),
            ('[local]\ndomains = ["exam ple"]', '3: local.domains[0]: "exam ple" is not a domain'),
            ('spool = "mailflow.toml/spool"', "2: spool: "),
            ('[log]\nto = "missing/mail.log"', "3: log.to: the directory "),
            (f'[control]\nsocket = "{"x" * 120}"', "3: control.socket: the path of the socket is too long"),
        ],
    )
    def test_values_that_do_not_fit_together(self, load: Load, text: str, problem: str) -> None:
        found = problems(load, text)
        assert len(found) == 1
        assert found[0].startswith(f"mailflow.toml:{problem}")

    def test_ports_that_do_not_collide(self, load: Load) -> None:
        binds = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:25", "127.0.0.2:25", "[::]:25"]
        load("".join(f'[[listener]]\nbind = "{bind}"\n' for bind in binds))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_directory_without_rights(self, load: Load, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        assert "not writable" in problems(load, f'spool = "{closed}/spool"')[0]

    @pytest.mark.parametrize(
        ("variable", "value", "problem"),
        [
            ("MAILFLOW_NOTHING", "x", "no such setting"),
            ("MAILFLOW_LISTENER", "127.0.0.1:25", "cannot be read"),
            ("MAILFLOW_LISTENER", "[", "cannot be read"),
            ("MAILFLOW_LISTENER__7__BIND", "a:1", "does not fit what is set already"),
            ("MAILFLOW_LIMITS", "x", "cannot be read"),
            ("MAILFLOW_LIMITS__RECIPIENTS", "many", '"many" has the wrong type'),
            ("MAILFLOW_CONTROL__ENABLED", "maybe", '"maybe" has the wrong type'),
            ("MAILFLOW_RELAY__HOST", "a b", "not a host and port"),
            ("MAILFLOW_", "x", "no such setting"),
            ("MAILFLOW_HOSTNAME__X", "x", "no such setting"),
        ],
    )
    def test_variables(self, load: Load, variable: str, value: str, problem: str) -> None:
        found = problems(load, "", {variable: value})
        assert len(found) == 1
        assert found[0].startswith(f"environment variable {variable}:0:")
        assert problem in found[0]

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("log.formt=x", "no such setting, did you mean format?"),
            ("log.format", "no value given"),
            ("log.format=xml", '"xml" is not one of the choices'),
            ("=x", "no such setting"),
            ("log=5", "5 has the wrong type (a table)"),
        ],
    )
    def test_command_line(self, load: Load, override: str, problem: str) -> None:
        found = problems(load, "", {}, [override])
        assert len(found) == 1
        assert found[0].startswith("command line:0:")
        assert problem in found[0]

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        file = tmp_path / "mailflow.toml"
        for prepare, problem in (
            (lambda: None, "No such file or directory"),
            (lambda: file.write_bytes(b'a = 1\nb = "\xff"\n'), "is not UTF-8 text"),
            (lambda: file.write_bytes(b"#" * (5 << 20)), "is larger than 4 MiB"),
        ):
            prepare()
            with pytest.raises(ConfigError, match=problem):
                Settings.load(file, environment={})
        with pytest.raises(ConfigError, match="Is a directory"):
            Settings.load(tmp_path, environment={})


@pytest.mark.wish(6)
class TestHostname:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (("mx.example.org", "x.test", "m", "s"), ("mx.example.org", "")),
            (("mx", "example.org", "m", "s"), ("mx.example.org", "completed with domain")),
            (
                ("mx", "", "m", "search.test"),
                ("mx.search.test", "completed with the search domain in /etc/resolv.conf"),
            ),
            (("mx", "", "m", ""), ("mx", "")),
            (("", "", "host.example.org", ""), ("host.example.org", "the machine's name")),
            (("", "example.org", "host", ""), ("host.example.org", "the machine's name, completed with domain")),
            (("", "", "", ""), ("", "the machine's name")),
        ],
    )
    def test_a_short_name_is_completed(self, given: tuple[str, str, str, str], expected: tuple[str, str]) -> None:
        assert complete(*given) == expected

    def test_in_a_configuration(self, tmp_path: Path) -> None:
        file = tmp_path / "c.toml"
        file.write_text('hostname = "MX"\ndomain = "example.org"\n')
        settings = Settings.load(file, environment={})
        assert settings.hostname == "mx.example.org"
        assert settings.origin("hostname") == f"{file}:1, completed with domain"

    def test_the_search_domain(self, tmp_path: Path) -> None:
        file = tmp_path / "resolv.conf"
        assert search_domain(file) == ""
        file.write_text("nameserver 192.0.2.1\ndomain first.test\nsearch one.test. two.test\n")
        assert search_domain(file) == "one.test"

    @pytest.mark.parametrize("name", ["-mx.test", "mx..test", "mx_1.test", "[192.0.2.1]", "m x.test", "ä.test"])
    def test_names_that_are_none(self, name: str) -> None:
        with pytest.raises(ValueError, match="not a host name"):
            Settings(hostname=name)
