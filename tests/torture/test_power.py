"""The disk that forgets: a program that syncs loses nothing, and one that forgets a sync is found out."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mailflow.store.reader import list_messages, read_content
from tests.support.client import Client
from tests.support.server import Server
from tests.support.tools import free_port
from tests.torture.disk import Disk, Files, Op
from tests.torture.power import PowerLoss

TRIES = 24
"""Losses by chance; what may be missing is missing in some of them."""
CAREFUL = """
import os, sys
os.mkdir("box")
fd = os.open("box/new", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"a" * 20_000)
os.fdatasync(fd)
os.rename("box/new", "box/letter")
box = os.open("box", os.O_RDONLY)
os.fsync(box)
here = os.open(".", os.O_RDONLY)
os.fsync(here)
os.pwrite(fd, b"b" * 20_000, 20_000)
"""
WITHOUT = {
    "the file's sync": "os.fdatasync(fd)\n",
    "the sync of its folder": "os.fsync(box)\n",
    "the sync of the folder's own name": "os.fsync(here)\n",
}


def after_losses(tmp_path: Path, program: str) -> list[bytes | None]:
    """Runs a program and takes the power away many times; what is in its letter then (None: there is none)."""
    root, base = tmp_path / "root", tmp_path / "base"
    base.mkdir()
    found = []
    with Disk(tmp_path / "disk", root, journal=True) as disk:
        words = [sys.executable, "-c", program]
        subprocess.run(words, cwd=root, env={**os.environ, **disk.environment}, check=True, timeout=20)
        for seed in range(TRIES):
            target = tmp_path / "left"
            PowerLoss(base, disk.journal, tmp_path / "work", random.Random(seed)).leave(target)
            letter = target / "box" / "letter"
            found.append(letter.read_bytes() if letter.exists() else None)
            shutil.rmtree(target)
            shutil.rmtree(tmp_path / "work")
    return found


def test_what_was_synced_is_there_and_of_the_rest_any_part(tmp_path: Path) -> None:
    found = after_losses(tmp_path, CAREFUL)
    assert all(data is not None and data[:20_000] == b"a" * 20_000 for data in found)
    rest = {data[20_000:] for data in found if data}
    assert {b"", b"b" * 20_000} < rest, "all of it, nothing, and something between"
    assert all(set(part) <= set(b"b\0") for part in rest)


@pytest.mark.parametrize("forgotten", WITHOUT)
def test_a_program_that_forgets_a_sync_loses_its_letter(tmp_path: Path, forgotten: str) -> None:
    program = CAREFUL.replace(WITHOUT[forgotten], "")
    assert program != CAREFUL
    found = after_losses(tmp_path, program)
    assert any(data is None or data[:20_000] != b"a" * 20_000 for data in found), f"without {forgotten}"


def test_what_waited_for_a_failed_sync_may_never_come_back(tmp_path: Path) -> None:
    program = """
import os
fd = os.open("letter", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"a" * 20_000)
try:
    os.fsync(fd)
except OSError:
    os.fsync(fd)  # as many programs did, and PostgreSQL until 2018
os.fsync(os.open(".", os.O_RDONLY))
"""
    root, base = tmp_path / "root", tmp_path / "base"
    base.mkdir()
    with Disk(tmp_path / "disk", root, journal=True) as disk:
        disk.fail(Op.FSYNC, errno.EIO, files=Files.OTHER)
        words = [sys.executable, "-c", program]
        subprocess.run(words, cwd=root, env={**os.environ, **disk.environment}, check=True, timeout=20)
        assert disk.failed == 1
        PowerLoss(base, disk.journal, tmp_path / "work", random.Random(1)).leave(tmp_path / "left")
    assert (tmp_path / "left" / "letter").read_bytes() != b"a" * 20_000


def test_the_clock_moves_and_calls_fail_when_they_are_told_to(tmp_path: Path) -> None:
    program = """
import os, time
fd = os.open("queue.db-wal", os.O_RDWR | os.O_CREAT, 0o600)
for _ in range(4):
    try:
        print(os.pwrite(fd, b"x", 0))
    except OSError as error:
        print(error.errno)
print(time.time())
os.fsync(fd)
os.fdatasync(fd)
"""
    with Disk(tmp_path / "disk", tmp_path / "root") as disk:
        disk.fail(Op.WRITE, errno.ENOSPC, files=Files.LOG, after=1, count=2)
        disk.step_clock(-86_400)
        disk.kill_at(Op.FDATASYNC, 1)
        words = [sys.executable, "-u", "-c", program]
        environment = {**os.environ, **disk.environment}
        run = subprocess.run(words, cwd=tmp_path / "root", env=environment, capture_output=True, text=True, timeout=20)
        date = subprocess.run(["date", "+%s"], capture_output=True, text=True, timeout=20)
    *answers, now = run.stdout.split()
    assert answers == ["1", str(errno.ENOSPC), str(errno.ENOSPC), "1"]
    assert 86_300 < float(date.stdout) - float(now) < 86_500
    assert run.returncode == -9


def test_a_spool_that_the_server_has_just_made_outlives_a_power_loss(tmp_path: Path) -> None:
    """Only what was synced is left: the names of the spool and all the folders in it are."""
    folder, base = tmp_path / "root", tmp_path / "base"
    base.mkdir()
    with Disk(tmp_path / "disk", folder, journal=True) as disk:
        spool = folder / "var" / "spool"
        server = Server(folder, spool=str(spool), relay={"host": f"[127.0.0.1]:{free_port()}"})
        server.environment |= disk.environment
        with server, Client(server.port) as client:
            client.say("EHLO client.test")
            for size in (10, 100_000, 2_000_000):
                assert client.message(["user@remote.test"], b"\r\n" + (b"x" * 70 + b"\r\n") * (size // 72)).startswith(
                    "250 "
                )
        PowerLoss(base, disk.journal, tmp_path / "work", random.Random(1)).leave(tmp_path / "left", keep=0.0)
    left = tmp_path / "left" / "var" / "spool"
    assert sorted(len(read_content(left, m.id)) > 1_000_000 for m in list_messages(left)) == [False, False, True]
