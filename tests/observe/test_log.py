"""The event log: never a wait for its caller, nothing lost in silence."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from mailflow.observe.log import EventLog, Level
from mailflow.observe.settings import LogSettings


class Gate:
    """An output that is stuck until it is opened, as a full pipe is."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.entered.set()
        self.open.wait()
        self.writes.append(data)

    def reopen(self) -> None: ...
    def close(self) -> None: ...

    @property
    def lines(self) -> list[str]:
        return b"".join(self.writes).decode().splitlines()


class Failing(Gate):
    """An output that fails until it is mended, as a full disk does."""

    def write(self, data: bytes) -> None:
        if not self.open.is_set():
            self.entered.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        self.writes.append(data)


def opened() -> Gate:
    gate = Gate()
    gate.open.set()
    return gate


def test_events_are_written_in_order_and_close_writes_the_rest() -> None:
    gate = opened()
    log = EventLog(output=gate)
    for i in range(1000):
        log.event("queued", id=i)
    log.close()
    assert [line.split(" ", 2)[2] for line in gate.lines] == [f"queued id={i}" for i in range(1000)]


@pytest.mark.wish(31)
def test_a_burst_is_few_writes() -> None:
    gate = Gate()
    log = EventLog(output=gate)
    for i in range(10_000):
        log.event("queued", id=i)
    gate.open.set()
    log.close()
    assert len(gate.lines) == 10_000
    assert len(gate.writes) < 10_000 / 256 + 10


@pytest.mark.wish(31)
def test_a_stuck_output_never_blocks_and_what_is_lost_is_counted() -> None:
    gate = Gate()
    log = EventLog(LogSettings(buffer=100), output=gate)
    log.event("queued", id="first")
    assert gate.entered.wait(5)
    for i in range(5000):
        log.event("queued", id=i)
    assert log.dropped == 4900
    gate.open.set()
    log.close()
    assert [line.split("=")[1] for line in gate.lines if " queued " in line] == ["first", *map(str, range(100))]
    assert [line.split(" ", 1)[1] for line in gate.lines if " queued " not in line] == ["warning warning dropped=4900"]


@pytest.mark.wish(31)
def test_a_full_pipe_does_not_block_the_caller_nor_close() -> None:
    reader, writer = os.pipe()
    settings = LogSettings(to=f"/proc/self/fd/{writer}", buffer=1000)
    log = EventLog(settings)
    started = time.monotonic()
    for i in range(20_000):
        log.event("queued", id=i, reason="x" * 100)
    assert time.monotonic() - started < 2
    log.close()
    assert log.dropped > 0
    os.close(writer)
    while os.read(reader, 1 << 20):  # lets the thread go
        pass
    os.close(reader)


def test_a_failing_output_is_counted_and_reported_when_it_works_again() -> None:
    output = Failing()
    log = EventLog(output=output)
    log.event("queued", id=1)
    assert output.entered.wait(5)
    while log.dropped < 1:
        os.sched_yield()
    output.open.set()
    log.event("queued", id=2)
    log.close()
    assert [line.split(" ", 2)[2] for line in output.lines] == ["queued id=2", "warning dropped=1"]


def test_a_field_that_cannot_be_shown_does_not_end_the_log() -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError

    gate = Gate()
    log = EventLog(output=gate)
    log.event("queued", id="a")
    assert gate.entered.wait(5)
    log.event("queued", id=Bad())
    gate.open.set()
    while log.dropped < 1:
        os.sched_yield()
    log.event("queued", id="b")
    log.close()
    assert [line.split(" ", 2)[2] for line in gate.lines if "queued" in line] == ["queued id=a", "queued id=b"]


def test_levels_below_the_setting_are_left_out() -> None:
    gate = opened()
    log = EventLog(LogSettings(level="warning"), output=gate)
    log.event("attempt", Level.DEBUG)
    log.event("queued")
    log.event("reject", Level.WARNING)
    log.event("stopped", level=Level.ERROR)
    log.close()
    assert [line.split(" ", 1)[1] for line in gate.lines] == ["warning reject", "error stopped"]


def test_name_may_be_a_field() -> None:
    gate = opened()
    log = EventLog(output=gate)
    log.event("connect", name="mx.example.test")
    log.close()
    assert gate.lines[0].endswith("connect name=mx.example.test")


def test_a_file_is_appended_to_and_opened_again_on_request(tmp_path: Path) -> None:
    path, old = tmp_path / "mail.log", tmp_path / "mail.log.1"
    path.write_text("before\n")
    log = EventLog(LogSettings(to=str(path)))
    log.event("queued", id=1)
    while "id=1" not in path.read_text():
        os.sched_yield()
    path.rename(old)
    log.reopen()
    while not path.exists():
        os.sched_yield()
    log.event("queued", id=2)
    log.close()
    assert old.read_text().startswith("before\n")
    assert "id=1" in old.read_text()
    assert "id=2" in path.read_text()
    assert path.stat().st_mode & 0o007 == 0


def test_a_file_that_cannot_be_opened_again_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    path = folder / "mail.log"
    log = EventLog(LogSettings(to=str(path)))
    moved = tmp_path / "moved"
    folder.rename(moved)
    log.reopen()
    log.event("queued", id=2)
    log.close()
    text = (moved / "mail.log").read_text()
    assert "cannot open the log file again" in text
    assert "id=2" in text


def test_a_log_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        EventLog(LogSettings(to=str(tmp_path / "missing" / "mail.log")))


def test_json_and_none(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = EventLog(LogSettings(to=str(path), format="json"))
    log.event("queued", from_="a@b")
    log.close()
    assert path.read_text().endswith('"level":"info","event":"queued","from":"a@b"}\n')
    nowhere = EventLog(LogSettings(to="none"))
    nowhere.event("queued")
    nowhere.close()
    assert nowhere.dropped == 0


def test_many_threads_lose_nothing() -> None:
    gate = opened()
    log = EventLog(output=gate)

    def work(number: int) -> None:
        for i in range(2000):
            log.event("queued", id=f"{number}-{i}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert log.dropped == 0
    assert len({line.split("=")[1] for line in gate.lines}) == 8000


def test_a_quiet_log_wakes_up_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = EventLog(LogSettings(to=str(path)))
    for i in range(3):
        log.event("queued", id=i)
        deadline = time.monotonic() + 5
        while f"id={i}" not in path.read_text():
            assert time.monotonic() < deadline
            os.sched_yield()
    log.close()
