"""The server's place, found without the settings: it is what the settings say, or it is left to them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.cli.place import VALUES, Doubt, Place, find_place
from mailflow.config.texts import is_section, plain
from mailflow.errors import ConfigError
from mailflow.settings import Settings
from tests.support.loading import HEAVY, run_loading
from tests.support.server import environment, to_toml

BASE = 'hostname = "mx.example.test"\n'
PLACES = ("var/spool", "one", "two/three")
"""Where there are queues."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_queues(tmp_path)
    return tmp_path


def make_queues(folder: Path) -> None:
    for name in PLACES:
        (folder / name).mkdir(parents=True)
        (folder / name / "queue.db").touch()


def find(folder: Path, text: str = "", variables: dict[str, str] | None = None, overrides: Sequence[str] = ()) -> Place:
    file = folder / "mailflow.toml"
    file.write_text(BASE + text)
    return find_place(file, variables or {}, overrides)


def of_settings(settings: Settings) -> Place:
    return Place(settings.spool, settings.control_socket if settings.control.enabled else None)


def test_the_names_at_the_top_level_are_those_of_the_settings() -> None:
    kinds = {name: plain(info.annotation) for name, info in Settings.model_fields.items()}
    assert set(VALUES) == {
        name for name, kind in kinds.items() if not is_section(kind) and get_origin(kind) not in (list, dict)
    }


@pytest.mark.parametrize(
    ("text", "variables", "overrides", "spool", "control"),
    [
        ("", {}, [], "var/spool", "var/spool/control.sock"),
        ('spool = "one"', {}, [], "one", "one/control.sock"),
        ('spool = "x"\n[control]\nsocket = "../c.sock"', {"MAILFLOW_SPOOL": "one"}, [], "one", "../c.sock"),
        ("", {"MAILFLOW_SPOOL": "one"}, ["spool=two", "spool = two/three"], "two/three", "two/three/control.sock"),
        ("", {"MAILFLOW_CONTROL__SOCKET": "c"}, [], "var/spool", "c"),
        ("", {"MAILFLOW_CONTROL__SOCKET": "c"}, ["control.socket=d"], "var/spool", "d"),
        ("control.enabled = false", {"MAILFLOW_HOSTNAME": "a.test", "HOME": "/"}, [], "var/spool", None),
        # Mistakes elsewhere are no hindrance.
        ('spool = "one"\nspol = 5\n[relay]\nspool = 1\nhots = "x"', {"MAILFLOW_X": ""}, [], "one", "one/control.sock"),
        ("[relay]\nhots = 1", {"MAILFLOW_RELAY__HOTS": "", "MAILFLOW_X__Y_FILE": "/x"}, [], "var/spool", "var/spool/control.sock"),
    ],
)  # fmt: skip
def test_found(
    folder: Path, text: str, variables: dict[str, str], overrides: list[str], spool: str, control: str | None
) -> None:
    expected = Place(folder / spool, Path(os.path.normpath(folder / control)) if control else None)
    assert find(folder, text, variables, overrides) == expected


@pytest.mark.parametrize(
    ("text", "variables", "overrides"),
    [
        ("spool = 5", {}, []),
        ('spool = ""', {}, []),
        ('spool = "nowhere"', {}, []),
        ('spool = "mailflow.toml"', {}, []),
        (r'spool = "one\u0000"', {}, []),
        ("[spool]\npath = 1", {}, []),
        ("[control]\nenabled = 1", {}, []),
        ("[control]\nsocket = 1", {}, []),
        (f'[control]\nsocket = "{"x" * 120}"', {}, []),
        ("control = 1", {}, []),
        ("no TOML", {}, []),
        ("spool = [" * 10_000, {}, []),
        # Nobody says where the spool is, and there is something that might have been meant to.
        ('spol = "one"', {}, []),
        ('[relay]\nspool = "one"', {}, []),
        ('[[route]]\nspool = "one"', {}, []),
        ("", {"MAILFLOW_SPOL": "one"}, []),
        ("", {"MAILFLOW_RELAY__SPOOL": "one"}, []),
        # What the settings' types have to say how to read.
        ('spool = "one"', {"MAILFLOW_SPOOL": ""}, []),
        ('spool = "one"', {"MAILFLOW_SPOOL_FILE": "name"}, []),
        ('spool = "one"', {"MAILFLOW_SPOOL__X": "two"}, []),
        ("", {"MAILFLOW_CONTROL": '{"socket": "c"}'}, []),
        ("", {"MAILFLOW_CONTROL__SOCKET_FILE": "name"}, []),
        ("", {"MAILFLOW_CONTROL__ENABLED": "no"}, []),
        ("", {}, ["control.socket="]),
        ("", {}, ["spool"]),
        ("", {}, ["spol=one"]),
        ("", {}, ["control.enabled=false"]),
        ("", {}, ["log.level=debug"]),
    ],
)
def test_left_to_the_settings(folder: Path, text: str, variables: dict[str, str], overrides: list[str]) -> None:
    with pytest.raises(Doubt):
        find(folder, text, variables, overrides)


