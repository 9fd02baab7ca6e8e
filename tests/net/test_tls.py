"""Certificate files: what is wrong with them is said before anything starts, and where it stands."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mailflow.errors import ConfigError
from mailflow.net.tls import TICKET_KEY_SECONDS, Certificates, Variant, examine
from mailflow.net.tls_settings import CertificateSettings, TlsSettings
from mailflow.settings import Settings
from tests.ingress.tls import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def flaws(*pairs: dict[str, Path], **more: Path) -> list[tuple[str, str, bool]]:
    settings = TlsSettings(certificate=[CertificateSettings(**pair) for pair in pairs], **more)
    return [(".".join(map(str, flaw.key)), flaw.message, flaw.fatal) for flaw in examine(settings)]


def test_a_good_pair_has_no_flaws(authority: Authority) -> None:
    pair = authority.issue("mx.test")
    both = authority.folder / "both.pem"
    both.write_bytes(pair["key"].read_bytes() + pair["chain"].read_bytes())
    both.chmod(0o640)
    assert flaws(pair, {"chain": both}, client_ca=authority.file) == []


def test_what_cannot_be_used(authority: Authority) -> None:
    good, other, folder = authority.issue("mx.test"), authority.issue("other.test"), authority.folder
    junk = folder / "junk.pem"
    junk.write_text("no certificate")
    key = serialization.load_pem_private_key(other["key"].read_bytes(), None)
    locked = folder / "locked.key"
    encryption = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, encryption)
    )
    missing = folder / "missing"
    assert [
        (name, words.partition(": ")[2], fatal)
        for name, words, fatal in flaws(
            {**good, "key": other["key"]},
            {**good, "key": missing},
            {**good, "key": junk},
            {**other, "key": locked},
            {"chain": missing},
            {"chain": junk},
            {"chain": good["chain"]},
            client_ca=junk,
        )
    ] == [
        ("certificate.0.key", "the private key does not belong to the certificate", True),
        ("certificate.1.key", "No such file or directory", True),
        ("certificate.2.key", "cannot be used (no PEM data)", True),
        ("certificate.3.key", "the private key is encrypted", True),
        ("certificate.4.chain", "No such file or directory", True),
        ("certificate.5.chain", "holds no certificate", True),
        ("certificate.6.chain", "cannot be used (no PEM data)", True),
        ("client_ca", "cannot be used (no certificate or crl found)", True),
    ]


def test_what_should_be_mended(authority: Authority) -> None:
    now = dt.datetime.now(dt.UTC)
    old = authority.issue("old.test", not_before=now - dt.timedelta(9), not_after=now - dt.timedelta(2))
    soon = authority.issue("soon.test", not_after=now + dt.timedelta(3))
    day = (now - dt.timedelta(2)).date(), (now + dt.timedelta(3)).date()
    old["key"].chmod(0o644)
    assert flaws(old, soon) == [
        ("certificate.0.chain", f"the certificate {old['chain']} expired on {day[0]}", False),
        ("certificate.0.key", f"the private key {old['key']} can be read by others (mode 0644)", False),
        ("certificate.1.chain", f"the certificate {soon['chain']} ends on {day[1]}", False),
    ]


def test_certificates_that_cannot_be_used_are_a_configuration_error(authority: Authority) -> None:
    settings = TlsSettings(certificate=[CertificateSettings(chain=authority.folder / "missing")])
    with pytest.raises(ConfigError, match=r"tls\.certificate\[0\]\.chain: .*missing: No such file"):
        Certificates(settings, log=lambda *_: None)


def test_ticket_keys_last_a_day(authority: Authority) -> None:
    now = [0.0]
    variant = Variant("modern", "no")
    settings = TlsSettings(certificate=[CertificateSettings(**authority.issue("mx.test"))], check_interval=0.01)
    events = []

    async def until(look: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not look():
                await asyncio.sleep(0)

    async def test() -> None:
        with ThreadPoolExecutor(1) as pool:
            certificates = Certificates(
                settings, [variant], log=lambda *event: events.append(event), executor=pool, clock=lambda: now[0]
            )
            certificates.start()
            first = certificates.context(variant)
            for time, changed in ((TICKET_KEY_SECONDS - 1, False), (TICKET_KEY_SECONDS, True)):
                now[0] = time
                certificates.look()
                await until(lambda: certificates._reading is None)
                assert (certificates.context(variant) is not first) == changed
            certificates.stop()

    asyncio.run(test())
    assert events == []


def write(folder: Path, text: str) -> Path:
    path = folder / "mailflow.toml"
    path.write_text(f'hostname = "mx.example.test"\nspool = "spool"\n{text}')
    return path


def test_problems_name_file_line_and_key(authority: Authority) -> None:
    other = authority.issue("other.test")
    authority.issue("mx.test")
    text = f'[[tls.certificate]]\nchain = "mx.test.pem"\nkey = "{other["key"]}"\n'
    path = write(authority.folder, text)
    settings = Settings.load(path, environment={})
    with pytest.raises(ConfigError, match=f"{path}:5: tls.certificate\\[0\\].key: .* does not belong"):
        settings.examine()
    (authority.folder / "mx.test.key").chmod(0o604)
    path = write(authority.folder, text.replace(str(other["key"]), "mx.test.key"))
    (problem,) = Settings.load(path, environment={}).examine()
    assert str(problem).startswith(f"{path}:5: tls.certificate[0].key: the private key")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[listener]]\nbind = "127.0.0.1:0"\ntls = "offer"\n', "listener[0].tls: there is no certificate"),
        ('[[listener]]\nbind = "127.0.0.1:0"\nprotocol = "submissions"\n', "listener[0].protocol: there is no cert"),
        ('[tls]\nclient_certificates = "ask"\n', "tls.client_certificates: tls.client_ca is not set"),
        ('[[listener]]\nbind = "unix:' + "x" * 120 + '"\n', "listener[0].bind: the path of the socket is too long"),
        ('[[listener]]\nbind = "unix:s"\n[[listener]]\nbind = "unix:s"\n', "listener[1].bind: unix:"),
        ('[[listener]]\nbind = "fd:"\n', "listener[0].bind: not an address to listen on"),
        ('[[listener]]\nbind = "unix:s"\nsocket_mode = "660"\n', "listener[0].socket_mode"),
        ('[[listener]]\nbind = "unix:s"\n[listener.limits]\nmessage_size = 5\n', "listener[0].limits.message_size"),
    ],
)
def test_settings_that_do_not_fit_each_other(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        Settings.load(write(tmp_path, text), environment={})
    assert f": {problem}" in str(error.value)
