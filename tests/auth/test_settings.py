"""Mistakes in `[auth]` are told before anything starts, and paths are relative to the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailflow.errors import ConfigError
from mailflow.settings import Settings


def load(folder: Path, text: str) -> Settings:
    file = folder / "mailflow.toml"
    file.write_text(f'hostname = "mx.example.org"\n[auth]\n{text}\n')
    return Settings.load(file, environment={})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('file = "users"', ":3: auth.file: there is no file"),
        ('mechanisms = ["CRAM-MD5"]', "auth.mechanisms"),
        ('mechanisms = ["PLAIN", "SCRAM-SHA-256"]\npam = "smtp"', "auth.mechanisms: SCRAM-SHA-256 needs stored keys"),
        ("scram_without_tls = true", "auth.scram_without_tls"),
        ('oauth.introspection = "https://id.example.org"', "no mechanism uses it"),
        ('mechanisms = ["XOAUTH2"]\noauth.introspection = "id"', "not a URL"),
        ('sender_login = { "alice" = ["alice"] }', '"alice" is not an address'),
        ('sender_login_tables = ["x"]', "there is no [table.x]"),
    ],
)
def test_mistakes(tmp_path, text, told):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert told in str(caught.value)


def test_the_check_reads_the_password_file(tmp_path):
    users = tmp_path / "users"
    users.write_text("# ours\nalice:secret\n")
    users.chmod(0o644)
    settings = load(tmp_path, 'file = "users"')
    with pytest.raises(ConfigError) as caught:
        settings.examine()
    assert f"{users}:2: auth.file: not a stored password" in str(caught.value)
    assert "secret" not in str(caught.value)
    users.write_text("")
    (problem,) = settings.examine()
    assert "mailflow.toml:3: auth.file" in str(problem)
    assert "may be read by everybody" in str(problem)
    users.chmod(0o640)
    assert settings.examine() == []


def test_paths(tmp_path):
    (tmp_path / "users").touch()
    (tmp_path / "users.db").touch()
    auth = load(tmp_path, 'file = "users"\ndovecot = "run/auth"\nsql.database = "users.db"').auth
    assert (auth.file, auth.dovecot) == (tmp_path / "users", tmp_path / "run/auth")
    assert auth.sql.database == str(tmp_path / "users.db")
    assert load(tmp_path, 'sql.database = "postgresql://h/d"').auth.sql.database == "postgresql://h/d"