def test_left_to_the_settings_when_the_file_cannot_be_read(folder: Path) -> None:
    for file in (folder / "none", folder):
        with pytest.raises(Doubt):
            find_place(file, {}, ["spool=one"])
    (folder / "mailflow.toml").write_bytes(b"# \xff\nspool = 'one'\n")
    with pytest.raises(Doubt):
        find_place(folder / "mailflow.toml", {}, [])


def test_without_a_file_paths_begin_at_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_place(None, {}, []) == of_settings(Settings.load(None, environment={"MAILFLOW_HOSTNAME": "mx.test"}))
    assert find_place(None, {"MAILFLOW_SPOOL": "one"}, []).spool == folder / "one"


WORDS = st.sampled_from(
    [*PLACES, "", "nowhere", "true", "false", "./one/../two/three", "x" * 120, "{}", '{"socket": "s"}', 0, True]
)
KEYS = st.sampled_from(["spool", "control", "control.socket", "control.enabled", "control.sockte", "spol", "relay.spool", "log.level", "hostname"])  # fmt: skip
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "spool": WORDS,
        "spol": WORDS,
        "control": st.fixed_dictionaries({}, optional={"socket": WORDS, "enabled": WORDS}) | WORDS,
        "relay": st.fixed_dictionaries({}, optional={"spool": WORDS, "host": st.just("[192.0.2.1]:25")}),
        "log": st.sampled_from([{"level": "info"}, {"level": 5}]),
    },
)


@given(
    PARTS,
    st.dictionaries(st.tuples(KEYS, st.sampled_from(["", "_FILE"])), WORDS.map(str), max_size=2),
    st.lists(st.tuples(KEYS, st.sampled_from(["=", " = ", ""]), WORDS.map(str)).map("".join), max_size=2),
)
def test_what_is_found_is_what_the_settings_say(
    tree: dict[str, Any], variables: dict[tuple[str, str], str], overrides: list[str]
) -> None:
    named = {f"MAILFLOW_{key.upper().replace('.', '__')}{end}": text for (key, end), text in variables.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        make_queues(folder)
        file = folder / "mailflow.toml"
        file.write_text(BASE + to_toml(tree))
        try:
            found = find_place(file, named, overrides)
        except Doubt:
            return
        try:
            assert found == of_settings(Settings.load(file, environment=named, overrides=overrides))
        except ConfigError as error:
            for problem in error.problems:
                about = problem.key or problem.file.removeprefix("environment variable MAILFLOW_").lower()
                assert about not in ("spool", "control", "control.socket", "control.enabled")
                assert problem.file != "command line"


@pytest.mark.parametrize("spool", ['spool = "elsewhere"\n', ""])
def test_commands_about_the_queue_load_no_settings(tmp_path: Path, spool: str) -> None:
    config = tmp_path / "mailflow.toml"
    config.write_text(BASE + spool + '[[listener]]\nbind = "127.0.0.1:0"\n')
    subprocess.run(
        [sys.executable, "-m", "mailflow", "--config", str(config), "-q", "send", "a@example.test"],
        env=environment(),
        input=b"Subject: x\n\nx\n",
        check=True,
    )
    for words in (
        ["queue", "list"],
        ["queue", "list", "--json", "--older", "0s", "--smaller", "1MiB", "--destination", "smtp:*"],
        ["queue", "count"],
        ["queue", "count", "--by", "recipient-domain"],
        ["queue", "check"],
    ):
        loaded, out = run_loading(config, *words)
        assert out
        assert loaded & HEAVY == set(), words
    number = json.loads(run_loading(config, "queue", "list", "--json")[1])["id"]
    assert run_loading(config, "queue", "show", number)[0] & HEAVY == set()
    assert run_loading(config, "queue", "show", number, "--content")[0] & HEAVY == set()
