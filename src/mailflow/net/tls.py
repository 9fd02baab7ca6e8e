"""Certificates: read, judged, chosen by name, and renewed while the server runs.

`Certificates` holds what the files said when they were read last, as one `Generation`: for each `Variant` (level, client
certificates) a context whose SNI callback knows all names. A generation is made whole, in a thread, and put in place of
the old one by one assignment; a handshake belongs to the generation it began with. What cannot be used is a `Flaw`,
from `examine`, which `config check` tells with its line.

Levels (docs/ingress.md says the same to operators; the middle one is Mozilla's "intermediate" without DHE):
modern = TLS 1.3; intermediate = TLS 1.2 with ECDHE and AEAD; old = what the library has, security level 0.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import ssl
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mailflow.errors import ConfigError, ConfigProblem
from mailflow.net.tls_settings import CertificateSettings, ClientCertificates, Level, TlsSettings

WARN_DAYS = 14
"""A certificate that ends sooner than this is warned of."""

TICKET_KEY_SECONDS = 86400.0
"""A context's keys for session tickets live as long as the context; it is made anew after this time, so that who
steals the keys can read no more than a day's sessions of TLS 1.2 (RFC 9325 §3.4)."""

_AEAD = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_CIPHERS: dict[Level, str] = {
    "modern": _AEAD,
    "intermediate": _AEAD,
    # Level 0 because TLS 1.0 and 1.1 sign with SHA-1, which OpenSSL 3 allows nowhere else.
    "old": f"{_AEAD}:ECDHE+AES:AESGCM:AES:!AESCCM:!aNULL:!eNULL:!PSK:!SRP:@SECLEVEL=0",
}
_MINIMUM: dict[Level, ssl.TLSVersion] = {
    "modern": ssl.TLSVersion.TLSv1_3,
    "intermediate": ssl.TLSVersion.TLSv1_2,
    "old": ssl.TLSVersion.MINIMUM_SUPPORTED,
}

KeyPath = tuple[str | int, ...]
Stamp = tuple[int, int, int] | None


class Variant(NamedTuple):
    """What a context can differ in, besides the certificate."""

    level: Level
    clients: ClientCertificates


class Flaw(NamedTuple):
    """Something wrong with the files of `[tls]`."""

    key: KeyPath
    """The setting below [tls]: ("certificate", 0, "chain")."""
    message: str
    accepted: str = ""
    fatal: bool = True
    """False for what works and should be mended."""


class Generation:
    """Contexts that were made from one reading of the files."""

    __slots__ = ("contexts", "flaws", "renewed")

    def __init__(self, contexts: dict[Variant, ssl.SSLContext], flaws: list[Flaw], *, renewed: bool) -> None:
        self.contexts = contexts
        self.renewed = renewed
        """The files have changed."""
        self.flaws = flaws
        """What should be mended."""


