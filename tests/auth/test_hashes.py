"""Stored passwords: ours and those of others."""

from __future__ import annotations

import shutil
import subprocess

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.auth import hashes
from mailflow.smtp.saslprep import saslprep

# From the description of SHA-crypt by Ulrich Drepper, and of bcrypt in crypt_blowfish's own tests.
FOREIGN = [
    (
        "{SHA512-CRYPT}$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        "Hello world!",
    ),
    (
        "{SHA512-CRYPT}$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
        "Hello world!",
    ),
    ("{SHA256-CRYPT}$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5", "Hello world!"),
    ("{BLF-CRYPT}$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
    ("{BCRYPT}$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
    ("{CRYPT}$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5", "Hello world!"),
]


@pytest.mark.parametrize(("stored", "password"), FOREIGN)
def test_hashes_made_elsewhere(stored, password):
    hashes.check_form(stored)
    assert hashes.verify(stored, password)
    assert not hashes.verify(stored, password + "x")


@pytest.mark.parametrize("scheme", hashes.MADE)
def test_hashes_made_here(scheme):
    stored = hashes.make(scheme, "open sesame")
    hashes.check_form(stored)
    assert stored.startswith("{" + scheme + "}")
    assert hashes.verify(stored, "open sesame")
    assert not hashes.verify(stored, "open barley")
    assert stored != hashes.make(scheme, "open sesame")


def test_openssl_reads_what_we_make():
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    value = hashes.make("SHA512-CRYPT", "open sesame").partition("}")[2]
    salt = value.rpartition("$")[0].partition("$6$")[2]
    made = subprocess.run(
        ["openssl", "passwd", "-6", "-salt", salt, "open sesame"], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == value


def test_a_password_typed_in_another_form():
    stored = hashes.make("ARGON2ID", "ca\u0301f\u00e9")
    assert hashes.verify(stored, "c\u00e1fe\u0301")
    elsewhere = "{ARGON2ID}" + argon2.PasswordHasher(1, 8, 1).hash("ca\u0301fe")  # stored without any preparation
    assert hashes.verify(elsewhere, "ca\u0301fe")


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "open sesame",
        "{PLAIN}open sesame",
        "{ARGON2ID}",
        "{ARGON2ID}x",
        "{SHA512-CRYPT}$5$x$y",
        "{SCRAM-SHA-256}1",
        "{CRYPT}abJnggxhB/yWI",
        "{ARGON2ID}" + "x" * 1100,
    ],
)
def test_what_is_no_stored_password(stored):
    with pytest.raises(ValueError) as caught:
        hashes.check_form(stored)
    assert "sesame" not in str(caught.value)


@given(st.text(max_size=200))
def test_no_text_makes_the_check_raise_anything_else(stored):
    for text in (stored, "{ARGON2ID}" + stored, "{SCRAM-SHA-256}" + stored, "{CRYPT}$6$" + stored):
        try:
            hashes.check_form(text)
        except ValueError:
            continue


def test_crypt_refuses_what_it_does_not_know():
    with pytest.raises(ValueError):
        hashes.verify("{CRYPT}$99$salt$hash", "x")


# RFC 4013 §3
@pytest.mark.parametrize(
    ("text", "prepared"), [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX")]
)
def test_the_examples_of_saslprep(text, prepared):
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u06271", "\u0627a\u0627", "\ue000", "a\u200e"])
def test_what_saslprep_forbids(text):
    with pytest.raises(ValueError):
        saslprep(text)


@given(st.text(max_size=40))
def test_saslprep_is_final(text):
    try:
        prepared = saslprep(text)
    except ValueError:
        return
    assert saslprep(prepared) == prepared
