"""The operator at night: whatever is mistyped, words that name file, line, key and what would be accepted; never a traceback."""

from __future__ import annotations

import os
import re

import pytest

from mailflow.cli.app import run

HEAD = 'hostname = "mx.here.test"\n[control]\nenabled = false\n'
ARRAYS = {
    "listener": 'bind = "127.0.0.1:0"\n',
    "dnsbl.list": 'zone = "x.test"\n',
    "policy_service": 'address = "inet:127.0.0.1:1"\n',
    "policy_hook": 'call = "os:getcwd"\n',
    "tls.certificate": "",
    "policy.rcpt": "",
}


@pytest.fixture
def say(tmp_path, monkeypatch, capsys):
    """Writes a configuration and runs a command with it; gives the exit code and what was said."""
    monkeypatch.chdir(tmp_path)

    def said(text: str, *words: str) -> tuple[int, str]:
        (tmp_path / "m.toml").write_text(HEAD + text)
        code = run([*(words or ("config", "check")), "--config", "m.toml"])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "internal error" not in err
        return code, err or out

    return said


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('[[tls.certificate]]\nchain = "no"', "m.toml:5: tls.certificate[0].chain: ", "No such file"),
        ('[[tls.certificate]]\nchain = "."', "m.toml:5: tls.certificate[0].chain: ", "Is a directory"),
        ('[[listener]]\nbind = "127.0.0.1:0"\nhostname = "a b"', "m.toml:6: listener[0].hostname: ", "not a host name"),
        (
            '[[listener]]\nbind = "127.0.0.1:0"\nhostname = "a\\r\\n220 b"',
            "m.toml:6: listener[0].hostname: ",
            "host name",
        ),
        ('[auth.sql]\ndatabase = "no.db"', "m.toml:5: auth.sql.database: ", "there is no file"),
        ('[auth]\nfile = "no"', "m.toml:5: auth.file: ", "mailflow user add"),
        ('[auth]\nsender_login_tables = ["no"]', "m.toml:5: auth.sender_login_tables[0]: ", "no [table.no]"),
        ('[[policy_hook]]\ncall = "nowhere_at_all:f"', "m.toml:5: policy_hook[0].call: ", "cannot be imported"),
        ('[[policy_hook]]\ncall = "os:nothing"', "m.toml:5: policy_hook[0].call: ", "no function nothing"),
        ('[table.x]\ntype = "regexp"\nentries = { "(a+)+" = "OK" }', "m.toml:4: table.x: ", "repetition"),
        ('[table.x]\ntype = "cidr"\nentries = { "10.0.0.0/33" = "OK" }', "m.toml:4: table.x: ", "10.0.0.0/33"),
        ('[policy]\nrcpt = ["reject_unknwon_sender_domain"]', "m.toml:5: policy.rcpt[0].check: ", "no check"),
        ('[greylist]\nuse = "always"\ndelay = "2h"\nretry_window = "1h"', "m.toml:4: greylist: ", "shorter than"),
    ],
)
def test_a_mistake_is_told_with_its_place(say, text, place, words):
    code, told = say(text)
    assert code == 2
    assert told.startswith(f"mailflow: {place}"), told
    assert words in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize(
    "text", ['[auth]\nfile = "f"', '[[tls.certificate]]\nchain = "f"', '[table.x]\ntype = "text"\nfile = "f"']
)
def test_a_file_that_cannot_be_read_is_told_with_its_place(say, tmp_path, text):
    (tmp_path / "f").write_text("x")
    (tmp_path / "f").chmod(0)
    code, told = say(text)
    assert (code, bool(re.match(r"mailflow: m.toml:\d+: ", told))) == (2, True), told


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("user",), 2),
        (("user", "add"), 2),
        (("user", "add", "joe"), 2),
        (("user", "add", "joe", "--file", "no/dir/users"), 1),
        (("user", "add", "a:b", "--file", "users"), 1),
        (("user", "add", "joe", "--file", "users", "--scheme", "ROT13"), 2),
        (("user", "add", "joe", "--file", "."), 1),
        (("user", "passwd", "joe", "--file", "no"), 1),
        (("user", "delete", "joe", "--file", "no"), 1),
        (("user", "list", "--file", "no"), 1),
        (("user", "list", "--file", "broken"), 1),
        (("user", "verify", "joe", "--file", "broken"), 1),
        (("user", "verify", "joe", "--file", "."), 1),
        (("policy",), 2),
        (("policy", "tst"), 2),
        (("policy", "test"), 2),
        (("policy", "test", "--client", "here"), 2),
        (("policy", "test", "--client", "192.0.2.300"), 2),
        (("policy", "test", "--client", "192.0.2.3", "--size", "big"), 2),
        (("policy", "test", "--client", "192.0.2.3", "--listener", "none"), 2),
        (("policy", "test", "--client", "192.0.2.3", "--name", "", "--from", "a b@", "--to", "x@y"), 1),
        (("policy", "test", "--client", "192.0.2.3", "--name", "", "--to", ""), 1),
        (("policy", "test", "--client", "192.0.2.3", "--name", "", "--to", "\udcff"), 1),
        (("policy", "test", "--client", "192.0.2.3", "--name", "a b", "--helo", "", "--to", "x@y.test"), 1),
        (("policy", "show", "all"), 2),
    ],
)
def test_wrong_words_are_answered_in_words(say, tmp_path, monkeypatch, words, code):
    (tmp_path / "broken").write_bytes(b"joe:{ARGON2ID}x\n\xff\xfe\n:\n")
    (tmp_path / "in").write_bytes(b"secret\n")
    with (tmp_path / "in").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        found, told = say("", *words)
    assert found == code, told
    assert told
    assert "secret" not in told


@pytest.mark.parametrize("password", [b"", b"\n", b"\xff\xfe\n", b"x" * 10_000, b"a\0b\n"])
def test_a_password_that_is_none_is_answered_in_words(say, tmp_path, monkeypatch, password):
    (tmp_path / "in").write_bytes(password)
    with (tmp_path / "in").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        found, told = say("", "user", "add", "joe", "--file", "users")
    assert found == 1, told
    assert told
