"""What TLS scanners say about the listeners: sslyze against Mozilla's profiles, testssl.sh for weaknesses and its grade.

usage: python -m bench.tls_grade [LEVEL …]

A server with one listener for each level (`tls.level`), STARTTLS on loopback, a certificate of an authority that is made for
it. Uses whichever of `sslyze` (PyPI) and `testssl` (Debian's testssl.sh) is on the path; takes a minute for sslyze and some for testssl.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.idle import HOST, certificate
from bench.servers import Mailflow, Server, free_port

LEVELS = ("modern", "intermediate", "old")
SCAN_SECONDS = 900


class Levels(Mailflow):
    """The server with a listener for each level."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 9)
        self.ports = {level: free_port() for level in LEVELS}

    def command(self) -> list[str]:
        words = super().command()
        certificate(self.folder)
        with (self.folder / "mailflow.toml").open("a") as config:
            config.write('[[tls.certificate]]\nchain = "cert.pem"\nkey = "key.pem"\n')
            config.writelines(
                f'[[listener]]\nbind = "127.0.0.1:{port}"\ntls_level = "{level}"\n'
                for level, port in self.ports.items()
            )
        return words


def sslyze(port: int, level: str, folder: Path) -> None:
    """Prints whether the listener is what Mozilla's profile of the same name asks for, and what differs."""
    done = subprocess.run(
        [
            "sslyze",
            "--starttls=smtp",
            f"--mozilla_config={level}",
            "--certinfo_ca_file",
            folder / "cert.pem",
            f"{HOST}:{port}{{127.0.0.1}}",
        ],
        capture_output=True,
        text=True,
        timeout=SCAN_SECONDS,
    )
    lines = done.stdout.splitlines()
    start = next((i for i, line in enumerate(lines) if "COMPLIANCE AGAINST" in line.upper()), 0)
    print("\n".join(line for line in lines[start:] if line.strip()))


def testssl(port: int, folder: Path) -> None:
    """Prints the grade and all findings that are worse than "OK"."""
    report = folder / "testssl.json"
    report.unlink(missing_ok=True)
    subprocess.run(
        [
            "testssl",
            "--quiet",
            "--color",
            "0",
            "--ip",
            "127.0.0.1",
            "--add-ca",
            folder / "cert.pem",
            "-t",
            "smtp",
            "--jsonfile",
            report,
            f"{HOST}:{port}",
        ],
        capture_output=True,
        timeout=SCAN_SECONDS,
    )
    findings = json.loads(report.read_text())
    for finding in findings:
        about = finding["id"]
        if about in ("overall_grade", "final_score") or about.startswith("grade_cap"):
            print(f"{about}: {finding['finding']}")
        elif finding["severity"] not in ("OK", "INFO", "DEBUG"):
            print(f"  {finding['severity']} {about}: {finding['finding']}")


def scan(server: Levels, levels: list[str]) -> None:
    """All tools that are there, for these levels."""
    for level in levels:
        if shutil.which("sslyze"):
            print(f"== sslyze, {level}")
            sslyze(server.ports[level], level, server.folder)
        if shutil.which("testssl"):
            print(f"== testssl, {level}")
            testssl(server.ports[level], server.folder)


def main() -> None:
    """The command."""
    if not (shutil.which("sslyze") or shutil.which("testssl")):
        sys.exit("neither sslyze (PyPI) nor testssl (Debian's testssl.sh) is on the path")
    levels = [word for word in sys.argv[1:] if word in LEVELS] or list(LEVELS)
    with tempfile.TemporaryDirectory() as name:
        server = Levels(Path(name))
        server.start()
        try:
            scan(server, levels)
        finally:
            Server.stop(server)


if __name__ == "__main__":
    main()
