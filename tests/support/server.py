"""A `mailflow serve` process with everything it has in one folder.

`Server(folder, …sections…)` writes the configuration; `start()` returns when the line with `ready` came, and
`address` is what it said. Sections are dicts merged over `DEFAULTS`. `stop()` is SIGTERM and the exit code,
`kill()` is SIGKILL. Use it as a context manager: whatever happens, the process is ended.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import mailflow
from tests.support.waiting import PATIENCE, wait_for

SOURCE = Path(mailflow.__file__).resolve().parents[1]
"""Where the mailflow under test is: the source tree, or where its compiled form is installed."""
ADDRESS = re.compile(r"((?:\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:.]+\]):\d+)")
DEFAULTS: dict[str, Any] = {
    "hostname": "mx.example.test",
    "spool": "spool",
    "listener": [{"bind": "127.0.0.1:0"}],
    "local": {"domains": ["example.test"], "users": ["alice", "bob"], "maildir": "mail/{user}"},
}


def to_toml(values: dict[str, Any], prefix: str = "") -> str:
    """TOML for nested dicts, lists of dicts, and values that JSON writes the same way."""
    plain, tables = "", ""
    for key, value in values.items():
        if isinstance(value, dict):
            tables += f"\n[{prefix}{key}]\n" + to_toml(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += "".join(f"\n[[{prefix}{key}]]\n{to_toml(item, f'{prefix}{key}.')}" for item in value)
        else:
            plain += f"{key} = {json.dumps(value)}\n"
    return plain + tables


def environment() -> dict[str, str]:
    """The environment for a process of ours: the mailflow under test, and no setting from outside."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MAILFLOW_")}
    return kept | {"PYTHONPATH": str(SOURCE)}


class Server:
    """One server process, and what it said."""

    def __init__(self, folder: Path, *, wrap: list[str] | None = None, **sections: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = {k: v for k, v in {**DEFAULTS, **sections}.items() if v is not None}
        self.config = folder / "mailflow.toml"
        self.config.write_text(to_toml(self.settings))
        self.wrap = wrap or []
        self.environment = environment()
        self.inherited: tuple[int, ...] = ()
        """Descriptors of ours that the process has too."""
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def launch(self) -> Server:
        """Starts the process and returns at once."""
        command = [*self.wrap, sys.executable, "-m", "mailflow", "serve", "--config", str(self.config)]
        self.lines = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self.environment,
            start_new_session=True,
            pass_fds=self.inherited,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True)
        self._reader.start()
        return self

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            lines.extend(iter(process.stdout.readline, ""))

    def start(self) -> Server:
        self.launch()
        wait_for(lambda: self.ready_line or self.ended, "the line with `ready`")
        assert self.ready_line, f"the server did not start:\n{self.output}"
        return self

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    @property
    def ready_line(self) -> str:
        return next((line for line in self.lines if re.search(r"\bready\b", line)), "")

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """What it listens on, as its ready line says."""
        found = (text.rpartition(":") for text in ADDRESS.findall(self.ready_line))
        return [(host.strip("[]"), int(port)) for host, _, port in found]

    @property
    def address(self) -> tuple[str, int]:
        return self.addresses[0]

    @property
    def port(self) -> int:
        return self.address[1]

    @property
    def pid(self) -> int:
        """The server's own process id, also under a wrapper such as strace."""
        assert self.process is not None
        pid = self.process.pid
        if self.wrap:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return pid

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def log(self, event: str) -> list[dict[str, str]]:
        """The fields of every log line of this event so far."""
        return [fields for line in list(self.lines) if (fields := parse_line(line)).get("event") == event]

    def wait_log(self, event: str, count: int = 1, timeout: float = PATIENCE, **wanted: str) -> list[dict[str, str]]:
        """Waits until there are `count` lines of this event with these fields, and gives them."""

        def found() -> list[dict[str, str]]:
            match = [f for f in self.log(event) if all(f.get(k.rstrip("_")) == v for k, v in wanted.items())]
            return match if len(match) >= count else []

        try:
            return wait_for(found, f"{count} log lines {event!r} with {wanted}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\nthe log:\n{self.output[-4000:]}") from None

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait_exit()

    def kill(self) -> None:
        """SIGKILL, as a crash; nothing when it has ended already."""
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.wait_exit()

    def wait_exit(self, timeout: float = PATIENCE) -> int:
        """Waits for the end of the process and of its output; the exit code."""
        assert self.process is not None
        code = self.process.wait(timeout)
        assert self._reader is not None
        self._reader.join(PATIENCE)
        self.process = None
        return code

    def run(self, *words: str, stdin: str | bytes = b"", expect: int | None = 0, timeout: float = 60) -> str:
        """`mailflow WORDS --config …`; its standard output. Fails when the exit code is not the expected one."""
        done = subprocess.run(
            [sys.executable, "-m", "mailflow", *words, "--config", str(self.config)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=self.environment,
            timeout=timeout,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert expect is None or done.returncode == expect, (
            f"exit {done.returncode}\n{out}\n{err}\n{self.output[-2000:]}"
        )
        return out

    def queue(self) -> list[dict[str, Any]]:
        """`mailflow queue list --json`."""
        return [json.loads(line) for line in self.run("queue", "list", "--json").splitlines()]

    def mailbox(self, user: str) -> list[bytes]:
        """The messages in a user's Maildir, new and seen."""
        folder = self.folder / "mail" / user
        return [p.read_bytes() for sub in ("new", "cur") for p in sorted((folder / sub).glob("*"))]

    def wait_mail(self, user: str, count: int = 1, timeout: float = PATIENCE) -> list[bytes]:
        """Waits until there are `count` messages in a user's Maildir, and gives them."""

        def found() -> list[bytes]:
            mail = self.mailbox(user)
            return mail if len(mail) >= count else []

        try:
            return wait_for(found, f"{count} messages for {user}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\nthe log:\n{self.output[-4000:]}") from None


FIELD = re.compile(r'([A-Za-z_][\w.-]*)=("(?:[^"\\]|\\.)*"|[^\s"]*)')


def parse_line(line: str) -> dict[str, str]:
    """The fields of a key=value log line; `event` is the first bare word that is not the time or the level."""
    fields = {}
    for key, value in FIELD.findall(line):
        fields[key] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
    bare = [word for word in FIELD.sub("", line).split() if re.fullmatch(r"[a-z][a-z_-]*", word)]
    names = [word for word in bare if word not in ("info", "debug", "warning", "error", "critical")]
    if names:
        fields.setdefault("event", names[0])
    elif bare:
        fields.setdefault("event", bare[0])
    return fields
