"""Compiles the path that every message takes, when a wheel is built with HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 (docs/compiled.md).

mypyc makes C of typed Python. The wheel has the compiled modules beside their sources, which Python falls back to where the
compiled ones do not fit. Nothing is left in the source tree: what lies there would be imported instead of what one edits.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SETUP = """
import os
from concurrent.futures import ThreadPoolExecutor
from mypyc.build import mypycify
from setuptools import setup
from setuptools.command.build_ext import build_ext


class Parallel(build_ext):
    def build_extensions(self):
        one = self.compiler.compile

        def compile(sources, *args, **kwargs):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return sum(pool.map(lambda source: one([source], *args, **kwargs), sources), [])

        self.compiler.compile = compile
        super().build_extensions()


modules = mypycify({arguments!r}, opt_level="3", debug_level="0", multi_file=True)
setup(name="mailflow", packages=[], ext_modules=modules, cmdclass=dict(build_ext=Parallel))
"""
"""The program that calls mypyc: a file of C for each module, as many at a time as there are processors."""


class Compiled(BuildHookInterface):
    """The build hook; its option `modules` says which."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, and puts what came of it into the wheel. Raises SystemExit with the compiler's words when it fails."""
        if version == "editable":
            return
        source = Path(self.root) / "src"
        folder = Path(tempfile.mkdtemp(prefix="mailflow-compile-"))
        try:
            shutil.copytree(
                source / "mailflow", folder / "mailflow", ignore=shutil.ignore_patterns("__pycache__", "*.so")
            )
            keep = folder.with_name(folder.name + "-out")
            keep.mkdir()
            for built in self.compile(folder):
                target = keep / built.relative_to(folder / "out")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(built, target)
                build_data["force_include"][str(target)] = str(target.relative_to(keep))
        finally:
            shutil.rmtree(folder)
        self.kept = keep
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes what is in the wheel now."""
        del build_data, artifact_path
        if version != "editable":
            shutil.rmtree(self.kept)

    def compile(self, folder: Path) -> list[Path]:
        """The libraries made of the sources in `folder`."""
        paths = [f"mailflow/{module}.py" for module in self.config["modules"]]
        for path in paths:
            (folder / path).write_text(for_mypyc((folder / path).read_text("utf-8")), "utf-8")
        arguments = [f"--config-file={self.root}/pyproject.toml", *paths]
        (folder / "setup.py").write_text(SETUP.format(arguments=arguments))
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", "out"]
        done = subprocess.run(  # noqa: S603
            command, check=False, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise SystemExit(f"mypyc failed:\n{done.stdout}")
        return sorted((folder / "out").rglob("*.so"))


def for_mypyc(source: str) -> str:
    """The source in a form of which mypyc makes more, with no line in another place than before. Raises SystemExit where it cannot."""
    lines, tree = source.split("\n"), ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (decorator := _dataclass(node)) is not None:
            _write_constructor(lines, node, decorator)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.lineno == node.end_lineno:
            _make_final(lines, node)
    begin = "from __future__ import annotations"
    if begin in lines:
        lines[lines.index(begin)] += "; from typing import Final"
    return "\n".join(lines)


# Constants. To mypyc a name of a module is to be looked up in a dict each time, unless it is Final.


def _make_final(lines: list[str], node: ast.Assign | ast.AnnAssign) -> None:
    at = node.lineno - 1
    if lines[at][node.end_col_offset :].lstrip()[:1] not in ("", "#"):
        return  # not alone on its line
    if isinstance(node, ast.AnnAssign):
        if _is_constant(node.target) and node.value is not None:
            kind, value = ast.unparse(node.annotation), ast.unparse(node.value)
            lines[at] = f"{ast.unparse(node.target)}: Final[{kind}] = {value}"
        return
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = list(zip(target.elts, value.elts, strict=True))
    else:
        pairs = [(target, value)]
    if len(node.targets) == 1 and all(_is_constant(name) for name, _ in pairs):
        lines[at] = "; ".join(f"{ast.unparse(name)}: {_final(value)} = {ast.unparse(value)}" for name, value in pairs)


def _is_constant(target: ast.expr) -> bool:
    """Whether that is the name of a constant: in capitals, and no type variable."""
    return isinstance(target, ast.Name) and target.id.isupper() and len(target.id) > 1


def _final(value: ast.expr) -> str:
    """Members of an Enum are of its type: of a constant that can be this one member only, mypy concludes more than is true
    (what was compared with it can be nothing else, also behind a call that changes it)."""
    if isinstance(value, ast.Attribute) and value.attr.isupper():
        owner = ast.unparse(value.value)
        if owner.lstrip("_")[0].isupper():
            return f"Final[{owner}]"
    return "Final"


# Dataclasses. mypyc leaves them the constructor that the standard library makes when the program starts, which is interpreted,
# sets each field by its name, and in a frozen one twice as slowly. That nobody changes a frozen one is what mypy has checked.


def _dataclass(node: ast.ClassDef) -> ast.Call | None:
    """Its decorator, where it is a dataclass without a parent, and with no options but those that are understood here."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "dataclass" and not node.bases:
            options = {ast.unparse(option) for option in decorator.keywords}
            return decorator if options <= {"frozen=True", "slots=True"} else None
    return None


def _write_constructor(lines: list[str], node: ast.ClassDef, decorator: ast.Call) -> None:
    constructor, behind = _constructor(node), node.end_lineno or 0
    if constructor is None:
        return
    if lines[behind]:
        raise SystemExit(f"no empty line behind class {node.name} for its constructor")
    lines[behind] = constructor
    frozen = any(option.arg == "frozen" for option in decorator.keywords)
    lines[decorator.lineno - 1] = f"@dataclass(init=False{', unsafe_hash=True' * frozen})"


def _constructor(node: ast.ClassDef) -> str | None:
    """In one line; None where the class has more to do when it is made."""
    parameters, steps = ["self"], []
    for field in node.body:
        if isinstance(field, ast.FunctionDef) and field.name in ("__init__", "__post_init__", "__hash__", "__eq__"):
            return None
        if isinstance(field, ast.AnnAssign):
            name, kind, value = ast.unparse(field.target), ast.unparse(field.annotation), field.value
            if any(word in kind for word in ("ClassVar", "InitVar", "KW_ONLY")):
                return None
            if not isinstance(value, ast.Call):
                parameters.append(f"{name}: {kind}" + (f" = {ast.unparse(value)}" if value is not None else ""))
                steps.append(f"self.{name} = {name}")
                continue
            options = {k.arg: ast.unparse(k.value) for k in value.keywords}
            if options.keys() == {"default_factory"} and not isinstance(field.annotation, ast.BinOp):
                parameters.append(f"{name}: {kind} | None = None")
                steps.append(f"self.{name} = ({options['default_factory']})() if {name} is None else {name}")
            elif options.keys() == {"default", "init"} and options["init"] == "False":
                steps.append(f"self.{name} = {options['default']}")
            else:
                return None
    return f"    def __init__({', '.join(parameters)}) -> None: {'; '.join(steps)}"
