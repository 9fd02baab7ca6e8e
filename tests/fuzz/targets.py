"""What is fuzzed: for each target a function of bytes that raises when something is wrong, and bytes to begin with.

None of the parsers may raise anything but its own error; and what must hold for all bytes is checked as well: replies
are well formed, the result does not depend on how the bytes were split, little is kept, and what was accepted leaves as
one message.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable

from mailflow.macros import Template
from mailflow.smtp.address import AddressError, parse_address, parse_path
from mailflow.smtp.commands import USUAL_MAIL, USUAL_RCPT, decode_line, parse_mail_params, parse_rcpt_params, usual_path
from mailflow.smtp.dots import wire_form
from mailflow.smtp.param_values import ParamError
from mailflow.smtp.profile import Offers, Profile
from mailflow.smtp.server import ServerCore
from mailflow.smtp.verbs_proxy import XCLIENT, XFORWARD, parse_attributes
from mailflow.smtp.verbs_security import AUTH_LINE_OCTETS, decode_base64
from tests.ingress.scripts import FOLDER, read
from tests.smtp_server.fakes import Recorder, bring

LINE = 1024
"""The least that the settings allow; `usual_path` relies on it."""
SIZE = 2000
LONGEST = 4096
"""Bytes of an input; more would show nothing new."""

OFFERS = Offers(
    mechanisms=("PLAIN", "LOGIN"),
    binarymime=True,
    requiretls=True,
    deliver_by=1,
    hold=True,
    etrn=True,
    vrfy="known",
    personal=True,
)
LIMITS = {"message_size": SIZE, "command_line": LINE, "data_line": 100, "errors": 10, "junk_commands": 10}
SECURED = Profile("mx.test", **LIMITS, offers=OFFERS)
PROFILES = (
    Profile("mx.test", **LIMITS),
    Profile("mx.test", **LIMITS, offers=OFFERS, secured=SECURED),
    Profile("mx.test", **LIMITS, offers=OFFERS, normalise=True, soft=True),
    Profile("mx.test", **LIMITS, offers=OFFERS, lmtp=True),
    Profile("mx.test", **LIMITS, offers=Offers(chunking=False, vrfy="off"), secured=SECURED, tls_first=True),
)
PENDING = ("hello", "starttls", "auth", "mail", "rcpt", "data", "end", "vrfy", "xclient")
REPLY = re.compile(rb"(?:[2345][0-9][0-9]-[^\r\n]*\r\n)*[2345][0-9][0-9] [^\r\n]*\r\n")


def converse(profile: Profile, pieces: Iterable[bytes], pending: Iterable[str] = ()) -> tuple[bytes, Recorder]:
    """What a core says to these pieces; TLS begins whenever it was granted."""
    handler = Recorder(pending)
    core = ServerCore(profile, handler)
    out = core.take()
    for piece in pieces:
        core.feed(piece)
        out += core.take() + bring(core, handler)
        assert len(core.input) <= max(LINE + 1, AUTH_LINE_OCTETS), "too much is kept"
    if core.upgrading:
        core.secured()
        core.feed(b"NOOP\r\nEHLO again\r\n")
        out += core.take() + bring(core, handler)
        tired = core.junk > profile.junk_commands
        assert core.closing or tired or b"250-mx.test" in out
    return out, handler


def fuzz_core(data: bytes) -> None:
    """A whole session: the first bytes choose its profile and how it is cut."""
    if len(data) < 3:
        return
    profile = PROFILES[data[0] % len(PROFILES)]
    width, data = 1 + data[1] % 40, data[2:]
    out, handler = converse(profile, [data])
    assert b"".join(REPLY.findall(out)) == out, "a malformed reply"
    cut = [data[i : i + width] for i in range(0, len(data), width)]
    for pieces, pending in (([data], PENDING), (cut, ()), (cut, PENDING)):
        other_out, other = converse(profile, pieces, pending)
        assert other_out == out, (other_out, out)
        assert other.messages == handler.messages
        assert [e for e in other.events if e != ("abort",)] == [e for e in handler.events if e != ("abort",)]
    if not profile.offers.binarymime:
        for message in handler.messages:
            assert b"".join(wire_form(message)).find(b"\r\n.\r\n") in (-1, len(b"".join(wire_form(message))) - 5)


def fuzz_content(data: bytes) -> None:
    """The same content by DATA and by BDAT, the chunks cut by the first byte."""
    if not data:
        return
    width, content = 1 + data[0], data[1:]
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    envelope = b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
    stuffed = (b"." if content.startswith(b".") else b"") + content.replace(b"\r\n.", b"\r\n..")
    by_data_out, by_data = converse(PROFILES[0], [envelope + b"DATA\r\n" + stuffed + b".\r\n"])
    chunks = [content[i : i + width] for i in range(0, len(content), width)]
    wire = b"".join(b"BDAT %d\r\n%s" % (len(c), c) for c in chunks)
    out, by_bdat = converse(PROFILES[0], [envelope + wire + b"BDAT 0 LAST\r\n"])
    assert by_bdat.messages == by_data.messages
    single_out, single = converse(PROFILES[0], [envelope + b"BDAT %d LAST\r\n%s" % (len(content), content)])
    assert single.messages == by_data.messages
    assert single_out.splitlines()[-1] == by_data_out.splitlines()[-1]
    for message in by_data.messages:
        assert message == content
        sent = b"\r\n" + b"".join(wire_form(message))
        assert sent.find(b"\r\n.\r\n") == len(sent) - 5
        assert re.search(rb"(?<!\r)\n|\r(?!\n)", message) is None
    assert b"".join(REPLY.findall(out)) == out


def fuzz_address(data: bytes) -> None:
    """Paths, addresses, and whole lines the short way and the long one."""
    text = decode_line(data)
    if text is None:
        return
    for parse in (parse_path, parse_address):
        with contextlib.suppress(AddressError):
            parse(text)
    for form, start in ((USUAL_MAIL, "MAIL FROM:"), (USUAL_RCPT, "RCPT TO:")):
        usual = usual_path(form, (start + text).encode())
        if usual is not None:
            address, words = parse_path(text)
            assert (address, words.strip(" ")) == (usual[0], usual[1].strip(" "))


def fuzz_parameters(data: bytes) -> None:
    """Parameters of MAIL, RCPT, XCLIENT and XFORWARD, and base64."""
    decode_base64(data)
    text = decode_line(data)
    if text is None:
        return
    with contextlib.suppress(ParamError):
        assert parse_mail_params(text, OFFERS.mail_words()).hold_for >= 0
    with contextlib.suppress(ParamError):
        parse_rcpt_params(text)
    for known in (XCLIENT, XFORWARD):
        for value in (parse_attributes(text, known) or {}).values():
            assert value is None or (value and value.isprintable())


def fuzz_macros(data: bytes) -> None:
    """Templates: only the operator writes them, but they must not hang."""
    with contextlib.suppress(ValueError):
        Template(data.decode("latin-1"), ("name", "empty")).expand({"name": "x"})


def _sessions() -> list[bytes]:
    """What clients say in the dialogue scripts, for each kind of session."""
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        script = read(path)
        said = b"".join(step for step in script.steps if isinstance(step, bytes))[:LONGEST]
        found += [bytes((number, 6)) + said for number in range(len(PROFILES))]
    return found


_PATHS = [
    b"<a@b.test>",
    b"<@c,@d:a@b> SIZE=1",
    b'"a b"@[IPv6:::1]',
    "<ü@ä.test> SMTPUTF8".encode(),
    b" <> BODY=8BITMIME",
    b"a@b",
]
_WORDS = [
    b"SIZE=10 BODY=BINARYMIME SMTPUTF8 RET=HDRS ENVID=a+2B",
    b"NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b",
    b"REQUIRETLS AUTH=<> BY=-10;NT HOLDFOR=10",
    b"HOLDUNTIL=2026-11-22T10:00:00Z BY=60;R",
    b"NAME=x.test ADDR=IPV6:2001:db8::1 PORT=25 PROTO=ESMTP HELO=[UNAVAILABLE] LOGIN=a+40b",
    b"NAME=x IDENT=1 SOURCE=LOCAL",
    b"bWU=",
]
_CONTENTS = [b"\x06a\r\n.\r\nb\r\n", b"\x03.\r\n..\r\n", b"\x01x\n.\ny", b"\x20" + b"x" * 90 + b"\r\n\0\xff"]

TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "core": (fuzz_core, _sessions),
    "content": (fuzz_content, lambda: _CONTENTS),
    "address": (fuzz_address, lambda: _PATHS),
    "parameters": (fuzz_parameters, lambda: _WORDS),
    "macros": (fuzz_macros, lambda: [b"${name?a}${empty:b}$$"]),
}
"""Name: the function, and what it begins with."""

WORDS = [
    b"\r\n", b".\r\n", b"\n.\n", b"\r", b"\n", b"\0", b" ", b"<", b">", b"@", b"=", b"+2B", b";", b"*\r\n",
    b"EHLO x\r\n", b"HELO x\r\n", b"LHLO x\r\n", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>\r\n", b"RCPT TO:<nobody@d>\r\n",
    b"DATA\r\n", b"BDAT ", b"BDAT 5\r\n", b"BDAT 0 LAST\r\n", b" LAST\r\n", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n",
    b"VRFY a@b\r\n", b"ETRN x.test\r\n", b"HELP\r\n", b"STARTTLS\r\n", b"AUTH PLAIN bWU=\r\n", b"AUTH LOGIN\r\n", b"bWU=\r\n",
    b"XCLIENT ADDR=192.0.2.1\r\n", b"XFORWARD NAME=x\r\n", b" BODY=BINARYMIME", b" SIZE=9", b" HOLDFOR=9", b" BY=9;R",
    b" REQUIRETLS", b" AUTH=<>", b" SMTPUTF8", b"${", b"?", b":", b"}",
]  # fmt: skip
"""What mutations put in; for atheris, its dictionary."""
