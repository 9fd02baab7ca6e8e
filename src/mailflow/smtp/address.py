"""Addresses as they stand in SMTP commands: text in, checked text out, `AddressError` for anything else.

`parse_path` reads what follows "MAIL FROM:" and "RCPT TO:"; `parse_address` reads an address that stands alone
(configuration, command line, API). Both give "local@domain" without angle brackets: the local part in the case it was
written, with as little quoting as it needs, so that each mailbox has one spelling for all that looks it up (RFC 5321
§4.1.2: the forms are equivalent); the domain in the case it was written; "local" alone where no domain was given
(Postmaster, RFC 5321 §4.1.1.3; others are the caller's policy); "" for the null sender. `local_part` undoes the quoting.

Grammar: RFC 5321 §4.1.2 and §4.1.3, internationalised by RFC 6531 §3.3. Bent in three places, each harmless:
a blank before the path and missing angle brackets are accepted (old devices send both), and "_" may stand in a
domain (machine names inside a site have it). Source routes are accepted and dropped (RFC 5321 §4.1.1.3, appendix C).

What it does not do: look anything up, change case, convert U-labels, decide whether UTF-8 was announced (`str.isascii`).
The texts of `AddressError` are fixed words and may be shown to a client.
"""

from __future__ import annotations

import ipaddress
import re

# RFC 5321 §4.5.3.1.1 to §4.5.3.1.3, in octets; the path counts its angle brackets.
LOCAL_PART_OCTETS = 64
DOMAIN_OCTETS = 255
PATH_OCTETS = 256
# RFC 1035 §2.3.4
LABEL_OCTETS = 63

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_WIDE = "\u00a0-\U0010ffff"  # RFC 6531 §3.3, without the C1 control characters
ORDINARY_ADDRESS = rf"[{_ATEXT}](?:[{_ATEXT}.]{{0,62}}[{_ATEXT}])?@[A-Za-z0-9](?:[A-Za-z0-9.-]{{0,61}}[A-Za-z0-9])?"
"""A pattern for nearly all addresses. Lengths are kept so short that no limit above can be passed; what is longer or
stranger is not ordinary. Nor is an address with "..", "-." or ".-" in it: excluded apart, which is cheaper."""
_DOT_STRING = re.compile(rf"[{_ATEXT}{_WIDE}]+(?:\.[{_ATEXT}{_WIDE}]+)*")
_QUOTED = re.compile(rf'"(?:[ !#-\[\]-~{_WIDE}]|\\[ -~])*"')
_DOMAIN = re.compile(rf"[A-Za-z0-9_{_WIDE}-]+(?:\.[A-Za-z0-9_{_WIDE}-]+)*")
_LITERAL = re.compile(r"\[([!-Z^-~]+)\]")
_SOURCE_ROUTE = re.compile(rf"@{_DOMAIN.pattern}(?:,@{_DOMAIN.pattern})*:")


class AddressError(ValueError):
    """The text is no address; the words say what is wrong with it and hold nothing of the text."""


def parse_path(text: str) -> tuple[str, str]:
    """Splits what follows "MAIL FROM:" or "RCPT TO:" into (address, parameters).

    The address is "" for "<>"; the parameters are the rest of the line, "" when there is none. Raises AddressError.
    """
    text = text.lstrip(" ")
    bracket = text.startswith("<")
    start = 1 if bracket else 0
    if text.startswith("<>"):
        address, end = "", 2
    else:
        if bracket and text.startswith("@", 1):
            start = _after_source_route(text)
        end = _mailbox(text, start)
        address = _plain(text[start:end])
        if bracket:
            if not text.startswith(">", end):
                raise AddressError("the address is not closed by '>'")
            end += 1
    if text[end : end + 1] not in ("", " "):
        raise AddressError("something stands behind the address")
    return address, text[end:].lstrip(" ")


def parse_address(text: str) -> str:
    """Checks an address that stands alone, without angle brackets; gives it back. Raises AddressError."""
    end = _mailbox(text, 0)
    if end != len(text):
        raise AddressError("something stands behind the address")
    return _plain(text)


def local_part(address: str) -> str:
    """The local part without quotes and backslashes: "a b" of '"a b"@example.org', "alice" of 'alice@example.org'."""
    local, at, domain = address.rpartition("@")
    local = local if at else domain
    return re.sub(r"\\(.)", r"\1", local[1:-1]) if local.startswith('"') else local


def _plain(address: str) -> str:
    """The address with as little quoting as it needs: '"alice"@example.org' is alice@example.org."""
    if not address.startswith('"'):
        return address
    end = address.rindex('"')
    local, domain = re.sub(r"\\(.)", r"\1", address[1:end]), address[end + 1 :]
    if _DOT_STRING.fullmatch(local):
        return local + domain
    return '"' + re.sub(r'(["\\])', r"\\\1", local) + '"' + domain


def _after_source_route(text: str) -> int:
    route = _SOURCE_ROUTE.match(text, 1)
    if route is None:
        raise AddressError("malformed source route")
    if _octets(text[: route.end()]) > PATH_OCTETS:
        raise AddressError("path too long")
    return route.end()


def _mailbox(text: str, start: int) -> int:
    """Where the mailbox that begins at `start` ends. Raises AddressError."""
    pattern = _QUOTED if text.startswith('"', start) else _DOT_STRING
    local = pattern.match(text, start)
    if local is None:
        raise AddressError("malformed local part")
    if _octets(local[0]) > LOCAL_PART_OCTETS:
        raise AddressError("local part too long")
    if not text.startswith("@", local.end()):
        return local.end()
    end = _domain(text, local.end() + 1)
    if _octets(text[start:end]) > PATH_OCTETS - 2:
        raise AddressError("address too long")
    return end


def _domain(text: str, start: int) -> int:
    """Where the domain or address literal that begins at `start` ends. Raises AddressError."""
    if text.startswith("[", start):
        return _literal(text, start)
    domain = _DOMAIN.match(text, start)
    if domain is None:
        raise AddressError("malformed domain")
    if _octets(domain[0]) > DOMAIN_OCTETS:
        raise AddressError("domain too long")
    for label in domain[0].split("."):
        if label.startswith("-") or label.endswith("-") or _octets(label) > LABEL_OCTETS:
            raise AddressError("malformed domain")
    return domain.end()


def _literal(text: str, start: int) -> int:
    """RFC 5321 §4.1.3. Tags other than IPv6 are not defined by anybody and refused."""
    literal = _LITERAL.match(text, start)
    if literal is None:
        raise AddressError("malformed address literal")
    value = literal[1]
    try:
        if value[:5].upper() == "IPV6:" and "%" not in value:
            ipaddress.IPv6Address(value[5:])
        else:
            ipaddress.IPv4Address(value)
    except ValueError:
        raise AddressError("malformed address literal") from None
    return literal.end()


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
