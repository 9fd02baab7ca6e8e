"""The settings of TLS: `[tls]` and `[[tls.certificate]]`. Read by `net/tls.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from mailflow.setting import Duration, Section, setting

Level = Literal["modern", "intermediate", "old"]
ClientCertificates = Literal["no", "ask", "require"]


class CertificateSettings(Section):
    """One certificate, for the names that are in it."""

    chain: Path = setting(postfix="smtpd_tls_chain_files, smtpd_tls_cert_file")
    """PEM file: the certificate first, then those between it and the authority's root."""

    key: Path | None = setting(None, postfix="smtpd_tls_key_file")
    """PEM file with the private key, not encrypted; not needed when the key stands in `chain` too. It should be readable for the server's user
    alone."""

    names: list[str] = setting([], postfix="tls_server_sni_maps")
    """Host names for which this certificate is shown to clients that name one (SNI), such as "mx.example.org"
    or "*.example.org" (one label). Empty: the names in the certificate."""


class TlsSettings(Section):
    """Encrypted connections. With a certificate the listeners offer STARTTLS; the first one is shown to clients that
    name no host, or none of ours. Changed files are noticed within `check_interval` and on reload: new connections get the
    new certificate, those that are open keep theirs, and a pair that cannot be used is logged and the old one kept."""

    certificate: list[CertificateSettings] = setting([])

    level: Level = setting("intermediate", postfix="smtpd_tls_protocols, smtpd_tls_ciphers")
    """What clients must be able to do. "modern": TLS 1.3. "intermediate": TLS 1.2 with ECDHE and an authenticated cipher (AES-GCM or
    ChaCha20-Poly1305), or TLS 1.3. "old": from TLS 1.0 (as far as the OpenSSL library has it), with CBC ciphers and without forward secrecy where a
    client knows nothing better. Groups are the library's choice (X25519, P-256 and others). See docs/ingress.md."""

    client_certificates: ClientCertificates = setting("no", postfix="smtpd_tls_ask_ccert, smtpd_tls_req_ccert")
    """Whether clients are asked for a certificate. Only one that `client_ca` vouches for is accepted; with any other the
    handshake fails, even with "ask", because the library leaves no choice. So this is for listeners whose clients are known, not for port 25 of
    the open Internet."""

    client_ca: Path | None = setting(None, postfix="smtpd_tls_CAfile")
    """PEM file with the authorities that sign clients' certificates, or with the clients' certificates themselves (also
    self-signed ones)."""

    handshakes: int = setting(200, ge=1)
    """Handshakes at the same time; one more is told 454 4.7.0, or is closed where TLS comes first."""

    handshake_timeout: Duration = setting("30s", postfix="smtpd_starttls_timeout", gt=0)
    """How long a client may take for the handshake."""

    check_interval: Duration = setting("30s", gt=0, le=60)
    """How often the files are looked at, at most a minute."""

    def relative_to(self, base: Path) -> Self:
        """A copy whose relative paths begin at `base`."""
        pairs = [
            pair.model_copy(update={"chain": base / pair.chain, "key": None if pair.key is None else base / pair.key})
            for pair in self.certificate
        ]
        ca = None if self.client_ca is None else base / self.client_ca
        return self.model_copy(update={"certificate": pairs, "client_ca": ca})
