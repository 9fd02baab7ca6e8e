"""`mailflow user`: the password file as an operator changes it."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mailflow.cli.app import run
from tests.support.server import environment


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `mailflow user …` in this process; gives what it said."""
    monkeypatch.chdir(tmp_path)

    def run_user(*words: str, stdin: str = "", expect: int = 0) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run(["user", *words])
        said = "".join(capsys.readouterr())
        assert code == expect, said
        return said

    return run_user


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "users")


def test_a_login_from_its_making_to_its_end(user, tmp_path, file):
    assert "added alice" in user("add", "alice", "--file", file, stdin="open sesame\n")
    assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600
    assert "open sesame" not in Path(file).read_text()
    user("verify", "Alice", "--file", file, stdin="open sesame\n")
    user("verify", "alice", "--file", file, stdin="open barley\n", expect=1)
    user("passwd", "alice", "--file", file, "--scheme", "scram-sha-256", stdin="open barley\n")
    user("verify", "alice", "--file", file, stdin="open barley\n")
    listed = user("list", "--file", file, "--json")
    assert json.loads(listed) == {"login": "alice", "scheme": "SCRAM-SHA-256"}
    user("delete", "alice", "--file", file)
    assert user("list", "--file", file) == ""
    assert [p.name for p in tmp_path.iterdir()] == ["users"]


def test_what_is_refused_changes_nothing(user, tmp_path, file):
    user("add", "alice", "--file", file, stdin="open sesame\n")
    before = Path(file).read_bytes()
    assert "already" in user("add", "ALICE", "--file", file, stdin="x\n", expect=1)
    assert "no login bob" in user("passwd", "bob", "--file", file, stdin="x\n", expect=1)
    assert "no login bob" in user("delete", "bob", "--file", file, expect=1)
    assert "cannot be a login" in user("add", "a:b", "--file", file, stdin="x\n", expect=1)
    assert "no password" in user("add", "bob", "--file", file, stdin="\n", expect=1)
    assert "control" in user("add", "bob", "--file", file, stdin="a\tb\n", expect=1)
    assert "no scheme" in user("add", "bob", "--file", file, "--scheme", "md5", stdin="x\n", expect=2)
    assert Path(file).read_bytes() == before


def test_other_lines_stay_as_they_are(user, tmp_path, file):
    user("add", "bob", "--file", file, stdin="builder\n")
    bob = Path(file).read_text()
    Path(file).write_text(f"# ours\n{bob}")
    user("add", "alice", "--file", file, stdin="open sesame\n")
    user("delete", "alice", "--file", file)
    assert Path(file).read_text() == f"# ours\n{bob}"


def test_a_file_that_is_none_is_left_alone(user, tmp_path, file):
    Path(file).write_text("alice:{PLAIN}open sesame\n")
    told = user("add", "bob", "--file", file, stdin="x\n", expect=1)
    assert f"{file}:1: not a stored password" in told
    assert "sesame" not in told


def test_the_file_of_the_configuration(user, tmp_path, file):
    Path(tmp_path / "mailflow.toml").write_text('hostname = "mx.example.test"\n[auth]\nfile = "users"\n')
    assert "mailflow.toml:3: auth.file: there is no file" in user("list", expect=2)
    Path(file).touch()
    user("add", "alice", stdin="open sesame\n")
    assert user("list") == "alice  ARGON2ID\n"


def test_two_at_once_lose_nothing(user, tmp_path, file):
    Path(file).touch()
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", "mailflow", "user", "add", f"user{n}", "--file", file, "-q"],
            stdin=subprocess.PIPE,
            env=environment(),
        )
        for n in range(4)
    ]
    for writer in writers:
        writer.communicate(b"secret\n")
        assert writer.returncode == 0
    assert len(user("list", "--file", file).splitlines()) == 4
