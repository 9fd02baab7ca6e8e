"""TLS between a transport and a protocol, for the server's side of a connection.

`TlsLayer` is the transport's protocol and its protocol's transport. It is made in the middle of a callback, by a
connection that has decided that from here on there is TLS (STARTTLS, or a listener where TLS comes first); from that
moment every byte that comes is TLS and nothing else. So no byte from before can be taken for one from after, and the protocol
hears nothing until its `secured` has been called. asyncio's `start_tls` has no such moment: it is a task, what it decrypts can
arrive before it returns, and each connection has a buffer of 256 KiB.

OpenSSL works on two memory buffers (`ssl.MemoryBIO`), in the loop: a handshake costs it about a millisecond, most of it the
signature. Input is decrypted and handed on as it comes, so what waits in here is less than one record (16 KiB) each way; back
pressure passes through in both directions. Time limits are the protocol's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Protocol

from mailflow.net.tls import fingerprint

RECORD_BYTES = 16384
"""A TLS record holds at most this much (RFC 8446 §5.1)."""


class Secured(Protocol):
    """What a protocol above the layer must have besides asyncio's callbacks."""

    def secured(self) -> None:
        """The handshake is done; the protocol may write, and will read."""
        ...

    def insecure(self, reason: str) -> None:
        """The handshake has failed, for a reason in fixed words; `connection_lost` follows."""
        ...

    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class TlsLayer(asyncio.Protocol, asyncio.Transport):
    """One connection's TLS. `start` begins the handshake."""

    __slots__ = ("_below", "_incoming", "_object", "_outgoing", "_shut", "_upper", "done")

    def __init__(self, below: asyncio.Transport, upper: Secured, context: ssl.SSLContext) -> None:
        self._below = below
        self._upper: Secured | None = upper
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shut = False
        """Nothing more is written: it is closing."""
        self.done = False
        """The handshake is."""

    def __repr__(self) -> str:
        return f"<TlsLayer {self.words if self.done else 'handshake'}>"

    def start(self) -> None:
        """Takes the transport over."""
        self._below.set_protocol(self)

    @property
    def words(self) -> str:
        """Version, cipher and strength, and whether the client has shown a certificate, as Received: shows them."""
        name, _, bits = self._object.cipher() or ("no cipher", "", 0)
        client = ", client certificate verified" if self._object.getpeercert(binary_form=True) else ""
        return f"{self._object.version()} with cipher {name} ({bits}/{bits} bits){client}"

    @property
    def certificate(self) -> str:
        """The fingerprint of the client's certificate, "" without one. It has been verified, or the handshake had failed."""
        der = self._object.getpeercert(binary_form=True)
        return fingerprint(der) if der else ""

    @property
    def bindings(self) -> dict[str, bytes]:
        """Channel bindings by name (RFC 5929). Python's ssl does not give tls-exporter."""
        found: dict[str, bytes] = {}
        end_point = getattr(self._object.context, "end_point", b"")
        if end_point:
            found["tls-server-end-point"] = end_point
        unique = None if self._object.version() == "TLSv1.3" else self._object.get_channel_binding("tls-unique")
        if unique:
            found["tls-unique"] = unique
        return found

    # What the transport below calls

    def data_received(self, data: bytes) -> None:
        """Records, or parts of them."""
        self._incoming.write(data)
        if self.done or self._shake_hands():
            self._read()

    def eof_received(self) -> bool | None:
        """The client has closed its side, without TLS's own goodbye: for SMTP, which says QUIT, that is no harm."""
        if self._upper is None or self._shut:
            return False
        if not self.done:
            self._fail("closed by the client")
            return False
        return self._upper.eof_received()

    def pause_writing(self) -> None:
        if self._upper is not None:
            self._upper.pause_writing()

    def resume_writing(self) -> None:
        if self._upper is not None:
            self._upper.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        upper, self._upper = self._upper, None  # no cycles: freed at once
        self._shut = True
        if upper is not None:
            if not self.done:
                upper.insecure("connection lost")
            upper.connection_lost(exc)

    # What the protocol above calls

    def write(self, data: Any) -> None:
        """Encrypts and sends."""
        if not data or self._shut or not self.done:
            return
        try:
            self._object.write(data)
        except ssl.SSLError:
            self.abort()
        else:
            self._send()

    def close(self) -> None:
        """Says goodbye, and closes when all that was written has left."""
        if not self._shut:
            self._shut = True
            if self.done:
                # It has written the goodbye and now wants the client's, which nobody waits for.
                with contextlib.suppress(ssl.SSLError):
                    self._object.unwrap()
                self._send()
            self._below.close()

    def abort(self) -> None:
        self._shut = True
        self._below.abort()

    def is_closing(self) -> bool:
        return self._shut or self._below.is_closing()

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        if not self._below.is_closing():
            self._below.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "channel_bindings":
            return self.bindings
        return self._object if name == "ssl_object" else self._below.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    # Helpers

    def _shake_hands(self) -> bool:
        if self._shut or self._upper is None:
            return False
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except ssl.SSLError as error:
            self._send()  # the alert
            self._fail((error.reason or "protocol error").lower().replace("_", " "))
            return False
        self.done = True
        self._send()
        self._upper.secured()
        return True

    def _fail(self, reason: str) -> None:
        upper = self._upper
        if upper is not None and not self._shut:
            self._shut = self.done = True  # told once
            upper.insecure(reason)
            self._below.close()

    def _read(self) -> None:
        """Hands on all that has come, in one piece: what a client sent in one flight is answered in one."""
        pieces = []
        ended = False
        try:
            while True:
                piece = self._object.read(RECORD_BYTES)
                if not piece:
                    ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError:
            self._send()
            self.abort()
            return
        self._send()
        if pieces and self._upper is not None and not self._shut:
            self._upper.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if ended and self._upper is not None and not self._shut and not self._upper.eof_received():
            self.close()

    def _send(self) -> None:
        data = self._outgoing.read()
        if data and not self._below.is_closing():
            self._below.write(data)
