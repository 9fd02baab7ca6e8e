"""What an idle session costs in memory: resident bytes of the server for each, in the clear and under TLS.

usage: python -m bench.idle [SESSIONS] [clear | starttls]

A server in a process of its own, as shipped but for the number of sessions; so many clients connect, say EHLO and
then nothing. The figure is what the server's resident memory has grown by, divided by the sessions; before the first reading a tenth
as many have come and gone, so that what is made once does not count. What the kernel keeps for sockets is not in it.
"""

from __future__ import annotations

import gc
import resource
import socket
import ssl
import sys
import tempfile
from pathlib import Path

from bench.servers import Mailflow, Server

SESSIONS = 5000
WARM_UP = 50
EXTRAPOLATED = 100_000
HOST = "mx.bench.example"
WAYS = ("clear", "starttls")


class Idle(Mailflow):
    """The server, with a certificate and room for many sessions."""

    def command(self) -> list[str]:
        words = super().command()
        certificate(self.folder)
        with (self.folder / "mailflow.toml").open("a") as config:
            config.write('[limits]\nsessions = 200_000\nidle_timeout = "1h"\n')
            config.write('[tls]\nhandshakes = 1000\n[[tls.certificate]]\nchain = "cert.pem"\nkey = "key.pem"\n')
        return words


def certificate(folder: Path) -> None:
    """A certificate that signs itself, as most have them: ECDSA with P-256."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=88))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    (folder / "key.pem").chmod(0o600)


def resident(pid: int) -> int:
    """Bytes of memory that the process has in use."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


class Session:
    """One client that has said EHLO."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self.sock: socket.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.hear()
        self.say(b"EHLO client.bench.example\r\n")
        if context is not None:
            self.say(b"STARTTLS\r\n")
            self.sock = context.wrap_socket(self.sock, server_hostname=HOST)
            self.say(b"EHLO client.bench.example\r\n")

    def say(self, line: bytes) -> None:
        self.sock.sendall(line)
        self.hear()

    def hear(self) -> None:
        answer = b""
        while not answer.endswith(b"\r\n") or answer.splitlines()[-1][3:4] != b" ":
            answer += self.sock.recv(4096)

    def close(self) -> None:
        self.sock.close()


def measure(server: Server, sessions: int, context: ssl.SSLContext | None) -> float:
    """Bytes for each session."""
    for session in [Session(server.port, context) for _ in range(WARM_UP)]:
        session.close()
    before = resident(server.pid)
    open_ones = [Session(server.port, context) for _ in range(sessions)]
    grown = resident(server.pid) - before
    for session in open_ones:
        session.close()
    return grown / sessions


def main() -> None:
    """The command."""
    words = sys.argv[1:]
    sessions = next((int(word) for word in words if word.isdigit()), SESSIONS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < sessions + 100:
        sys.exit(f"{sessions} sessions need as many descriptors; the hard limit is {hard} (ulimit -Hn)")
    gc.disable()
    for way in WAYS if not set(words) & set(WAYS) else [way for way in WAYS if way in words]:
        context = None
        if way != "clear":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with tempfile.TemporaryDirectory() as name:
            server = Idle(Path(name), 9)
            server.start()
            try:
                size = measure(server, sessions, context)
            finally:
                server.stop()
        total = size * EXTRAPOLATED / 2**20
        print(f"{way:9}{sessions:7} sessions {size / 1024:6.1f} KiB each; {EXTRAPOLATED:,} would take {total:,.0f} MiB")


if __name__ == "__main__":
    main()
