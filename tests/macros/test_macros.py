"""Texts with macros, and the greeting that is made of one."""

from __future__ import annotations

import importlib.metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.ingress.greeting import greeting
from mailflow.ingress.settings import ProtocolSettings
from mailflow.macros import DEPTH, Template

VALUES = {"name": "mx", "empty": "", "other": "o"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", ""),
        ("plain", "plain"),
        ("${name}", "mx"),
        ("a${name}b${other}c", "amxboc"),
        ("${empty}", ""),
        ("${missing}", ""),
        ("${name?yes}", "yes"),
        ("${empty?yes}", ""),
        ("${name:no}", ""),
        ("${empty:no}", "no"),
        ("${missing:none}", "none"),
        ("${name? (${name}${empty:, bare})}", " (mx, bare)"),
        ("${empty:${name?a}${name:b}}c", "ac"),
        ("$$ ${name?$$5}", "$ $5"),
        ("two\nlines", "two\nlines"),
        ("${name?}", ""),
    ],
)
def test_expansion(text, result):
    assert Template(text, ["name", "empty", "other", "missing"]).expand(VALUES) == result


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("${name", "not closed|by itself"),
        ("${name?x", "not closed"),
        ("$name", "by itself"),
        ("cost: $", "by itself"),
        ("${Name}", "by itself"),
        ("${}", "by itself"),
        ("${who}", "not known here .accepted: name"),
        ("a}", "without"),
        ("${name?a}}", "without"),
        ("${name?" * (DEPTH + 1) + "}" * (DEPTH + 1), "more than"),
    ],
)
def test_what_is_no_template(text, why):
    with pytest.raises(ValueError, match=why):
        Template(text, ["name"])


@given(
    st.lists(st.sampled_from(["${name}", "${name?", "${empty:", "}", "$$", "$", "x", "\n", "${"]), max_size=20).map(
        "".join
    )
)
def test_any_text_is_a_template_or_refused(text):
    try:
        template = Template(text, VALUES)
    except ValueError:
        return
    for values in (VALUES, {}):
        assert "$$" in text or "$" not in template.expand(values)


@given(st.text(max_size=30).filter(lambda t: "$" not in t and "}" not in t))
def test_plain_text_stays(text):
    assert Template(text, []).expand({}) == text


WHO = {"hostname": "mx.test", "protocol": "ESMTP", "service": "smtp"}


@pytest.mark.parametrize(
    ("banner", "lines"),
    [
        (ProtocolSettings().banner, ["mx.test ESMTP mailflow"]),
        (
            "${hostname} ${protocol}\nNo spam, please${service? on ${service}}",
            ["mx.test ESMTP", "No spam, please on smtp"],
        ),
        ("${hostname}", ["mx.test"]),
        ("${hostname} ${version}", ["mx.test " + importlib.metadata.version("mailflow")]),
    ],
)
def test_greeting(banner, lines):
    assert ProtocolSettings(banner=banner).banner == banner
    assert greeting(banner, WHO) == lines


@pytest.mark.parametrize(
    "banner",
    [
        "",
        "ESMTP",
        "x ${hostname}",
        "${hostname}x",
        "${hostname} ü",
        "${hostname} \t",
        "${hostname} ${x}",
        "${hostname}\n" * 30,
        "${hostname} " + "x" * 600,
    ],
)
def test_what_is_no_greeting(banner):
    with pytest.raises(ValueError, match="banner"):
        ProtocolSettings(banner=banner)


def test_the_version_is_not_told_by_default():
    assert importlib.metadata.version("mailflow") not in " ".join(greeting(ProtocolSettings().banner, WHO))
