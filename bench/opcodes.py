"""Where the interpreter's work goes: bytecode instructions for each message, by file and by function.

usage: python -m bench.opcodes [MESSAGES] [new]

Relays 1 KB messages (with `new`, a connection for each) from smtp-source to the bench sink with the server in this process, and counts every bytecode
instruction that its event loop executes. The figures hardly depend on the machine or on what else runs on it, which
times always do; what they leave out is the work inside C functions and the kernel.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import uvloop

from bench.load import Case, SinkProcess, source_command
from mailflow.server import Server
from mailflow.settings import Settings

SHOWN_FILES = 36
SHOWN_FUNCTIONS = 60
SESSIONS = 20


class Tracer:
    """Counts calls and instructions by code object; only one at a time, for the whole thread."""

    def __init__(self) -> None:
        self.instructions: Counter[CodeType] = Counter()
        self.calls: Counter[CodeType] = Counter()

    def call(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            self.calls[frame.f_code] += 1
        return self.step

    def step(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "opcode":
            self.instructions[frame.f_code] += 1
        return self.step


async def count(settings: Settings, messages: int, *, reuse: bool) -> Tracer:
    """Relays so many messages with every instruction counted."""
    server = Server(settings)
    await server.start()
    case = Case(SESSIONS, 1024, reuse=reuse)
    source = await asyncio.create_subprocess_exec(*source_command(server.addresses[0].port, case, messages))
    tracer = Tracer()
    sys.settrace(tracer.call)
    await source.wait()
    while server.flow.active:  # noqa: ASYNC110 - a bench: the server has no event for this, and needs none
        await asyncio.sleep(0.1)
    sys.settrace(None)
    await server.stop()
    return tracer


def show(tracer: Tracer, messages: int) -> None:
    """Prints the counts for each message."""
    by_file: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for code, number in tracer.instructions.items():
        name = code.co_filename.rpartition("mailflow/")[2]
        by_file[name] += number
        calls[name] += tracer.calls[code]
    total, called = sum(by_file.values()) / messages, sum(calls.values()) / messages
    print(f"{total:.0f} instructions and {called:.0f} calls for each message\n")
    for name, number in by_file.most_common(SHOWN_FILES):
        print(f"{number / messages:8.1f} {calls[name] / messages:6.1f} calls  {name}")
    print()
    for code, number in tracer.instructions.most_common(SHOWN_FUNCTIONS):
        place = f"{code.co_filename.rpartition('mailflow/')[2]}:{code.co_firstlineno} {code.co_qualname}"
        print(f"{number / messages:8.1f} {tracer.calls[code] / messages:6.1f} calls  {place}")


def main() -> None:
    """The command."""
    words = sys.argv[1:]
    messages = next((int(word) for word in words if word.isdigit()), 400)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sink = SinkProcess(folder)
        try:
            settings = Settings(
                hostname="relay.bench.example",
                spool=folder / "spool",
                listener=[{"bind": "127.0.0.1:0"}],
                relay={"host": f"[127.0.0.1]:{sink.port}"},
                log={"to": str(folder / "log")},
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                show(runner.run(count(settings, messages, reuse="new" not in words)), messages)
        finally:
            sink.stop()


if __name__ == "__main__":
    main()
