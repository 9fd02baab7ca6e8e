"""Writing into a Maildir: whole or not at all, durable, and nothing outside it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailflow.delivery.maildir import write_maildir
from tests.support.server import SOURCE
from tests.support.tools import strace

NAME = "1800000000.Q1js8he3dc00R0.mx.example"


def files(maildir: Path) -> list[str]:
    return sorted(str(p.relative_to(maildir)) for p in maildir.rglob("*") if not p.is_dir())


def test_a_message_is_in_new_and_nothing_in_tmp(tmp_path: Path) -> None:
    path = write_maildir(tmp_path / "deep" / "alice", NAME, [b"one\n", b"", b"two\n"])
    assert path == tmp_path / "deep" / "alice" / "new" / NAME
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600
    for folder in ("tmp", "new", "cur"):
        assert (tmp_path / "deep" / "alice" / folder).stat().st_mode & 0o777 == 0o700


def test_a_repeated_delivery_replaces_its_first_copy(tmp_path: Path) -> None:
    write_maildir(tmp_path, NAME, [b"first\n"])
    write_maildir(tmp_path, NAME, [b"second\n"])
    assert files(tmp_path) == [f"new/{NAME}"]
    assert (tmp_path / "new" / NAME).read_bytes() == b"second\n"


def test_what_a_crash_left_in_tmp_is_no_hindrance(tmp_path: Path) -> None:
    write_maildir(tmp_path, "other", [b"x\n"])
    (tmp_path / "tmp" / NAME).write_bytes(b"half of a mess")
    write_maildir(tmp_path, NAME, [b"whole\n"])
    assert (tmp_path / "new" / NAME).read_bytes() == b"whole\n"
    assert files(tmp_path) == [f"new/{NAME}", "new/other"]


@pytest.mark.parametrize("gone", ["tmp", "new", "cur"])
def test_a_folder_that_is_missing_is_made(tmp_path: Path, gone: str) -> None:
    """A crash between two folders, or somebody who tidied up, must not stop a mailbox for good."""
    write_maildir(tmp_path, "other", [b"x\n"])
    for left in (tmp_path / gone).iterdir():
        left.unlink()
    (tmp_path / gone).rmdir()
    write_maildir(tmp_path, NAME, [b"whole\n"])
    assert (tmp_path / "new" / NAME).exists()
    assert (tmp_path / "tmp").is_dir()
    if gone != "cur":  # which only readers use
        assert (tmp_path / gone).is_dir()


def test_a_link_in_tmp_is_not_followed(tmp_path: Path) -> None:
    write_maildir(tmp_path / "box", "other", [b"x\n"])
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "box" / "tmp" / NAME).symlink_to(victim)
    write_maildir(tmp_path / "box", NAME, [b"whole\n"])
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "box" / "new" / NAME).is_symlink()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), UnicodeError("no text")])
def test_a_failure_half_way_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise error

    with pytest.raises(type(error)):
        write_maildir(tmp_path, NAME, parts())
    assert files(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit stands for the disk: the write ends early and then fails."""
    code = (
        "import resource, signal, sys, pathlib\n"
        "from mailflow.delivery.maildir import write_maildir\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        f"    write_maildir(pathlib.Path(sys.argv[1]), '{NAME}', [b'x' * 4000] * 2)\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "box")], capture_output=True, text=True, check=True, env=_env()
    )
    assert done.stdout.strip() == str(errno.EFBIG)
    assert files(tmp_path / "box") == []


@pytest.mark.parametrize("at", ["box", "box/tmp", "box/new"])
def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path, at: str) -> None:
    (tmp_path / at).parent.mkdir(exist_ok=True)
    (tmp_path / at).write_bytes(b"a file")
    with pytest.raises(OSError, match=r"\[Errno"):
        write_maildir(tmp_path / "box", NAME, [b"x"])
    assert (tmp_path / at).read_bytes() == b"a file"


def test_file_and_folder_are_synced_in_this_order(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from mailflow.delivery.maildir import write_maildir\n"
        "write_maildir(pathlib.Path(sys.argv[1]), 'first', [b'x'])\n"
        "open('/dev/null').close()\n"
        f"write_maildir(pathlib.Path(sys.argv[1]), '{NAME}', [b'x'])\n"
    )
    trace = tmp_path / "trace"
    subprocess.run(
        [
            *strace("-y", "-o", str(trace), "-e", "trace=fsync,fdatasync,rename,openat,mkdir,write"),
            *(sys.executable, "-c", code, str(tmp_path / "box")),
        ],
        check=True,
        env=_env(),
    )
    _, _, steady = trace.read_text().partition('"/dev/null"')
    lines = [line for line in steady.splitlines()[1:] if "box" in line]
    calls = [line.partition("(")[0].split()[-1] for line in lines]
    assert calls == ["openat", "write", "fsync", "rename", "openat", "fsync"]
    assert f"box/tmp/{NAME}>" in lines[2]
    assert "box/new>" in lines[5]


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE)}
