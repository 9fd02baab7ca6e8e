"""The servers under measurement, each as a child in the foreground with everything private in one folder.

`mailflow`: as shipped, all mail relayed to the sink; `mailflow-compiled`: the same, compiled (docs/compiled.md). `postfix`: Debian's, its defaults with only routing and folders
ours; `postfix-tuned`: with the settings that its own documentation recommends for throughput to one destination, and
that raised its figures here. Both log as they do by default (Postfix: its log daemon to a file; mailflow: standard error,
which is a file). `sink`: the load generator straight to the sink, the ceiling of every figure.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from bench.machine import family

START_LIMIT = 30.0
"""Seconds until a server must listen."""
STOP_LIMIT = 30.0


class Server:
    """One server; `port` listens after `start`."""

    name = ""
    why_not = ""
    """Why it cannot be measured here; "" when it can."""

    def __init__(self, folder: Path, sink_port: int) -> None:
        self.folder = folder / self.name
        self.sink_port = sink_port
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True)
        self.port = free_port()
        with (self.folder / "output").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        limit = time.monotonic() + START_LIMIT
        while not listening(self.port):
            if self.process.poll() is not None or time.monotonic() > limit:
                text = (self.folder / "output").read_text(errors="replace")[-2000:]
                self.stop()
                raise RuntimeError(f"{self.name} did not start:\n{text}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is left of the family when that does not help."""
        if self.process is None:
            return
        members = family(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            for pid in members:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process.wait()
        self.process = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        raise NotImplementedError

    def version(self) -> str:
        return ""


class Direct(Server):
    """No server at all."""

    name = "sink"

    def start(self) -> None:
        self.port = self.sink_port

    def stop(self) -> None:
        pass


class Mailflow(Server):
    name = "mailflow"
    python = Path(sys.executable)

    def command(self) -> list[str]:
        config = self.folder / "mailflow.toml"
        config.write_text(f"""\
hostname = "relay.bench.example"
spool = "spool"

[[listener]]
bind = "127.0.0.1:{self.port}"

[relay]
host = "[127.0.0.1]:{self.sink_port}"
""")
        return [str(self.python), "-m", "mailflow", "serve", "--config", str(config)]

    def version(self) -> str:
        done = subprocess.run([self.python, "-m", "mailflow", "version"], capture_output=True, text=True)
        return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else "mailflow"


class MailflowCompiled(Mailflow):
    """What `make compiled` has installed."""

    name = "mailflow-compiled"
    python = Path(__file__).parent.parent / ".compiled/bin/python"


class Postfix(Server):
    name = "postfix"
    extra = ""
    daemons = Path("/usr/lib/postfix/sbin")

    def command(self) -> list[str]:
        config = self.folder / "config"
        data = self.folder / "data"
        for folder in (config, data, self.folder / "queue"):
            folder.mkdir()
        shutil.chown(data, "postfix", "postfix")
        (config / "main.cf").write_text(f"""\
compatibility_level = 3.6
queue_directory = {self.folder}/queue
data_directory = {data}
maillog_file = {self.folder}/maillog
maillog_file_prefixes = {self.folder}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = relay.bench.example
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{self.sink_port}
smtp_dns_support_level = disabled
smtp_host_lookup = native
{self.extra}""")
        (config / "master.cf").write_text(self.services())
        # `check` makes the queue's folders; the master itself, not the start-up script, is then our child.
        subprocess.run(["postfix", "-c", str(config), "check"], check=True, stderr=subprocess.DEVNULL)
        return [str(self.daemons / "master"), "-c", str(config), "-s"]

    def services(self) -> str:
        """The distribution's services, on our port and without chroot."""
        lines = []
        for line in Path("/usr/share/postfix/master.cf.dist").read_text().splitlines():
            words = line.split()
            if line[:1] not in ("", " ", "#") and len(words) >= 8:
                words[4] = "n"
                if words[:2] == ["smtp", "inet"]:
                    words[0] = f"127.0.0.1:{self.port}"
                line = " ".join(words)
            lines.append(line)
        return "\n".join(lines) + "\n"

    def stop(self) -> None:
        super().stop()
        # Its daemons notice within a second or two that their master has gone; the folder cannot go before them.
        limit = time.monotonic() + STOP_LIMIT
        while time.monotonic() < limit and any(self.daemon_of_ours(p) for p in Path("/proc").glob("[0-9]*")):
            time.sleep(0.1)

    def daemon_of_ours(self, process: Path) -> bool:
        try:
            return str((process / "cwd").readlink()).startswith(str(self.folder))
        except OSError:
            return False

    def version(self) -> str:
        done = subprocess.run(["postconf", "-dh", "mail_version"], capture_output=True, text=True)
        return f"Postfix {done.stdout.strip()}"


class PostfixTuned(Postfix):
    name = "postfix-tuned"
    extra = """\
default_process_limit = 200
in_flow_delay = 0
initial_destination_concurrency = 50
default_destination_concurrency_limit = 50
smtp_connection_cache_on_demand = yes
smtp_connection_reuse_count_limit = 1000
smtpd_peername_lookup = no
smtpd_delay_reject = no
max_use = 1000
qmgr_message_active_limit = 50000
"""


def unavailable(server: type[Server]) -> str:
    """Why this server cannot be measured here, "" when it can."""
    if issubclass(server, Mailflow):
        return "" if server.python.exists() else "it is not installed (make compiled)"
    if not issubclass(server, Postfix):
        return ""
    if not (shutil.which("postfix") and Postfix.daemons.is_dir()):
        return "Debian's package postfix is not installed"
    return "" if os.geteuid() == 0 else "Postfix needs root to start"


SERVERS: dict[str, type[Server]] = {s.name: s for s in (Direct, Mailflow, MailflowCompiled, Postfix, PostfixTuned)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listening(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            return connection.recv(3) == b"220"
    except OSError:
        return False
