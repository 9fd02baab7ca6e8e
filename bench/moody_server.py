"""Servers with routes to many destinations, and those destinations: what the fairness cases stand on."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

from bench import moody_sink as words
from bench.servers import Mailflow, Postfix, Server
from bench.sink import HEAD_WORDS, RING_WORDS


class MoodySinks:
    """Many destinations of one manner, in a process of their own."""

    def __init__(self, folder: Path, manner: str, addresses: int, seconds: float = 0.0) -> None:
        file = folder / f"{manner}-counters"
        file.write_bytes(bytes(words.FILE_SIZE))
        command = [sys.executable, "-m", "bench.moody_sink", str(file), manner, str(addresses), str(seconds)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.addresses, self.manner = addresses, manner
        with file.open("r+b") as f:
            self.counters = memoryview(mmap.mmap(f.fileno(), words.FILE_SIZE)).cast("Q")

    @property
    def domains(self) -> list[str]:
        return [f"{self.manner}{number}.bench.example" for number in range(self.addresses)]

    @property
    def routes(self) -> dict[str, str]:
        """Domain to next hop."""
        return {domain: f"[{words.address(n)}]:{self.port}" for n, domain in enumerate(self.domains)}

    def delays(self) -> list[float]:
        """Milliseconds of the messages that carried their departure."""
        count = min(RING_WORDS, self.counters[words.DELAYS])
        return [self.counters[HEAD_WORDS + i] / 1e6 for i in range(count)]

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)


class RoutedMailflow(Mailflow):
    """With a route for each domain, and further lines of configuration."""

    routes: dict[str, str]
    more = ""
    spool = "spool"

    def command(self) -> list[str]:
        command = super().command()
        config = self.folder / "mailflow.toml"
        routes = (f'\n[[route]]\nmatch = "{domain}"\nnext_hop = "{hop}"\n' for domain, hop in self.routes.items())
        text = config.read_text().replace('spool = "spool"', f'spool = "{self.spool}"')
        config.write_text(text + self.more + "".join(routes))
        return command


class RoutedPostfix(Postfix):
    """The same by a transport table."""

    routes: dict[str, str]

    def command(self) -> list[str]:
        table = self.folder / "transport"
        table.write_text("".join(f"{domain} smtp:{next_hop}\n" for domain, next_hop in self.routes.items()))
        self.extra = f"transport_maps = texthash:{table}\n"
        return super().command()


def make_server(kind: type[Server], folder: Path, sink_port: int, routes: dict[str, str], more: str = "") -> Server:
    """A server that knows these routes; all other mail goes to the sink. `more`: for mailflow only."""
    server = kind(folder, sink_port)
    assert isinstance(server, RoutedMailflow | RoutedPostfix)
    server.routes = routes
    if isinstance(server, RoutedMailflow):
        server.more = more
    return server


SERVERS: dict[str, type[Server]] = {"mailflow": RoutedMailflow, "postfix": RoutedPostfix}