class Certificates:
    """All certificates of one server. `start` and `stop` belong to the event loop."""

    def __init__(
        self,
        settings: TlsSettings,
        variants: Iterable[Variant] = (),
        *,
        log: Callable[..., None],
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`variants`: those that listeners will ask for. `log(event, level, **fields)` is called in the loop.

        Reads the files. Raises ConfigError.
        """
        self._settings = settings
        self._variants = frozenset(variants) | {Variant(settings.level, settings.client_certificates)}
        self._log = log
        self._executor = executor
        self._clock = clock
        self._stamps = _stamps(settings)
        self._made = clock()
        self._generation = _build(settings, self._variants)
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._reading: asyncio.Future[Generation | ConfigError | None] | None = None

    def __repr__(self) -> str:
        return f"<Certificates {len(self._settings.certificate)} files, {len(self._variants)} variants>"

    def context(self, variant: Variant) -> ssl.SSLContext:
        """For one handshake: the newest."""
        return self._generation.contexts[variant]

    def start(self) -> None:
        """Looks at the files regularly from now on. Logs what should be mended."""
        self._warn()
        self._wait()

    def stop(self) -> None:
        """Looks no more."""
        self._stopped = True
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(self._settings.check_interval, self.look)

    def look(self) -> None:
        """Looks at the files now, in a thread; what is new there is in use soon after."""
        if self._reading is not None:
            return
        self._cancel()
        self._reading = asyncio.get_running_loop().run_in_executor(self._executor, self._read)
        self._reading.add_done_callback(self._take)

    def _read(self) -> Generation | ConfigError | None:
        """In a thread: a new generation if a file has changed, or the old one is a day old."""
        stamps, now = _stamps(self._settings), self._clock()
        renewed = stamps != self._stamps
        if not renewed and now - self._made < TICKET_KEY_SECONDS:
            return None
        self._stamps, self._made = stamps, now  # a bad file is judged again when it changes again
        try:
            return _build(self._settings, self._variants, renewed=renewed)
        except ConfigError as error:
            return error

    def _take(self, reading: asyncio.Future[Generation | ConfigError | None]) -> None:
        self._reading = None
        if reading.cancelled() or self._stopped:
            return
        found = reading.exception() or reading.result()
        if isinstance(found, Generation):
            self._generation = found
            if found.renewed:
                self._log("tls-certificates", 20, state="renewed")
            self._warn()
        elif found is not None:
            self._log("warning", 40, reason=f"the old certificates stay in use: {str(found) or type(found).__name__}")
        self._wait()

    def _warn(self) -> None:
        for flaw in self._generation.flaws:
            self._log("warning", 30, reason=f"{_dotted(flaw.key)}: {flaw.message}")


def fingerprint(der: bytes) -> str:
    """A certificate's SHA-256 fingerprint, "ab:cd:…"."""
    return hashlib.sha256(der).digest().hex(":")


def examine(settings: TlsSettings) -> Iterator[Flaw]:
    """What is wrong with the certificates, keys and authorities that the settings name."""
    for number, pair in enumerate(settings.certificate):
        for flaw in _examine_pair(pair):
            yield flaw._replace(key=("certificate", number, *flaw.key))
    if settings.client_ca is not None:
        try:
            _bare_context().load_verify_locations(cafile=settings.client_ca)
        except OSError as error:  # SSLError is one
            yield Flaw(("client_ca",), f"{settings.client_ca}: {_words(error)}", "a PEM file with certificates")


def _examine_pair(pair: CertificateSettings) -> Iterator[Flaw]:
    certificate = "a PEM file, the server's certificate first"
    try:
        end = _read_chain(pair.chain).end
    except (OSError, ValueError) as error:
        yield Flaw(("chain",), f"{pair.chain}: {_words(error)}", certificate)
        return
    left = end - time.time()
    if left < WARN_DAYS * 86400:
        day = datetime.fromtimestamp(end, UTC).date()
        words = f"expired on {day}" if left < 0 else f"ends on {day}"
        yield Flaw(("chain",), f"the certificate {pair.chain} {words}", fatal=False)
    key, name = (pair.chain, "chain") if pair.key is None else (pair.key, "key")
    try:
        mode = key.stat().st_mode
        _load_pair(_bare_context(), pair)
    except OSError as error:
        yield Flaw((name,), f"{key}: {_words(error)}", "the PEM file of the certificate's private key, not encrypted")
        return
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        message = f"the private key {key} can be read by others (mode {stat.S_IMODE(mode):04o})"
        yield Flaw((name,), message, "mode 0600 or 0640", fatal=False)


def _words(error: Exception) -> str:
    """An error of reading, in the operator's words."""
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").upper()
        if reason == "KEY_VALUES_MISMATCH":
            return "the private key does not belong to the certificate"
        return f"cannot be used ({reason.lower().replace('_', ' ') or 'no PEM data'})"
    return error.strerror or "cannot be read" if isinstance(error, OSError) else "holds no certificate"


class ServerContext(ssl.SSLContext):
    """A context that knows what its certificate is called in channel bindings."""

    end_point: bytes
    """tls-server-end-point (RFC 5929 §4); b"" where the certificate has none."""


class _Read(NamedTuple):
    """What a certificate says."""

    names: list[str]
    end: float
    """Seconds since 1970."""
    end_point: bytes


def _read_chain(path: Path) -> _Read:
    """Reads the first certificate of a file. Raises OSError, ValueError."""
    from cryptography import x509  # takes 50 ms, and many servers have no certificate
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    first = x509.load_pem_x509_certificates(path.read_bytes())[0]
    try:
        extension = first.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = [str(attribute.value) for attribute in first.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    algorithm = first.signature_hash_algorithm
    end_point = b""
    if algorithm is not None:
        # RFC 5929 §4.1: MD5 and SHA-1 are replaced by SHA-256
        end_point = first.fingerprint(hashes.SHA256() if algorithm.name in ("md5", "sha1") else algorithm)
    return _Read(names, first.not_valid_after_utc.timestamp(), end_point)


def _stamps(settings: TlsSettings) -> list[Stamp]:
    paths = [path for pair in settings.certificate for path in (pair.chain, pair.key)]
    return [_stamp(path) for path in (*paths, settings.client_ca) if path is not None]


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _build(settings: TlsSettings, variants: Iterable[Variant], *, renewed: bool = True) -> Generation:
    """Contexts for all variants. Raises ConfigError."""
    flaws = list(examine(settings))
    problems = [ConfigProblem(f.message, key=_dotted(f.key), accepted=f.accepted) for f in flaws if f.fatal]
    if problems:
        raise ConfigError(problems)
    try:
        contexts = {variant: _choosing_context(settings, variant) for variant in variants}
    except (OSError, ValueError) as error:  # changed since it was examined
        raise ConfigError([ConfigProblem(_words(error), key="tls.certificate")]) from None
    return Generation(contexts, flaws, renewed=renewed)


def _dotted(key: KeyPath) -> str:
    text = "tls"
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text


def _choosing_context(settings: TlsSettings, variant: Variant) -> ssl.SSLContext:
    """The first certificate's context, which gives way to another's when the client names one of its names."""
    names: dict[str, ssl.SSLContext] = {}
    contexts = []
    for pair in settings.certificate:
        context = _context(settings, variant)
        _load_pair(context, pair)
        read = _read_chain(pair.chain)
        context.end_point = read.end_point
        contexts.append(context)
        for name in pair.names or read.names:
            names.setdefault(name.lower(), context)

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
        if name:
            found = names.get(name := name.lower()) or names.get("*." + name.partition(".")[2])
            if found is not None:
                connection.context = found

    if len(contexts) > 1:
        contexts[0].sni_callback = choose
    return contexts[0]


def _bare_context() -> ServerContext:
    return ServerContext(ssl.PROTOCOL_TLS_SERVER)


def _context(settings: TlsSettings, variant: Variant) -> ServerContext:
    context = _bare_context()
    context.minimum_version = _MINIMUM[variant.level]
    context.set_ciphers(_CIPHERS[variant.level])
    # Python sets NO_COMPRESSION and CIPHER_SERVER_PREFERENCE itself.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1
    if variant.clients != "no":
        context.verify_mode = ssl.CERT_REQUIRED if variant.clients == "require" else ssl.CERT_OPTIONAL
        # A client's own certificate in client_ca then vouches for itself.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if settings.client_ca is not None:
            context.load_verify_locations(cafile=settings.client_ca)
    return context


def _load_pair(context: ssl.SSLContext, pair: CertificateSettings) -> None:
    def encrypted() -> str:
        raise OSError(errno.EINVAL, "the private key is encrypted")

    # Without a function here the library would ask for the password on the terminal.
    context.load_cert_chain(pair.chain, pair.key, password=encrypted)
