"""The kinds of tables, their files, and patterns that cannot run away."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from mailflow.errors import ConfigError
from mailflow.tables.kinds import Cidr, Exact, Patterns, read_entries
from mailflow.tables.opening import Tables
from mailflow.tables.patterns import Unbounded, compile_bounded
from mailflow.tables.settings import TableSettings
from mailflow.tables.table import KEY_CHARACTERS, TableError


def test_exact_knows_no_case_and_keeps_the_first():
    table = Exact([("Key", "one", 1), ("key", "two", 2)])
    assert table.get("KEY") == "one"
    assert table.get("other") is None


def test_cidr_takes_the_first_network():
    table = Cidr([("192.0.2.64/26", "inner", 1), ("192.0.2.0/24", "outer", 2), ("[2001:db8::]/32", "six", 3)])
    found = [table.get(key) for key in ("192.0.2.70", "192.0.2.1", "192.0.3.1", "2001:db8::9", "::ffff:192.0.2.1", "x")]
    assert found == ["inner", "outer", None, "six", "outer", None]
    with pytest.raises(TableError) as error:
        Cidr([("192.0.2.0/24", "", 1), ("192.0.2.1/24", "", 2)])
    assert error.value.line == 2


def test_patterns_take_the_first_that_is_found():
    table = Patterns([(r"^bulk-[0-9]+@", "REJECT", 1), (r"@example\.org$", "OK", 2)])
    assert [table.get(key) for key in ("BULK-7@example.org", "x@EXAMPLE.org", "x@example.com")] == [
        "REJECT",
        "OK",
        None,
    ]
    assert table.get("a" * KEY_CHARACTERS + "@example.org") is None


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*$",
        "([a-z]+.)+",
        r"(a)\1",
        "a.*b.*c.*d",
        ".*a.*b.*",
        "^.*a.*b.*c.*$",
        "(x+x+){2,}y",
        "(",
        "((ab)*)*",
        "(?:a{0,100}){0,100}",
        "^" + "a{0,60}" * 5,
        "(a?)*",
    ],
)
def test_patterns_that_could_take_too_long_are_refused(pattern):
    with pytest.raises(Unbounded):
        compile_bounded(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "^a.*b.*c.*$",
        "^a*a*a*b",
        "a*a*b",
        ".*.*b",
        "[a-z]+@[a-z]+",
        "^(dialup|dsl)-[0-9]{1,3}",
        "a{1,64}",
        "(?:foo)?bar",
    ],
)
def test_the_worst_of_those_allowed_ends_soon(pattern):
    compiled = compile_bounded(pattern)
    start = time.process_time()
    for key in ("a" * KEY_CHARACTERS, "abc" * (KEY_CHARACTERS // 3), "b" * (KEY_CHARACTERS - 1) + "c"):
        compiled.search(key)
    assert time.process_time() - start < 1.0


def test_files():
    text = "# remark\n\nexample.org   OK  and more\nkey\n"
    assert list(read_entries("text", text)) == [("example.org", "OK  and more", 3), ("key", "", 4)]
    assert list(read_entries("regexp", "/a b$/  REJECT no\n/x/\n")) == [("a b$", "REJECT no", 1), ("x", "", 2)]
    with pytest.raises(TableError):
        list(read_entries("regexp", "naked OK\n"))


def opened(tmp_path, text, kind="text"):
    file = tmp_path / "table"
    file.write_text(text)
    return file, Tables({"t": TableSettings(type=kind, file=file)})


def replace(file, text):
    other = file.with_suffix(".new")
    other.write_text(text)
    os.replace(other, file)


def test_a_changed_file_is_read_again(tmp_path):
    file, tables = opened(tmp_path, "a 1\n")
    table, warnings = tables["t"], []
    assert tables.change
    replace(file, "a 2\n")
    asyncio.run(tables.refresh(warnings.append))
    assert table.get("a") == "2"
    assert warnings == []


def test_a_file_that_cannot_be_used_leaves_the_old_entries(tmp_path):
    file, tables = opened(tmp_path, "192.0.2.0/24 OK\n", "cidr")
    warnings: list[str] = []
    replace(file, "192.0.2.0/24 OK\nnonsense REJECT\n")
    asyncio.run(tables.refresh(warnings.append))
    asyncio.run(tables.refresh(warnings.append))
    assert len(warnings) == 1  # said once, not at every look
    assert f"{file}:2" in warnings[0]
    assert tables["t"].get("192.0.2.1") == "OK"
    file.unlink()
    asyncio.run(tables.refresh(warnings.append))
    asyncio.run(tables.refresh(warnings.append))
    assert len(warnings) == 2
    assert tables["t"].get("192.0.2.1") == "OK"


def test_mistakes_name_file_and_line(tmp_path):
    file = tmp_path / "bad"
    file.write_text("/ok/ OK\n/(a+)+/ REJECT\n")
    with pytest.raises(ConfigError) as error:
        Tables({"bad": TableSettings(type="regexp", file=file), "inline": TableSettings(entries={"a": "b"})})
    (problem,) = error.value.problems
    assert (problem.file, problem.line) == (str(file), 2)


@pytest.mark.parametrize(
    "values", [{"type": "text"}, {"type": "inline", "file": "x"}, {"type": "cidr", "file": "x", "entries": {"a": "b"}}]
)
def test_a_table_has_one_source(values):
    with pytest.raises(ValueError, match=r"accepted|table"):
        TableSettings.model_validate(values)
