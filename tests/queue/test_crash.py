"""A process that is killed or whose disk fails: what was acknowledged is there, whole; the rest is not half there."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mailflow.ids import parse_id
from mailflow.store.reader import list_messages, read_content
from tests.queue.driver import content_of

DRIVER = Path(__file__).with_name("driver.py")
STRACE = pytest.mark.skipif(shutil.which("strace") is None, reason="needs the Debian package strace")
ROUNDS = int(os.environ.get("MAILFLOW_CRASH_ROUNDS", "1"))


class Story:
    """What a driver said before it ended."""

    def __init__(self, output: str) -> None:
        self.words: dict[str, dict[int, list[str]]] = {}
        self.lines = output[: output.rfind("\n") + 1].splitlines()
        for line in self.lines:
            verb, *rest = line.split()
            if rest and len(rest[0]) == 11:
                self.words.setdefault(verb, {})[parse_id(rest[0])] = rest[1:]

    def ids(self, verb: str) -> set[int]:
        return set(self.words.get(verb, {}))

    def check(self, spool: Path, *, refused_are_out: bool = True) -> None:
        """Compares the story with what is in the spool now."""
        there = {entry.id: entry for entry in list_messages(spool)}
        queued, settling, settled = self.words.get("queued", {}), self.ids("settling"), self.ids("settled")
        assert set(queued) - settling <= set(there), "an acknowledged message is lost"
        assert not settled & set(there), "a settled message came back"
        assert not refused_are_out or not self.ids("refused") & set(there), "a refused message is in the queue"
        for number, entry in there.items():
            assert entry.remaining == len(entry.recipients) > 0, "half a message"
            content = read_content(spool, number)  # checks the checksum
            if number in queued:
                assert content == content_of(int(queued[number][0])), "another content"
        for cause, bounces in self.words.get("settling", {}).items():
            for text in bounces:
                number = parse_id(text.partition("=")[0])
                if cause not in settled and cause not in self.ids("unsettled") and number not in queued:
                    assert (cause in there) != (number in there), "a bounce without its cause's leaving, or the reverse"


def drive(spool: Path, *words: str, trace: list[str] | None = None, timeout: float = 40) -> tuple[int, Story]:
    """Runs a driver to its end."""
    command = [*(trace or []), sys.executable, str(DRIVER), str(spool), *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    return run.returncode, Story(run.stdout)


@pytest.mark.parametrize("round", range(ROUNDS))
def test_killed_at_a_random_moment(tmp_path: Path, round: int) -> None:
    chance = random.Random(round)
    for generation in range(2):  # each finds the spool as the one before left it
        command = [sys.executable, str(DRIVER), str(tmp_path), "--seed", str(chance.getrandbits(30))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(chance.randrange(1, 700))]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        assert lines[0] == "open\n", generation
        story = Story("".join(lines))
        assert len(story.lines) < 2 or story.ids("queued")
        story.check(tmp_path)


def inject(call: str, error: str, when: str) -> list[str]:
    # The writer's thread is the only one that syncs; its first calls belong to opening.
    return [
        "strace",
        "-f",
        "--seccomp-bpf",  # the other system calls run at full speed
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:error={error}:when={when}",
    ]


@STRACE
@pytest.mark.parametrize("when", [16, *range(17, 17 + 4 * (ROUNDS - 1))])
def test_one_failed_fsync_refuses_its_batch_and_the_store_recovers(tmp_path: Path, when: int) -> None:
    code, story = drive(tmp_path, "--count", "250", trace=inject("fdatasync", "EIO", str(when)))
    assert code == 0
    assert story.lines[-1] == "closed"
    assert {tuple(words) for words in story.words["refused"].values()} == {("StoreBroken",)}
    assert "failed StoreBroken" not in story.lines
    assert not story.ids("unsettled"), "settlements are written again"
    assert len(story.ids("queued")) > 150
    story.check(tmp_path)


@STRACE
def test_a_disk_that_never_syncs_again_stops_the_queue(tmp_path: Path) -> None:
    code, story = drive(tmp_path, "--count", "300", trace=inject("fdatasync", "EIO", "20+"))
    assert "failed StoreBroken" in story.lines
    at = story.lines.index("failed StoreBroken")
    assert not [line for line in story.lines[at:] if line.startswith(("queued", "settled"))], "it pretends"
    assert code == 0
    story.check(tmp_path, refused_are_out=False)  # the disk would not even take that


@STRACE
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("when", ["60..62"])
def test_a_failing_write(tmp_path: Path, error: str, when: str) -> None:
    code, story = drive(tmp_path, "--count", "250", trace=inject("pwrite64", error, when))
    assert code == 0
    expected = "QueueFull" if error == "ENOSPC" else "StoreBroken"
    assert {tuple(words) for words in story.words.get("refused", {}).values()} <= {(expected,)}
    assert not story.ids("unsettled")
    assert len(story.ids("queued")) > 100
    story.check(tmp_path)


@STRACE
def test_a_full_disk_refuses_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    code, story = drive(tmp_path, "--count", "600", trace=inject("pwrite64", "ENOSPC", "60..75"))
    assert code == 0
    refused = [i for i, line in enumerate(story.lines) if line.startswith("refused")]
    assert refused
    assert {words[0] for words in story.words["refused"].values()} == {"QueueFull"}
    assert [line for line in story.lines[refused[-1] :] if line.startswith("queued")], "later ones work again"
    story.check(tmp_path)
