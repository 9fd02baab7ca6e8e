"""Certificates for these tests, and clients that use them."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme

from mailflow.ingress.auth.authenticator import Authenticator
from mailflow.ingress.listener import Listener
from mailflow.ingress.settings import LimitsSettings, ListenerSettings
from mailflow.net.tls_settings import TlsSettings
from tests.ingress.fakes import RELAY, Client, FakeIntake, FakeLog, resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "mx.test"


class Authority:
    """An authority, and files with what it signs."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.folder = trustme.CA(), folder
        self.file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.file))

    def issue(self, *names: str, to: str = "", **more: Any) -> dict[str, Any]:
        """A certificate for these names as settings; `to` is the files' name, default the first name."""
        certificate = self.ca.issue_cert(*names, **more)
        stem = to or names[0].replace("*", "any")
        chain, key = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        for path, blobs in ((chain, certificate.cert_chain_pems), (key, [certificate.private_key_pem])):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
            fresh.chmod(0o600)
            fresh.replace(path)
        return {"chain": chain, "key": key}

    def client(self, pair: dict[str, Any] | None = None, **bounds: ssl.TLSVersion) -> ssl.SSLContext:
        """A client's context that trusts this authority; with a certificate of its own."""
        context = ssl.create_default_context(cafile=str(self.file))
        if pair:
            context.load_cert_chain(pair["chain"], pair["key"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for name, version in bounds.items():
                setattr(context, name, version)
        return context


@asynccontextmanager
async def listening(
    tls: dict[str, Any],
    log: FakeLog | None = None,
    *,
    intake: FakeIntake | None = None,
    ours: bool = True,
    limits: dict[str, Any] | None = None,
    more: list[dict[str, Any]] | None = None,
    auth: Authenticator | None = None,
    **listener: Any,
) -> AsyncIterator[Listener]:
    """A listener with these settings, and further ones."""
    server = Listener(
        [ListenerSettings(**({"bind": "127.0.0.1:0"} | one)) for one in (listener, *(more or []))],
        LimitsSettings(**(limits or {})),
        hostname=HOST,
        networks=RELAY.networks if ours else [],
        recipients=resolver(),
        intake=intake or FakeIntake(),
        log=log or FakeLog(),
        tls=TlsSettings(**tls),
        auth=auth,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.close()
        assert server.sessions == server.handshakes == 0


class TlsClient(Client):
    """One that can say STARTTLS."""

    @classmethod
    async def secure(cls, listener: Listener, context: ssl.SSLContext, name: str = HOST) -> TlsClient:
        """To a listener where TLS comes first."""
        host, port, _ = listener.addresses[0]
        return cls(*await asyncio.open_connection(host, port, ssl=context, server_hostname=name))

    async def start_tls(self, context: ssl.SSLContext, name: str = HOST) -> None:
        """The handshake, after 220."""
        await self.writer.start_tls(context, server_hostname=name)

    @property
    def peer_names(self) -> set[str]:
        """The names in the certificate that the server has shown."""
        found = self.writer.get_extra_info("ssl_object").getpeercert()
        return {name for _, name in found["subjectAltName"]}

    async def deliver(self, content: bytes = b"Subject: x\r\n\r\nx\r\n") -> str:
        """A message; gives the last answer."""
        self.send(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n")
        assert [(await self.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
        return await self.say(content + b".")
