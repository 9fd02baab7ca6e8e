"""Lines of keys: checked against what tomllib reads from the same text."""

import tomllib

import pytest

from mailflow.config.positions import KeyPath, format_key, positions

TEXT = """\
# comment with = and [brackets]
hostname = "mx.example.test"   # more
spool="var"
a.b . "c d" = 1

[relay]
networks = [
  "127.0.0.0/8", # one
  "[::1]/128",

  "10.0.0.0/8",
]
text = \"\"\"
[not.a.table]
key = 1 \\" \"\"\"
literal = '''
x = [
'''
when = 1979-05-27 07:32:00

[[listener]]
bind = "a:1"

[[listener]]
  bind = "b:2"
  [listener.inner]
  deep = { x = 1, y = [ {z = 2}, { z = 3, } ] , "q\\u0041" = 'it''s' }
  [[listener.more]]
  k = 1
  [[listener.more]]
  k = 2
[scheduler.transport.smtp]
slots = 5
empty = []
none = {}
last = [[1,2],[3]]""".replace("'it''s'", "'it is'").replace("{ z = 3, }", "{ z = 3 }")


def paths(value: object, path: KeyPath = ()) -> set[KeyPath]:
    found = {path} if path else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found |= paths(inner, (*path, key))
    return found


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_path_has_its_line(newline: str) -> None:
    text = TEXT.replace("\n", newline)
    found = positions(text)
    expected = paths(tomllib.loads(text))
    tables_without_header = {("listener",), ("listener", 1, "more"), ("scheduler",), ("scheduler", "transport")}
    assert set(found) == expected - tables_without_header
    lines = TEXT.split("\n")
    for path, line in found.items():
        key = next(p for p in reversed(path) if isinstance(p, str))
        if not isinstance(path[-1], int) and key != "qA":
            assert key in lines[line - 1], path


@pytest.mark.parametrize(
    ("path", "start"),
    [
        (("hostname",), "hostname"),
        (("relay", "networks", 2), '  "10.0.0.0/8"'),
        (("relay", "when"), "when"),
        (("listener", 0, "bind"), 'bind = "a:1"'),
        (("listener", 1), "[[listener]]"),
        (("listener", 1, "bind"), '  bind = "b:2"'),
        (("listener", 1, "inner", "deep", "y", 1, "z"), "  deep"),
        (("listener", 1, "inner", "deep", "qA"), "  deep"),
        (("listener", 1, "more", 1, "k"), "  k = 2"),
        (("scheduler", "transport", "smtp", "slots"), "slots"),
    ],
)
def test_lines(path: KeyPath, start: str) -> None:
    assert TEXT.split("\n")[positions(TEXT)[path] - 1].startswith(start)


def test_keys_are_written_as_in_toml() -> None:
    assert format_key(("listener", 0, "bind")) == "listener[0].bind"
    assert format_key(("scheduler", "transport", "a b", "x")) == 'scheduler.transport."a b".x'
    assert format_key(()) == ""


@pytest.mark.parametrize("text", ["", "\n\n", "# only", "a=1", 'a="""\n"""', "a=[\n]", "[a]", "a = {}", "a=[1,]"])
def test_short_texts(text: str) -> None:
    assert set(positions(text)) == paths(tomllib.loads(text))
