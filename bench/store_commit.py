"""What one commit costs the store alone: no thread, no loop, nobody to fight for the interpreter with.

Usage: python bench/store_commit.py [--sizes 1 10 100] [--batches 10 33 100] [--thresholds 16 inf] [--pages 8]
       [--checkpoints 16] [--rounds 5] [--mib 64] [--spool DIR]

Each commit takes N messages in and settles those of the commit before. Sizes, thresholds (segment_threshold) and database
pages are in KiB, checkpoints in MiB. All variants take turns, round after round, so that a slow minute of the machine
hits all; printed are the medians of the rounds: CPU of the thread and wall time in µs a message, KiB written to the
disk a message (log and checkpoints included), and the size of the log afterwards.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

from mailflow.envelope import Message, Peer, Recipient
from mailflow.store.schema import PAGE_SIZE_BYTES, database
from mailflow.store.settings import QueueSettings
from mailflow.store.sqlite import Store
from mailflow.store.values import Settlement

PEER = Peer("127.0.0.1", 40000, "localhost", "client.example.org", "ESMTP")


@dataclass
class Variant:
    """One combination, its store, and what its rounds brought."""

    size: int
    batch: int
    threshold: float
    page: int
    checkpoint: float
    spool: Path
    store: Store = field(init=False)
    last: int = 1
    waiting: list[Settlement] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    disk: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spool.mkdir()
        with sqlite3.connect(database(self.spool)) as db:  # only an empty database takes a page size
            db.execute(f"PRAGMA page_size = {self.page}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("VACUUM")
        db.close()
        threshold = 2**50 if self.threshold == float("inf") else int(self.threshold * 1024)
        checkpoint = int(self.checkpoint * 2**20) * PAGE_SIZE_BYTES // self.page  # it is turned into pages again
        self.store = Store.open(self.spool, QueueSettings(segment_threshold=threshold, checkpoint=checkpoint))

    def commit(self, body: bytes) -> None:
        messages = []
        for _ in range(self.batch):
            self.last += 1000
            to = [Recipient(0, f"user{self.last % 1000}@example.net", "smtp:example.net", due=self.last / 1e6)]
            messages.append(Message(self.last, "sender@example.org", to, body, arrived=1.0, size=len(body), peer=PEER))
        self.store.commit(messages, self.waiting, self.last)
        self.waiting = [Settlement(message, message.recipients) for message in messages]
        for settlement in self.waiting:
            settlement.whole = True

    def round(self, body: bytes, amount: int) -> None:
        commits = max(3, min(1000, amount // (self.size * self.batch)))
        wall, cpu, disk = time.perf_counter(), time.thread_time(), written()
        for _ in range(commits):
            self.commit(body)
        count = commits * self.batch
        self.wall.append((time.perf_counter() - wall) / count * 1e6)
        self.cpu.append((time.thread_time() - cpu) / count * 1e6)
        self.disk.append((written() - disk) / count / 1024)

    def row(self) -> str:
        log = (self.spool / "queue.db-wal").stat().st_size / 2**20
        return (
            f"{self.size / 1024:6.0f} {self.batch:6} {self.threshold:10.0f} {self.page // 1024:5}"
            f" {self.checkpoint:11.0f} | {median(self.cpu):7.1f} {median(self.wall):8.1f} {median(self.disk):8.1f} {log:8.0f}"
        )


def written() -> int:
    """Bytes that this process has caused to be written."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_oublock * 512


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 10, 100])
    parser.add_argument("--batches", type=int, nargs="+", default=[10, 33, 100])
    parser.add_argument("--thresholds", type=float, nargs="+", default=[16, float("inf")])
    parser.add_argument("--pages", type=int, nargs="+", default=[PAGE_SIZE_BYTES >> 10])
    parser.add_argument("--checkpoints", type=float, nargs="+", default=[16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=64, help="content in a round of each variant")
    parser.add_argument("--spool", type=Path, help="a folder on the disk to be measured; default: a temporary one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.spool))
    print("   KiB  batch  threshold  page  checkpoint |  CPU us  wall us  KiB out  log MiB", flush=True)
    for size in options.sizes:
        body = os.urandom(int(size * 1024))
        choices = product(options.batches, options.thresholds, options.pages, options.checkpoints)
        variants = [
            Variant(len(body), batch, threshold, page << 10, checkpoint, folder / str(n))
            for n, (batch, threshold, page, checkpoint) in enumerate(choices)
        ]
        for variant in variants * (1 + options.rounds):
            variant.round(body, options.mib << 20)
        for variant in variants:
            for figures in (variant.cpu, variant.wall, variant.disk):
                figures.pop(0)  # the first round gives the files their size
            print(variant.row(), flush=True)
            variant.store.close(variant.last)
            shutil.rmtree(variant.spool)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
