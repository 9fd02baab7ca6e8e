"""How the compiled form is made (docs/compiled.md): what mypyc is given does the same as the source: the same lines, the same constants, the same constructors."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
MODULES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]["custom"]["modules"]


def _load(name: str, path: Path | None, source: str) -> ModuleType:
    """A module made of a source."""
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


hatch_build = _load("hatch_build", ROOT / "hatch_build.py", (ROOT / "hatch_build.py").read_text())

SOURCE = '''\
from __future__ import annotations
from dataclasses import dataclass, field
from enum import Enum

class LightColour(Enum):
    RED = 1
    BLUE = 2

LIMIT = 3
"""How many."""
NAMES: dict[str, int] = {"a": 1}
_RED, _BLUE = LightColour.RED, LightColour.BLUE
lower = 4

@dataclass(frozen=True, slots=True)
class Fixed:
    """Does not change."""
    name: str
    size: int = LIMIT
    """Bytes."""

    def double(self) -> int:
        return 2 * self.size

@dataclass(slots=True)
class Open:
    name: str
    parts: list[int] = field(default_factory=list)
    seen: bool = field(default=False, init=False)

@dataclass(slots=True)
class Checked:
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError

'''


def test_constructors_are_written_out_and_do_what_they_did() -> None:
    before, after = _load("before", None, SOURCE), _load("after", None, hatch_build.for_mypyc(SOURCE))
    for name in ("Fixed", "Open"):
        assert "__init__" in hatch_build.for_mypyc(SOURCE).split(f"class {name}")[1].split("\nclass")[0]
        assert getattr(after, name).__init__.__code__.co_filename == "None", "not made by the standard library"
    for module in (before, after):
        assert module.Fixed("a").double() == 6
        assert module.Fixed("a", 2) == module.Fixed("a", size=2) != module.Fixed("a")
        assert hash(module.Fixed("a")) == hash(module.Fixed("a"))
        assert repr(module.Fixed("a")) == "Fixed(name='a', size=3)"
        one, other = module.Open("a"), module.Open("b", [1])
        assert (one.parts, other.parts, one.seen) == ([], [1], False)
        assert one.parts is not module.Open("a").parts, "a list for each"
        with pytest.raises(TypeError):
            module.Open("a", [1], True)
        with pytest.raises(ValueError):
            module.Checked(-1)


def test_constants_are_final_and_members_keep_the_type_of_their_enum() -> None:
    lines = hatch_build.for_mypyc(SOURCE).split("\n")
    assert "LIMIT: Final = 3" in lines
    assert "NAMES: Final[dict[str, int]] = {'a': 1}" in lines
    assert "_RED: Final[LightColour] = LightColour.RED; _BLUE: Final[LightColour] = LightColour.BLUE" in lines
    assert "lower = 4" in lines


def test_a_class_with_no_room_for_its_constructor_is_told() -> None:
    with pytest.raises(SystemExit, match="class A"):
        hatch_build.for_mypyc("@dataclass(slots=True)\nclass A:\n    x: int\nB = 1\n")


@pytest.mark.interpreted("compiled classes have no signatures")
@pytest.mark.parametrize("module", MODULES)
def test_every_compiled_module_keeps_its_lines_and_its_names(module: str) -> None:
    """A traceback names the same line in both forms."""
    path = ROOT / f"src/mailflow/{module}.py"
    source = path.read_text()
    made = hatch_build.for_mypyc(source)
    assert len(made.split("\n")) == len(source.split("\n"))
    name = f"mailflow.{module.replace('/', '.')}"
    before, after = importlib.import_module(name), _load(f"{name}_for_mypyc", path, made)
    assert vars(before).keys() - vars(after).keys() <= {"__file__", "__cached__", "__builtins__"}
    for key, thing in vars(after).items():
        if inspect.isclass(thing) and thing.__module__ == after.__name__:
            old = inspect.signature(getattr(before, key).__init__).parameters
            assert list(inspect.signature(thing.__init__).parameters) == list(old), key
