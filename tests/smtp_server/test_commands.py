"""Parameters of MAIL and RCPT: RFC 1870, 2852, 3030, 3461, 4865, 4954, 6152, 6531, 8689."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.commands import (
    NO_MAIL_PARAMS,
    NO_RCPT_PARAMS,
    MailParams,
    RcptParams,
    decode_line,
    parse_mail_params,
    parse_rcpt_params,
)
from mailflow.smtp.param_values import ParamError
from mailflow.smtp.profile import Offers


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("", NO_MAIL_PARAMS),
        ("SIZE=1000", MailParams(size=1000)),
        ("size=0", MailParams(size=0)),
        ("SIZE=99999999999999999999", MailParams(size=99999999999999999999)),
        ("BODY=8bitmime", MailParams(body="8BITMIME")),
        ("SIZE=1  BODY=7BIT", MailParams(size=1, body="7BIT")),
        ("SMTPUTF8 BODY=8BITMIME", MailParams(body="8BITMIME", smtputf8=True)),
        ("RET=full ENVID=a+2Bb", MailParams(ret="FULL", envid="a+2Bb")),
        ("ENVID=" + "e" * 100, MailParams(envid="e" * 100)),
    ],
)
def test_mail_parameters(text: str, params: MailParams) -> None:
    assert parse_mail_params(text) == params


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("", NO_RCPT_PARAMS),
        ("NOTIFY=never", RcptParams(notify="NEVER")),
        ("NOTIFY=success,DELAY", RcptParams(notify="SUCCESS,DELAY")),
        ("ORCPT=rfc822;bob+3Dx@example.test", RcptParams(orcpt="rfc822;bob+3Dx@example.test")),
        ("ORCPT=utf-8;jürgen@example.test NOTIFY=FAILURE", RcptParams("FAILURE", "utf-8;jürgen@example.test")),
        ("ORCPT=utf-8;j\\x{FC}rgen@example.test", RcptParams(orcpt="utf-8;j\\x{FC}rgen@example.test")),
    ],
)
def test_rcpt_parameters(text: str, params: RcptParams) -> None:
    assert parse_rcpt_params(text) == params


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("FOO", 555),
        ("FOO=bar", 555),
        ("AUTH=<>", 555),
        ("NOTIFY=NEVER", 555),
        ("=", 501),
        ("=5", 501),
        ("S*ZE=5", 501),
        ("SIZE", 501),
        ("SIZE=", 501),
        ("SIZE=-1", 501),
        ("SIZE=1e9", 501),
        ("SIZE=\u0661", 501),
        ("SIZE=" + "9" * 21, 501),
        ("SIZE=1 SIZE=1", 501),
        ("BODY=BINARYMIME", 501),
        ("SMTPUTF8=yes", 501),
        ("RET=ALL", 501),
        ("ENVID=a+2", 501),
        ("ENVID=a+2b", 501),
        ("ENVID=a=b", 501),
        ("ENVID=ü", 501),
        ("ENVID=" + "e" * 101, 501),
    ],
)
def test_bad_mail_parameters(text: str, code: int) -> None:
    with pytest.raises(ParamError) as error:
        parse_mail_params(text)
    assert (error.value.reply.code, error.value.reply.status) == (code, "5.5.4")


@pytest.mark.parametrize(
    "text",
    [
        "NOTIFY=",
        "NOTIFY=NEVER,SUCCESS",
        "NOTIFY=SUCCESS,SUCCESS",
        "NOTIFY=,",
        "NOTIFY=ALWAYS",
        "ORCPT=bob@example.test",
        "ORCPT=;bob@example.test",
        "ORCPT=rfc822;",
        "ORCPT=rfc822;a=b",
        "ORCPT=rfc822;jürgen@example.test",
        "ORCPT=rfc822;" + "a" * 494,
        "ORCPT=rfc822;a ORCPT=rfc822;b",
    ],
)
def test_bad_rcpt_parameters(text: str) -> None:
    with pytest.raises(ParamError) as error:
        parse_rcpt_params(text)
    assert (error.value.reply.code, error.value.reply.status) == (501, "5.5.4")


@given(st.text(max_size=600))
def test_any_text_is_parameters_or_an_error(text: str) -> None:
    for parse in (parse_mail_params, parse_rcpt_params):
        try:
            parse(text)
        except ParamError:
            continue
        assert text.strip(" ") == "" or any(
            k in text.upper() for k in ("SIZE", "BODY", "UTF8", "RET", "ENVID", "NOTIFY", "ORCPT")
        )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"NOOP", "NOOP"),
        ("VRFY jürgen".encode(), "VRFY jürgen"),
        (b"NOOP \x00", None),
        (b"NOOP\r", None),
        (b"NO\nOP", None),
        (b"NOOP\tx", None),
        (b"NOOP \x7f", None),
        (b"NOOP \xff", None),
        (b"NOOP \xc2\x85", None),
        (b"NOOP \xed\xa0\x80", None),
        ("NOOP \U0001fae9\u200b".encode(), "NOOP \U0001fae9\u200b"),
    ],
)
def test_lines_become_text(line: bytes, text: str | None) -> None:
    assert decode_line(line) == text


ALL = Offers(binarymime=True, mechanisms=("PLAIN",), requiretls=True, hold=True, deliver_by=60).mail_words()


@pytest.mark.parametrize(
    ("words", "params"),
    [
        ("BODY=binarymime", MailParams(body="BINARYMIME")),
        ("REQUIRETLS", MailParams(requiretls=True)),
        ("AUTH=<>", MailParams(auth="<>")),
        ("AUTH=e+3Dmc2@example.com", MailParams(auth="e+3Dmc2@example.com")),
        ("HOLDFOR=1", MailParams(hold_for=1)),
        ("HOLDUNTIL=2026-11-22T10:00:00Z", MailParams(hold_until=1795341600.0)),
        ("HOLDUNTIL=2026-11-22t12:00:00.5+02:00", MailParams(hold_until=1795341600.5)),
        ("BY=60;R", MailParams(by=(60, "R"))),
        ("by=+120;rt", MailParams(by=(120, "RT"))),
        ("BY=-10;N", MailParams(by=(-10, "N"))),
        ("BY=0;NT", MailParams(by=(0, "NT"))),
        ("SIZE=1 BY=60;R HOLDFOR=2 REQUIRETLS", MailParams(1, by=(60, "R"), hold_for=2, requiretls=True)),
    ],
)
def test_parameters_of_extensions(words, params):
    assert parse_mail_params(words, ALL) == params
    with pytest.raises(ParamError) as caught:
        parse_mail_params(words)
    assert caught.value.reply.code in (501, 555)


@pytest.mark.parametrize(
    "words",
    [
        "REQUIRETLS=yes",
        "AUTH",
        "AUTH=",
        "AUTH=a+2",
        "AUTH=" + "x" * 501,
        "HOLDFOR=0",
        "HOLDFOR=-1",
        "HOLDFOR=1.5",
        "HOLDFOR=1234567890",
        "HOLDFOR=²",
        "HOLDUNTIL=tomorrow",
        "HOLDUNTIL=2026-11-22",
        "HOLDUNTIL=2026-11-22T10:00:00",
        "HOLDUNTIL=2026-13-22T10:00:00Z",
        "HOLDUNTIL=0000-01-01T00:00:00Z",
        "HOLDUNTIL=0001-01-01T00:00:00+14:00",
        "HOLDUNTIL=9999-12-31T23:59:59-14:00",
        "BY=60",
        "BY=60;X",
        "BY=;R",
        "BY=1234567890;R",
        "BY=60;RTT",
        "BY=60;R BY=61;R",
    ],
)
def test_malformed_parameters_of_extensions(words):
    with pytest.raises(ParamError) as caught:
        parse_mail_params(words, ALL)
    assert caught.value.reply.code == 501


@pytest.mark.parametrize("words", ["BY=59;R", "BY=0;R", "BY=-1;RT"])
def test_a_return_time_may_not_be_too_soon(words):
    with pytest.raises(ParamError) as caught:
        parse_mail_params(words, ALL)
    assert caught.value.reply.code == 555


@given(st.text(max_size=60))
def test_any_text_behind_mail_is_read_or_refused(text):
    for words in (text, "HOLDUNTIL=" + text, "BY=" + text, "AUTH=" + text):
        with contextlib.suppress(ParamError):
            assert len(parse_mail_params(words, ALL)) == 10
