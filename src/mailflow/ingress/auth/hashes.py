"""Stored passwords: one line of text, "{SCHEME}hash", verified and made. Slow on purpose: run in a thread (`backend.Pool`).

{ARGON2ID} by argon2-cffi; {SCRAM-SHA-256} is our own text of `scram.Keys` and serves SCRAM as well as PLAIN; {SHA512-CRYPT},
{SHA256-CRYPT}, {BCRYPT} (also {BLF-CRYPT}) and {CRYPT} go to the C library's crypt_r(3), the code that wrote /etc/shadow: it
lets other threads run meanwhile, which the versions of SHA-crypt in pure Python do not. The names are Dovecot's, so its files work.
"""

from __future__ import annotations

import ctypes
import functools
import hmac
import re
import secrets

import argon2

from mailflow.ingress.auth.backend import SCRAM_ITERATIONS
from mailflow.smtp.saslprep import saslprep
from mailflow.smtp.scram import SALT_OCTETS, Keys, make_keys, parse_keys

CRYPT_DATA_OCTETS = 256 * 1024
"""Room for `struct crypt_data`: 32 KiB in libxcrypt, 128 KiB in old glibc, 260 octets in musl."""
HASH_CHARACTERS = 1024
"""Longest stored hash."""

MADE = ("ARGON2ID", "SCRAM-SHA-256", "SHA512-CRYPT")
"""The schemes that new entries can have; the first is the usual one."""
_CRYPT = {
    "SHA512-CRYPT": "$6$",
    "SHA256-CRYPT": "$5$",
    "BCRYPT": "$2",
    "BLF-CRYPT": "$2",
    "CRYPT": "$",
}
_FORM = re.compile(r"\{([A-Za-z0-9.-]+)\}(\S+)")
_CRYPT_SALT = re.compile(r"\$[a-zA-Z0-9]+\$[\x21-\x39\x3b-\x7e]+")
_SALT_LETTERS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ARGON2 = argon2.PasswordHasher()


def check_form(stored: str) -> None:
    """Raises ValueError, with the accepted forms, when this is no stored password that we can verify."""
    scheme, value = _split(stored)
    if scheme == "SCRAM-SHA-256":
        parse_keys(value)
    elif scheme == "ARGON2ID":
        argon2.extract_parameters(value)  # InvalidHash is a ValueError
    elif not (value.startswith(_CRYPT[scheme]) and _CRYPT_SALT.fullmatch(value)):
        raise ValueError(f"not a {{{scheme}}} hash")
    elif _library() is None:
        raise ValueError(f"{{{scheme}}} needs crypt_r(3), which this machine's C library does not have")


def verify(stored: str, password: str) -> bool:
    """Whether this is the password. Raises ValueError for a stored form that `check_form` would not have passed."""
    scheme, value = _split(stored)
    if _matches(scheme, value, password):
        return True
    # What was stored by us is of the prepared form; what was stored elsewhere may be of what was typed there.
    prepared = prepare(password)
    return prepared != password and _matches(scheme, value, prepared)


def make(scheme: str, password: str) -> str:
    """A new stored form. Raises ValueError for a scheme not in `MADE`, or a password that SASLprep forbids."""
    password = saslprep(password)
    if scheme == "ARGON2ID":
        return "{ARGON2ID}" + _ARGON2.hash(password)
    if scheme == "SCRAM-SHA-256":
        return "{SCRAM-SHA-256}" + make_keys(password, secrets.token_bytes(SALT_OCTETS), SCRAM_ITERATIONS).encode()
    if scheme == "SHA512-CRYPT":
        salt = "".join(secrets.choice(_SALT_LETTERS) for _ in range(16))
        return "{SHA512-CRYPT}" + _crypt(password, f"$6$rounds=100000${salt}$")
    raise ValueError(f"no scheme {scheme} (accepted: {', '.join(MADE)})")


def keys_in(stored: str) -> Keys | None:
    """The SCRAM keys in a stored form; None when it is of another scheme."""
    scheme, value = _split(stored)
    return parse_keys(value) if scheme == "SCRAM-SHA-256" else None


def prepare(password: str) -> str:
    """The password by SASLprep; as it is when that forbids it."""
    try:
        return saslprep(password)
    except ValueError:
        return password


@functools.cache
def decoy() -> str:
    """A stored password that nobody has, of the usual cost. The first call takes as long as a verification."""
    return make(MADE[0], secrets.token_urlsafe(24))


def _split(stored: str) -> tuple[str, str]:
    form = _FORM.fullmatch(stored)
    scheme = form[1].upper() if form else ""
    if form is None or scheme not in (*MADE, *_CRYPT) or len(stored) > HASH_CHARACTERS:
        known = ", ".join("{" + name + "}" for name in sorted({*MADE, *_CRYPT}))
        raise ValueError(f"not a stored password (accepted: a scheme and its hash; schemes: {known})")
    return scheme, form[2]


def _matches(scheme: str, value: str, password: str) -> bool:
    if scheme == "SCRAM-SHA-256":
        keys = parse_keys(value)
        try:
            made = make_keys(password, keys.salt, keys.iterations)
        except ValueError:
            return False
        return hmac.compare_digest(made.stored_key, keys.stored_key)
    if scheme == "ARGON2ID":
        try:
            return _ARGON2.verify(value, password)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except argon2.exceptions.Argon2Error as error:
            raise ValueError(str(error)) from error
    return hmac.compare_digest(_crypt(password, value).encode(), value.encode())


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The C library that has crypt_r: libcrypt under its two names, or libc itself (musl)."""
    for name in ("libcrypt.so.1", "libcrypt.so.2", None):
        try:
            library = ctypes.CDLL(name)
            library.crypt_r.restype = ctypes.c_char_p
        except (OSError, AttributeError):
            continue
        library.crypt_r.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
        return library
    return None


def _crypt(password: str, salt: str) -> str:
    """crypt_r(3), in the password's UTF-8. Raises ValueError where it fails."""
    library = _library()
    secret = password.encode()
    if library is None or b"\0" in secret:
        raise ValueError("crypt_r(3) cannot be asked")
    room = ctypes.create_string_buffer(CRYPT_DATA_OCTETS)
    made: bytes | None = library.crypt_r(secret, salt.encode(), room)
    if not made or made.startswith(b"*"):
        raise ValueError("crypt_r(3) does not know this hash")
    return made.decode()
