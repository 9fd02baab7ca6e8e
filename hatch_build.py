"""Compiles the path that every message takes, when a wheel is built with HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 (docs/compiled.md).

mypyc makes C of typed Python. The wheel has the compiled modules beside their sources, which Python falls back to where the
compiled ones do not fit. Nothing is left in the source tree: what lies there would be imported instead of what one edits.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SETUP = """
from mypyc.build import mypycify
from setuptools import setup

setup(name="mailflow", packages=[], ext_modules=mypycify({arguments!r}, opt_level="3", debug_level="0"))
"""


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
        arguments = [f"--config-file={self.root}/pyproject.toml", *paths]
        (folder / "setup.py").write_text(SETUP.format(arguments=arguments))
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", "out"]
        done = subprocess.run(  # noqa: S603
            command, check=False, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise SystemExit(f"mypyc failed:\n{done.stdout}")
        return sorted((folder / "out").rglob("*.so"))
