"""What the kernel knows: processor time and memory of a family of processes, and of the machine.

A family is a process and all below it, found in /proc. Its processor time counts living members with the children
that they have waited for, so a process that comes and goes (as Postfix's do) is in the figure. Exact as long as every
member is waited for by a living one, which holds for servers run in the foreground.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


def _stat(pid: str) -> list[str]:
    """Fields of /proc/PID/stat from the third on (state, parent, ...)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def family(root: int) -> list[int]:
    """The process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                children.setdefault(int(_stat(entry.name)[1]), []).append(int(entry.name))
            except (OSError, IndexError):
                continue  # gone meanwhile
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_seconds(root: int) -> float:
    """User and system seconds of the family since it began."""
    total = 0.0
    for pid in family(root):
        try:
            total += sum(map(int, _stat(str(pid))[11:15])) * TICK
        except (OSError, IndexError):
            continue
    return total


def memory_bytes(root: int) -> int:
    """Proportional set size of the family: memory shared with others counts by its share."""
    total = 0
    for pid in family(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        except (OSError, StopIteration):
            continue
    return total


def busy_seconds() -> float:
    """Processor seconds that the whole machine has spent, all kinds but idling and waiting for disks."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = (int(w) * TICK for w in words)
    return user + nice + system + irq + softirq


def disk_syncs_per_second(folder: Path, count: int = 200) -> float:
    """How many appended 4 KiB blocks a second this disk makes durable, one after the other."""
    file = folder / "sync-test"
    fd = os.open(file, os.O_CREAT | os.O_WRONLY)
    try:
        begun = time.perf_counter()
        for _ in range(count):
            os.write(fd, b"\0" * 4096)
            os.fdatasync(fd)
        return count / (time.perf_counter() - begun)
    finally:
        os.close(fd)
        file.unlink()


def describe(folder: Path) -> str:
    """The machine and the disk in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown processor",
    )
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({model}), {gib:.0f} GiB, Linux {os.uname().release}, {disk_syncs_per_second(folder):.0f} synced 4 KiB appends/s in {folder}"
